"""A machine that goes down: what its disk may hold then, and a database of that."""

import numpy as np

import vecstore
from vecstore.storage import recovery

DIM = 16
PAGE = 4096


def folder_of(path):
    return path / "collections" / "docs"


def synced(path):
    return folder_of(path) / "data.mdb-synced"


def vector(n):
    return np.random.default_rng(n).standard_normal(DIM).astype(np.float32)


def another_boot(monkeypatch, name="another"):
    monkeypatch.setattr(recovery, "boot_id", lambda: name)


class Disk:
    """What a disk may hold of one file: `durable` from the last sync, and each version of a page written since."""

    def __init__(self, path):
        self.path = str(path)
        self.durable = bytearray(path.read_bytes())
        self.since = {}

    def write(self, offset, data):
        for at in range(offset - offset % PAGE, offset + len(data), PAGE):
            versions = self.since.setdefault(at, [])
            page = bytearray(versions[-1] if versions else bytes(self.durable[at : at + PAGE]).ljust(PAGE, b"\0"))
            first, last = max(at, offset), min(at + PAGE, offset + len(data))
            page[first - at : last - at] = data[first - offset : last - offset]
            versions.append(bytes(page))

    def sync(self):
        """Everything is durable that was written before; the caller is alone."""
        for at, versions in self.since.items():
            self.durable.extend(bytes(max(0, at + PAGE - len(self.durable))))
            self.durable[at : at + PAGE] = versions[-1]
        self.since.clear()

    def image(self, rng, share):
        """What is found when the power fails now: of each page written since the sync one of its versions or none,
        now and then torn at a sector."""
        image = bytearray(self.durable)
        for at, versions in self.since.items():
            if rng.random() >= share:
                continue
            image.extend(bytes(max(0, at + PAGE - len(image))))
            page = versions[rng.integers(len(versions))]
            size = PAGE if at < 2 * PAGE or rng.random() < 0.8 else 512 * int(rng.integers(1, 8))
            image[at : at + size] = page[:size]
        return bytes(image)


class Machine:
    """Runs writes and syncs while its disk is watched, and keeps what would be found after power losses."""

    def __init__(self, path, docs, seed, monkeypatch):
        self.rng = np.random.default_rng(seed)
        self.path, self.docs = path, docs
        self.disk = Disk(folder_of(path) / "data.mdb")
        self.rows, self.history = {}, {0: {}}
        self.certain = 0  # the lsn of the last sync that was recorded
        self.record = None  # what of it is surely on the disk
        self.losses = []
        monkeypatch.setattr(recovery, "sync_file", self.record_synced)

    def on_call(self, call):
        if call.path != self.disk.path:
            return
        self.lose_power(0.04)
        if call.kind == "write":
            self.disk.write(call.offset, call.data)
        elif call.kind == "sync":
            self.disk.sync()

    def record_synced(self, fd):
        self.lose_power(0.5)
        self.record = self.record_now()
        self.lose_power(0.5)

    def record_now(self):
        return synced(self.path).read_bytes() if synced(self.path).exists() else None

    def lose_power(self, chance):
        if self.rng.random() < chance and len(self.losses) < 60:
            record = self.record if self.record is not None and self.rng.random() < 0.5 else self.record_now()
            share = self.rng.choice([0, 0.3, 0.9, 1])
            self.losses.append((self.disk.image(self.rng, share), record, self.certain))

    def run(self, steps):
        syncer = self.docs._store.env._syncer
        for _ in range(steps):
            kind = self.rng.integers(12)
            if kind < 8:
                ids = self.rng.choice(4000, self.rng.choice([1, 1, 5, 300]), replace=False).tolist()
                vectors = self.rng.standard_normal((len(ids), DIM)).astype(np.float32)
                lsn = self.docs.upsert(ids, vectors).lsn
                self.rows.update(zip(ids, map(bytes, vectors), strict=True))
            elif kind < 10:
                ids = self.rng.choice(4000, 200, replace=False).tolist()
                lsn = self.docs.delete(ids).lsn
                for one in ids:
                    self.rows.pop(one, None)
            elif kind == 10:
                lsn = self.docs.stats().lsn
                syncer._step()
                self.certain = lsn
            else:
                lsn = self.docs.stats().lsn
                with self.docs._store.env.writing():
                    self.docs._store.env.settle()
                self.certain = lsn
            self.history[lsn] = dict(self.rows)


def stored(docs):
    page = docs.scroll(limit=10_000, with_vectors=True)
    return {record.id: record.vector.tobytes() for record in page.records}


def found(path, image, record):
    """A database whose collection "docs" consists of these bytes."""
    vecstore.open(path).close()
    folder_of(path).mkdir()
    (folder_of(path) / "data.mdb").write_bytes(image)
    if record is not None:
        synced(path).write_bytes(record)
    return path


def crashed(tmp_path, docs, monkeypatch):
    """A copy of the database as of now, found by the next run of the machine."""
    image, record = ((folder_of(tmp_path / "db") / name).read_bytes() for name in ("data.mdb", "data.mdb-synced"))
    another_boot(monkeypatch)
    return found(tmp_path / "found", image, record)
