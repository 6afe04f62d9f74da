"""A disk that loses its power, with the names of files: what folders may show at any moment, and what files may hold.

A name that was made, changed or removed is so on the disk once its folder was synced. Until then it may be, and if it
is, so is all that was done to names before it. A file is found with what was synced of it, whatever it is called by
then, and with some of what was not (`power.py`).
"""

import dataclasses
import os
import shutil
from pathlib import Path

from tests.faults.power import Disk
from vecstore.testing.faults import Call, storage_calls

UNSEEN = ("-lock", "LOCK", " (deleted)")


class Folder:
    """Its entries as they are, as they surely are on the disk, and what was done to them in between, by number."""

    def __init__(self, entries=()):
        self.now = dict(entries)
        self.durable = dict(entries)
        self.pending = []

    def change(self, number, changes):
        """Set names to a file (its key) or folder; None removes one."""
        self.pending.append((number, changes))
        _apply(self.now, changes)

    def sync(self):
        self.durable, self.pending = dict(self.now), []

    def found(self, last):
        """The entries after a power loss that left what was done up to a number."""
        entries = dict(self.durable)
        for number, changes in self.pending:
            if number <= last:
                _apply(entries, changes)
        return entries


def _apply(entries, changes):
    for name, what in changes.items():
        if what is None:
            entries.pop(name, None)
        else:
            entries[name] = what


class Names:
    """The tree of a database, followed event by event; `disk` has the contents, by key instead of by path."""

    def __init__(self, root):
        self.root_path, self.count = str(root), 0
        self.disk = Disk([])
        self.root = self._read(Path(root))

    def _read(self, path):
        entries = {}
        for entry in path.iterdir():
            if entry.is_dir():
                entries[entry.name] = self._read(entry)
            elif not entry.name.endswith(UNSEEN):
                entries[entry.name] = self._new_file(entry.read_bytes())
        return Folder(entries)

    def _new_file(self, content=b""):
        self.count += 1
        key = f"file {self.count}"
        self.disk.durable[key] = bytearray(content)
        return key

    def _at(self, path):
        folder, parts = self.root, os.path.relpath(path, self.root_path).split("/")
        for part in parts[:-1]:
            folder = folder.now[part]
        return folder, parts[-1]

    def _key(self, path, number):
        folder, name = self._at(path)
        if name not in folder.now:
            folder.change(number, {name: self._new_file()})
        return folder.now[name]

    def begun(self, event, number):
        """The pieces that an event brings, which may be there before it is over."""
        return self.disk.begun(self._call(event, number)) if isinstance(event, Call) else []

    def _call(self, call, number):
        return dataclasses.replace(call, path=self._key(call.path, number))

    def ended(self, event, number):
        if isinstance(event, Call):
            self.disk.ended(self._call(event, number), len(event.data))
            return
        what, path, *more = event
        if what == "sync":
            folder, name = self._at(path)
            where = self.root if name == "." else folder.now[name]
            where.sync()
            return
        folder, name = self._at(path)
        if what == "rename":
            other, target = self._at(more[0])
            assert other is folder
            folder.change(number, {target: folder.now[name], name: None})
        else:
            folder.change(number, {name: Folder() if what == "mkdir" else None})

    def write(self, path, contents, last):
        """Lay out in `path` what a power loss has left: some contents of files by key, names up to a number."""
        self._write(Path(path), self.root, contents, last)

    def _write(self, path, folder, contents, last):
        path.mkdir(exist_ok=True)
        for name, what in folder.found(last).items():
            if isinstance(what, Folder):
                self._write(path / name, what, contents, last)
            else:
                (path / name).write_bytes(contents[what])


class Recorder:
    """All that is done to the files of a database while the context lasts, in order, in `events`.

    What Python writes to a file is seen when that file is synced, or renamed without.
    """

    def __init__(self, root, patch):
        self.root, self.patch = str(root), patch
        self.events = []
        self.known = {os.fspath(path) for path in Path(root).rglob("*")}
        self.within = False

    def _seen(self, path):
        return path.startswith(self.root) and not path.endswith(UNSEEN) and "/.probe" not in path

    def __enter__(self):
        def on_call(call):
            if self._seen(call.path):
                self.known.add(call.path)
                self.events.append(call)

        self.calls = storage_calls(on_call, record=False)
        self.calls.__enter__()
        for name in ("rename", "unlink", "mkdir"):
            self.patch.setattr(os, name, self._named(name, getattr(os, name)))
        self.patch.setattr(os, "fsync", self._fsync(os.fsync))
        self.patch.setattr(os, "pwrite", self._pwrite(os.pwrite))
        self.patch.setattr(shutil, "rmtree", self._rmtree(shutil.rmtree))
        return self

    def __exit__(self, *error):
        self.patch.undo()
        self.calls.__exit__(*error)

    def _named(self, name, function):
        def call(path, *more, **options):
            if name == "rename":
                self._look_at(os.fspath(path))
            function(path, *more, **options)
            if not options and self._seen(os.fspath(path)) and not self.within:
                targets = [os.fspath(one) for one in more if name == "rename"]
                self.known.update(targets)
                self.events.append((name, os.fspath(path), *targets))

        return call

    def _look_at(self, path):
        """Note what Python has written to a file."""
        if self._seen(path) and path not in self.known and Path(path).is_file():
            self.known.add(path)
            self.events.append(Call("write", "write", path, 0, Path(path).read_bytes()))

    def _fsync(self, function):
        def call(fd):
            function(fd)
            path = str(Path(f"/proc/self/fd/{fd}").readlink())
            self._look_at(path)
            if self._seen(path):
                folder = Path(path).is_dir()
                self.events.append(("sync", path) if folder else Call("sync", "fsync", path, synced=True))

        return call

    def _pwrite(self, function):
        def call(fd, data, offset):
            path = str(Path(f"/proc/self/fd/{fd}").readlink())
            if self._seen(path):
                self.known.add(path)
                self.events.append(Call("write", "pwrite", path, offset, bytes(data)))
            return function(fd, data, offset)

        return call

    def _rmtree(self, function):
        def call(path, *more, **options):
            self.events.append(("rmtree", os.fspath(path)))
            self.within = True
            try:
                function(path, *more, **options)
            finally:
                self.within = False

        return call
