"""The file of a `vecstore.Index`: it comes back whole, is replaced whole, and damage is told."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

import vecstore
from tests.indexes import DIM, QUANTIZATIONS, clustered, facts, small_graph
from vecstore.errors import CorruptionError, FormatVersionError, NotADatabaseError


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("n", [0, 5, 1500])
def test_a_saved_index_comes_back_whole(monkeypatch, tmp_path, n, quantization):
    small_graph(monkeypatch)
    rows = clustered(n)
    config = vecstore.HNSW(m=16, ef_construction=60, ef=40, alpha=1.1, seed=5)
    index = vecstore.Index(DIM, "l2", index=config, quantization=QUANTIZATIONS[quantization])
    index.add(rows, np.arange(n) * 3 + 1)
    index.remove(np.arange(n // 10) * 3 + 1)
    index.save(tmp_path / "index")
    again = vecstore.Index.load(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (again.dim, again.metric, again.config, again.quantization) == (DIM, "l2", config, index.quantization)
    assert len(again) == len(index)
    assert facts(again)[2:] == facts(index)[2:]
    if n > 1000:
        assert again._index.structure.links_by_slot() == index._index.structure.links_by_slot()
    more = clustered(300, 6)
    for one in (index, again):
        one.add(more)
        one.add(more[:2], [1, 4])
        one.remove([7, 10])
    assert len(again) == len(index)
    for one in (index, again):
        found, _ = one.search(more[2:], 1)
        assert (found[20:, 0] == np.arange(22, 300) + (n and 3 * n - 1)).all()


def test_an_index_that_was_rebuilt_with_another_seed_is_saved_with_it(monkeypatch, tmp_path):
    small_graph(monkeypatch)
    index = vecstore.Index(DIM, index=vecstore.HNSW(seed=5))
    index.add(clustered(1500))
    index.rebuild(seed=7)
    index.save(tmp_path / "index")
    again = vecstore.Index.load(tmp_path / "index")
    assert again.config.seed == 7
    for one in (index, again):
        one.add(clustered(1500, 6))
    assert again._index.structure.links_by_slot() == index._index.structure.links_by_slot()
    assert again._index.structure.arrays.pilots.nodes.tolist() == index._index.structure.arrays.pilots.nodes.tolist()


def test_saving_again_replaces_and_failing_leaves_what_was_there(tmp_path, monkeypatch):
    index = vecstore.Index(2, "l2")
    index.save(tmp_path / "index")
    index.add([[1, 2]])
    index.save(tmp_path / "index")
    assert len(vecstore.Index.load(tmp_path / "index")) == 1
    index.add([[3, 4]])

    def fail(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no room"):
        index.save(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert len(vecstore.Index.load(tmp_path / "index")) == 1


@pytest.fixture
def saved(linked, tmp_path):
    path = tmp_path / "index"
    linked[0].save(path)
    return path


def rewritten(path, **changes):
    """The same file with some arrays changed, or left out where None."""
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    parts |= changes
    with path.open("wb") as file:
        np.savez(file, **{name: array for name, array in parts.items() if array is not None})


def test_a_file_that_is_cut_off(saved):
    data = saved.read_bytes()
    for size in (2, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:size])
        with pytest.raises(CorruptionError):
            vecstore.Index.load(saved)


def test_flipped_bytes_are_noticed_or_harmless(saved):
    data = saved.read_bytes()
    random = np.random.default_rng(0)
    places = [*random.integers(0, len(data), 60), *random.integers(len(data) - 1500, len(data), 60), *range(0, 60, 3)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(0, 8))
        saved.write_bytes(damaged)
        try:
            index = vecstore.Index.load(saved)
        except (CorruptionError, NotADatabaseError):
            continue
        index.search(np.ones(DIM), 3)


def test_other_files(tmp_path, saved):
    with pytest.raises(FileNotFoundError):
        vecstore.Index.load(tmp_path / "nothing")
    path = tmp_path / "other"
    np.save(tmp_path / "array.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as file:
        file.writestr("letter.txt", "dear reader")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    for data in (b"", b"P", b"some text", b"\x80\x04K\x01.", bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(NotADatabaseError):
            vecstore.Index.load(path)
    for name in ("array.npy", "some.zip", "arrays.npz"):
        with pytest.raises(NotADatabaseError):
            vecstore.Index.load(tmp_path / name)
    with pytest.raises(NotADatabaseError):
        vecstore.Index.load(tmp_path)


def test_a_newer_format(saved):
    rewritten(saved, format=np.array(3))
    with pytest.raises(FormatVersionError) as raised:
        vecstore.Index.load(saved)
    assert (raised.value.found, raised.value.supported) == (3, 2)


def test_format_1_knew_only_graphs(saved):
    before = vecstore.Index.load(saved)
    own = before.config
    numbers = np.array([own.m, own.ef_construction, own.ef, own.seed])
    rewritten(saved, format=np.array(1), index=None, config=numbers, alpha=np.array(own.alpha), upkeep=None)
    after = vecstore.Index.load(saved)
    assert after.config == own
    assert after._index.structure.links_by_slot() == before._index.structure.links_by_slot()


def test_parts_that_do_not_fit_together(saved, tmp_path):
    with np.load(saved) as file:
        parts = {name: file[name] for name in file.files}
    changes = [
        {"links": None},
        {"rows": None},
        {"rows": parts["rows"][:-1]},
        {"rows": parts["rows"][:, :-1]},
        {"ids": parts["ids"][:-1]},
        {"live": np.append(parts["live"], 5000)},
        {"live": np.append(parts["live"], -1)},
        {"nodes": parts["nodes"] + 1},
        {"links": parts["links"] + 1},
        {"links": parts["links"][:, 1:]},
        {"pilots": parts["pilots"] + 1500},
        {"pilots": parts["pilots"] - 1500},
        {"codes": parts["codes"][:-1]},
        {"coder": parts["coder"][:-1]},
        {"index": parts["index"][:1]},
        {"index": np.array(["ivff", "{}"])},
        {"index": np.array(["hnsw", "{"])},
        {"index": np.array(["hnsw", '{"m": 7}'])},
        {"index": np.array(["hnsw", '{"links": 7}'])},
        {"kind": np.array(["hamming", "int8"])},
        {"kind": np.array(["cosine", "int3"])},
        {"dim": np.array(0)},
        {"format": np.array("x")},
    ]
    for i, change in enumerate(changes):
        shutil.copy(saved, tmp_path / "copy")
        rewritten(tmp_path / "copy", **change)
        with pytest.raises(CorruptionError):
            vecstore.Index.load(tmp_path / "copy")
            pytest.fail(f"change {i} was let through")
