"""A collection in little memory: lists of bits whose codes lie in files (`IVF(resident=False)`).

A child inserts rows from a file, 2.5 MB a call, waits until all are in lists, searches, closes, opens again and
searches again. From where everything is imported and compiled, and each kind of call was made once, its data may grow
by a quarter of the raw vectors. RLIMIT_DATA sees to that. It counts all that is anonymous, whether touched or not: so
also the stacks of threads, 8 MB each, of which the collection starts one, and the part of malloc's arenas that was in
use once. The files of codes are shared mappings, which no limit of a process counts. What of them is in RAM is looked
at every 50 ms instead, and added to the anonymous memory of that moment. The rows in data.mdb are the system's cache.

Printed: time, the largest anonymous memory, the largest sum of that and of the codes in RAM; recall@10 against an exact
search.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.datasets import clusters, nearest

CHILD = """
import json, resource, sys, threading, time
import numpy as np
import vecstore

folder, n, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
vectors, queries = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("rows", "queries"))
index, codes = vecstore.IVF(resident=False), vecstore.Binary()

def figure(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

def of_codes():
    size, counts = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            counts = ".vecstore-" in line or "(deleted)" in line
        elif counts and line.startswith("Pss:"):
            size += int(line.split()[1]) * 1024
    return size

def create(path, count):
    db = vecstore.open(path)
    docs = db.create_collection("docs", vectors.shape[1], index=index, quantization=codes)
    batch = 2_500_000 // vectors[0].nbytes
    for first in range(0, count, batch):
        some = np.array(vectors[first : min(first + batch, count)])
        docs.insert(range(first, first + len(some)), some)
    docs.wait_indexed()
    filed = time.perf_counter()
    while docs._index.uneven:  # lists are split after their rows can be found in them
        time.sleep(0.05)
    return db, docs, filed

def answers(docs):
    return {probes: [[hit.id for hit in hits] for hits in docs.search(np.array(queries), 10, nprobe=probes)]
            for probes in (32, 128)}

peaks, done = [0, 0, 0, 0], threading.Event()

def watch():
    while not done.wait(0.05):
        now = figure("RssAnon"), of_codes(), figure("VmData")
        for i, size in enumerate((*now, now[0] + now[1])):
            peaks[i] = max(peaks[i], size)

threading.Thread(target=watch, daemon=True).start()
db, docs, _ = create(f"{folder}/warm", 12_000)
answers(docs)
db.close()
with vecstore.open(f"{folder}/warm") as db:
    db.get_collection("docs").search(queries[0])
base = figure("VmData"), figure("RssAnon")
resource.setrlimit(resource.RLIMIT_DATA, (base[0] + limit, base[0] + limit))
peaks[:] = [0, 0, 0, 0]
started = time.perf_counter()
db, docs, filed = create(f"{folder}/db", n)
filed, built = filed - started, time.perf_counter() - started
found, stats = [answers(docs)], docs.stats()
db.close()
db = docs = None  # and with them the codes
started = time.perf_counter()
with vecstore.open(f"{folder}/db") as db:
    docs = db.get_collection("docs")
    docs.search(queries[0])
    opened = time.perf_counter() - started
    found.append(answers(docs))
    held = [docs.get(one, with_vectors=True).vector.tolist() == vectors[one].tolist() for one in range(0, n, n // 50)]
    own = [docs.search(vectors[one], 1)[0].id == one for one in range(0, n, n // 200)]
done.set()
print(json.dumps({
    "built": built, "filed": filed, "opened": opened, "found": found, "base": base[1],
    "anonymous": peaks[0], "codes": peaks[1],
    "data": peaks[2] - base[0], "both": peaks[3], "linked": stats.linked, "lists": stats.lists,
    "index_bytes": stats.index_bytes, "code_bytes": stats.code_bytes, "error": stats.index_error,
    "held": all(held), "own": sum(own) / len(own),
}))
"""


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.25, help="of the raw vectors that memory may grow by")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        measured(Path(scratch), options.rows, options.dim, options.share)


def measured(folder: Path, n: int, dim: int, share: float) -> None:
    """Make the rows, run the child, and print what it tells."""
    raw = 4 * n * dim
    vectors, queries = clusters(n, 100, dim, seed=(n, dim))
    truth = nearest(vectors, queries, 10, "cosine")
    np.save(folder / "rows.npy", vectors)
    np.save(folder / "queries.npy", queries)
    del vectors
    limit = int(share * raw)
    child = [sys.executable, "-c", CHILD, str(folder), str(n), str(limit)]
    told = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"{n:,} rows x {dim}: {mb(raw)} raw, of which {mb(limit)} may be taken beside {mb(told['base'])} at the start"
    )
    print(
        f"from rows to lists {told['filed']:.1f} s, until none was to be split {told['built']:.1f} s; opened and "
        f"answered {told['opened']:.2f} s; {told['lists']} lists; errors: {told['error']}"
    )
    print(
        f"anonymous at the most {mb(told['anonymous'] - told['base'])} more ({mb(told['data'])} with what is not "
        f"touched); with the codes in RAM {mb(told['both'] - told['base'])}; of codes {mb(told['code_bytes'])} at the "
        f"most {mb(told['codes'])}; the rest of the index {mb(told['index_bytes'])}"
    )
    for name, found in zip(("built", "opened"), told["found"], strict=True):
        for probes, ids in found.items():
            right = [len(set(some) & set(best)) for some, best in zip(ids, truth.tolist(), strict=True)]
            print(f"{name}: recall@10 {sum(right) / 1000:.3f} at nprobe {probes}")
    print(
        f"all in lists: {told['linked'] == n}; bit by bit: {told['held']}; rows that find themselves: {told['own']:.3f}"
    )


def mb(size: float) -> str:
    """Bytes, readable."""
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
