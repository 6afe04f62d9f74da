"""What vecstore itself asks of the file system, beside LMDB: seen and failed, as by `storage_calls`."""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import vecstore
from vecstore.testing.faults import Fail

CALLS = ("open", "fsync", "pwrite", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
PACKAGE = os.fspath(Path(vecstore.__file__).parent)


@dataclass(frozen=True, slots=True)
class FileCall:
    """A call of a function of `os` on behalf of vecstore; `path` is "" where it is of a file that is open."""

    kind: str
    path: str


@contextlib.contextmanager
def file_calls(on_call, patch):
    """Lead such calls through `on_call(call)`, which returns None or `Fail(errno)`, or `Fail(errno, done=1)` for an
    error that is told after the fact. What deletes a tree is left alone: it is allowed to fail."""
    deleting = False

    def led(name, function):
        def call(first, *more, **options):
            ours = sys._getframe(1).f_code.co_filename
            if deleting or not (ours.startswith(PACKAGE) or "pathlib" in ours):
                return function(first, *more, **options)
            answer = on_call(FileCall(name, "" if isinstance(first, int) else os.fspath(first)))
            if answer is None:
                return function(first, *more, **options)
            assert isinstance(answer, Fail)
            if answer.done:
                result = function(first, *more, **options)
                if name == "open":
                    os.close(result)
            raise OSError(answer.errno, os.strerror(answer.errno), None if isinstance(first, int) else first)

        return call

    def rmtree(*arguments, **options):
        nonlocal deleting
        deleting = True
        try:
            original(*arguments, **options)
        finally:
            deleting = False

    original = shutil.rmtree
    with patch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, led(name, getattr(os, name)))
        patched.setattr(shutil, "rmtree", rmtree)
        yield
