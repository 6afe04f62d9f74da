"""Compiling once, for every process, and never by surprise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import float32, int64, njit

import vecstore.kernels
from vecstore.kernels import _cache, _jit
from vecstore.kernels._jit import JIT, Kernel, const, kernels, warmup
from vecstore.kernels.pools import merge_pools, new_pools, unpack_pools

pytestmark = pytest.mark.skipif(not JIT, reason="nothing is compiled")

PACKAGE = Path(vecstore.kernels.__file__).parent
UNPACK = """
import numpy as np
from vecstore.kernels.pools import new_pools, unpack_pools
pools = new_pools(1, 2)
pools[0, 0] = 0xFFFFFFFF ^ 6
scores, slots, counts = np.empty((1, 2), np.float32), np.empty((1, 2), np.int32), np.empty(1, np.int64)
unpack_pools(pools, scores, slots, counts)
print(slots[0].tolist(), sum(unpack_pools.dispatcher.stats.cache_hits.values()))
"""


def add_one(values, amount):
    return values[0] + amount


def run(code, cwd=None, **environment):
    child = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    if cwd is not None:
        child["PYTHONPATH"] = str(cwd)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=child, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def package(tmp_path):
    """A copy of the package whose sources a test may edit."""
    shutil.copytree(PACKAGE, tmp_path / "vecstore" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE.parent / name, tmp_path / "vecstore")
    return tmp_path


def test_a_kernel_has_one_signature():
    entry = Kernel(add_one, float32(const(float32[::1]), int64))
    values = np.ones(3, np.float32)
    assert entry(values, 2) == 3
    values.flags.writeable = False
    assert entry(values, np.int32(2)) == 3
    for wrong in (np.ones(3), np.ones((3, 1), np.float32), np.ones(6, np.float32)[::2], [1.0], None):
        with pytest.raises(TypeError):
            entry(wrong, 2)
    with pytest.raises(TypeError):
        entry(values)
    assert len(entry.dispatcher.signatures) == 1


def test_an_output_must_be_writable():
    pools = new_pools(1, 2)
    pools.flags.writeable = False
    with pytest.raises(TypeError):
        merge_pools(pools, pools)
    merge_pools(new_pools(1, 2), pools)


def test_a_kernel_is_compiled_once_by_several_threads():
    entry = Kernel(add_one, float32(const(float32[::1]), int64))
    results = []

    def call():
        results.append(entry(np.ones(1, np.float32), 1))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2] * 4
    assert sum(entry.dispatcher.stats.cache_misses.values()) <= 1


def test_warmup_compiles_all_entry_points():
    seen = []
    count = warmup(lambda name, done, total: seen.append((name, done, total)))
    assert count == len(kernels()) == len(seen) - 1
    assert seen[-1] == ("", count, count)
    assert all(entry.dispatcher is not None for entry in kernels().values())
    assert all(entry.__doc__ for entry in kernels().values())


def test_four_processes_on_an_empty_cache(package):
    cache = package / "cache"
    processes = [run(UNPACK, package, NUMBA_CACHE_DIR=cache) for _ in range(4)]
    for process in processes:
        out, _ = finished(process)
        assert out.startswith("[6, -1]")
    out, err = finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.endswith("1\n"), "the fifth loads what the others left"
    assert err == ""
    assert not list(cache.rglob("*.tmp"))


def test_an_edited_callee_rebuilds_its_callers(package):
    cache = package / "cache"
    out, err = finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.startswith("[6, -1]")
    assert err.count("compiling its kernels for this CPU, once") == 1
    memory = package / "vecstore" / "kernels" / "memory.py"
    source = memory.read_text()
    edited = source.replace("ir.Constant(i32, -1)", "ir.Constant(i32, -2)")
    assert len(edited) == len(source) and edited != source
    times = memory.stat()
    memory.write_text(edited)
    os.utime(memory, ns=(times.st_atime_ns, times.st_mtime_ns))
    out, _ = finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.startswith("[7, -1]"), "key_slot has another mask now"
    memory.write_text(source)
    out, err = finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.startswith("[6, -1]")
    assert err == "", "the first version is still in the cache"


def test_a_damaged_file_is_compiled_again(package):
    cache = package / "cache"
    finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    for file in cache.rglob("*.nbc"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    out, err = finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.startswith("[6, -1]")
    assert "is damaged" in err
    assert finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))[1] == ""


def test_no_cache_folder_is_writable(package):
    blocker = package / "a file"
    blocker.write_text("not a folder")
    # A path through a file cannot be made even by root, whom permissions do not stop.
    environment = {"NUMBA_CACHE_DIR": blocker / "x", "XDG_CACHE_HOME": blocker, "HOME": blocker}
    out, err = finished(run(UNPACK, package, **environment))
    assert out.startswith("[6, -1]")
    assert "no cache folder is writable" in err


def test_a_filled_cache_is_read_where_it_cannot_be_written(package):
    cache = package / "cache"
    finished(run(UNPACK, package, NUMBA_CACHE_DIR=cache))
    deny = "import tempfile\ndef deny(**_): raise PermissionError\ntempfile.TemporaryFile = deny\n"
    out, err = finished(run(deny + UNPACK, package, NUMBA_CACHE_DIR=cache))
    assert out.startswith("[6, -1]")
    assert out.endswith("1\n")
    assert err == ""


def test_only_the_newest_versions_stay(tmp_path):
    current = tmp_path / f"{_cache._FOLDER}now"
    current.mkdir()
    (tmp_path / "of somebody else").mkdir()
    for age in range(8):
        folder = tmp_path / f"{_cache._FOLDER}{age}"
        folder.mkdir()
        os.utime(folder, (1e9 - age, 1e9 - age))
    _cache._remove_stale(current)
    kept = {f.name.removeprefix(_cache._FOLDER) for f in tmp_path.iterdir()}
    assert kept == {"now", "of somebody else", "0", "1", "2", "3"}


def test_the_user_cache_is_used_without_a_setting(package):
    home = package / "home"
    environment = {"XDG_CACHE_HOME": home, "HOME": home, "NUMBA_CACHE_DIR": ""}
    finished(run(UNPACK, package, **environment))
    assert list(home.rglob("unpack_pools-*.nbc"))


def test_helpers_are_part_of_their_callers():
    twice = _jit.inlined(lambda x: 2 * x)
    assert njit(lambda x: twice(x) + 0)(21) == 42


def test_importing_the_package_does_not_import_numba():
    out, _ = finished(run("import sys, vecstore, vecstore.kernels; print('numba' in sys.modules)"))
    assert out.strip() == "False"


def test_unpacking_rejects_doubles():
    with pytest.raises(TypeError):
        unpack_pools(new_pools(1, 1), np.empty((1, 1)), np.empty((1, 1), np.int32), np.empty(1, np.int64))
