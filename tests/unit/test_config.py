"""What a collection was created with: stored as FORMAT.md says, read back alike, and refused where it is damaged."""

import lmdb
import msgpack
import pytest

import vecstore

HNSW = {"kind": "hnsw", "m": 24, "ef_construction": 128, "ef": 64, "alpha": 1.05, "seed": 1}
INDEXES = [
    (vecstore.HNSW(), HNSW),
    (
        vecstore.HNSW(8, 16, 10, 1, 0),
        {"kind": "hnsw", "m": 8, "ef_construction": 16, "ef": 10, "alpha": 1.0, "seed": 0},
    ),
    (vecstore.HNSW(seed=2**31 - 1, alpha=2.0), {**HNSW, "alpha": 2.0, "seed": 2**31 - 1}),
    (vecstore.Flat(), {"kind": "flat"}),
]
CODES = [(None, None), (vecstore.Int8(), "int8"), (vecstore.Int4(), "int4"), (vecstore.Binary(), "binary")]


class Stored:
    """The configuration in the file of the collection "docs", as bytes would be written by another program."""

    def __init__(self, path):
        self.path = path / "collections" / "docs" / "data.mdb"

    def change(self, work):
        with lmdb.open(str(self.path), subdir=False, max_dbs=6, lib_version=0) as env:
            meta = env.open_db(b"meta", create=False)
            with env.begin(write=True) as txn:
                config = work(msgpack.unpackb(txn.get(b"config", db=meta)))
                txn.put(b"config", msgpack.packb(config), db=meta)
                return config


@pytest.fixture
def stored(tmp_path):
    """`stored(index, quantization)`: the configuration of a collection that was created so, and closed."""

    def make(**options):
        with vecstore.open(tmp_path) as db:
            db.create_collection("docs", 3, "l2", **options).insert(1, [1, 2, 3])
        return Stored(tmp_path)

    return make


@pytest.mark.parametrize(("index", "expected_index"), INDEXES, ids=str)
@pytest.mark.parametrize(("quantization", "expected_codes"), CODES, ids=str)
def test_it_is_read_back_alike(tmp_path, stored, index, expected_index, quantization, expected_codes):
    config = stored(index=index, quantization=quantization).change(lambda config: config)
    assert len(config.pop("uid")) == 16
    assert config == {
        "magic": "vecstore", "format": 2, "dim": 3, "metric": "l2", "index": expected_index,
        "quantization": expected_codes, "shift": 11,
    }  # fmt: skip
    assert type(config["index"].get("alpha", 1.0)) is float
    for read_only in (False, True):
        with vecstore.open(tmp_path, read_only=read_only) as db:
            docs = db.get_collection("docs")
            assert docs.info == vecstore.CollectionInfo("docs", 3, "l2", index, quantization)
            assert [hit.id for hit in docs.search([1, 2, 3])] == [1]


def test_what_auto_became_is_stored(stored):
    assert stored().change(lambda config: config)["quantization"] == "int8"


DAMAGED = [
    None, [], "flat", {}, {"kind": "ivf"}, {"kind": None}, {"kind": ["flat"]}, {"kind": "flat", "m": 32}, {"m": 32},
    {"kind": "hnsw"}, {**HNSW, "nlist": 4}, {**HNSW, "kind": "flat"}, {**HNSW, b"m": 32},
    *({key: value for key, value in HNSW.items() if key != name} for name in HNSW),
    *({**HNSW, name: value} for name in list(HNSW)[1:] for value in (None, "x", -1, 2**40, [1], True)),
    {**HNSW, "m": 12}, {**HNSW, "m": 32.0}, {**HNSW, "alpha": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("index", DAMAGED, ids=str)
def test_a_damaged_index_is_corruption(tmp_path, stored, index):
    stored().change(lambda config: {**config, "index": index})
    with vecstore.open(tmp_path) as db:
        for _ in range(2):
            with pytest.raises(vecstore.CorruptionError, match="what the collection was created with is damaged"):
                db.get_collection("docs")


@pytest.mark.parametrize("quantization", ["int2", "", 8, True, ["int8"], {}])
def test_damaged_quantization_is_corruption(tmp_path, stored, quantization):
    stored().change(lambda config: {**config, "quantization": quantization})
    with vecstore.open(tmp_path) as db, pytest.raises(vecstore.CorruptionError):
        db.get_collection("docs")
