"""Cut the sample of the demo anew: `python -m bench.cut_sample SOURCE TARGET`.

SOURCE is a folder of real embeddings with payloads, as `bench.data` reads it. Which rows and which query sentences
belong to the sample was chosen once, by reading, and stands in the sample itself (`rows.jsonl.gz`, `queries.json`);
this takes their vectors from SOURCE and writes the same files into TARGET, so that anyone can see where they come
from. Only rows from WordNet may be redistributed, and no others are accepted.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

from bench.data import SAMPLE


def main() -> None:
    """Read SOURCE, write TARGET."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    source, target = options.source, options.target

    with gzip.open(source / "payloads.jsonl.gz", "rt") as file:
        rows = {row["id"]: (number, row) for number, row in enumerate(map(json.loads, file))}
    with gzip.open(SAMPLE / "rows.jsonl.gz", "rt") as file:
        chosen = [rows[json.loads(line)["id"]] for line in file]
    if any(row["source"] != "wordnet" for _, row in chosen):
        raise SystemExit("only rows from WordNet may be shipped")
    sentences = json.loads((source / "queries.json").read_text())
    queries = json.loads((SAMPLE / "queries.json").read_text())
    query_numbers = [sentences.index(sentence) for sentence in queries]

    target.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({key: row[key] for key in row if key != "source"}, ensure_ascii=False) for _, row in chosen]
    with gzip.GzipFile(target / "rows.jsonl.gz", "wb", mtime=0) as packed:
        packed.write(("\n".join(lines) + "\n").encode())
    (target / "queries.json").write_text(json.dumps(queries, indent=0, ensure_ascii=False) + "\n")
    np.save(target / "vectors.f16.npy", np.load(source / "vectors.f16.npy")[[number for number, _ in chosen]])
    np.save(target / "queries.f16.npy", np.load(source / "queries.f16.npy")[query_numbers])
    print(f"{len(chosen)} rows and {len(queries)} queries in {target}")


if __name__ == "__main__":
    main()
