"""What a collection would take, held against what it takes."""

import pytest

import vecstore


def near(value, other):
    return abs(value - other) <= 0.15 * other


@pytest.mark.parametrize("dim", [64])
@pytest.mark.parametrize(
    ("index", "quantization"),
    [
        (vecstore.HNSW(), vecstore.Int4()),
        (vecstore.HNSW(m=8), None),
        (vecstore.HNSW(), vecstore.Binary()),
        (vecstore.IVF(), vecstore.Binary()),
        (vecstore.IVF(), vecstore.Int8()),
        (vecstore.IVF(resident=False), vecstore.Int8()),
        (vecstore.IVF(nlist=20), None),
        (vecstore.Flat(), vecstore.Int8()),
    ],
)
def test_an_estimate_is_near_what_there_is(tmp_path, rows, dim, index, quantization):
    vectors = rows(6000, dim) + 0.2
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", dim, "l2", index=index, quantization=quantization)
        for first in range(0, 6000, 2000):
            docs.insert(range(first, first + 2000), vectors[first : first + 2000])
        docs.search(vectors[0])
        docs.wait_indexed(120)
        stats, estimate = docs.stats(), docs.estimate()
    size = (tmp_path / "collections" / "docs" / "index.mdb").stat().st_size if stats.checkpoint_lsn else 0
    assert (estimate.count, estimate.dim, estimate.index) == (6000, dim, stats.index)
    assert estimate.quantization == stats.quantization
    assert near(estimate.code_bytes, stats.code_bytes)
    assert near(estimate.link_bytes, stats.link_bytes)
    assert near(estimate.index_bytes, stats.index_bytes)
    assert near(estimate.file_bytes, stats.file_bytes - stats.free_bytes)
    assert estimate.index_bytes < estimate.peak_bytes
    assert estimate.checkpoint_bytes <= 1.15 * size  # which may hold free pages
    bare = vecstore.estimate(6000, dim, "l2", index=index, quantization=quantization)
    assert bare.index_bytes == estimate.index_bytes and near(bare.file_bytes, estimate.file_bytes)


@pytest.mark.parametrize("index", [vecstore.HNSW(), vecstore.IVF(), vecstore.Flat()])
def test_codes_without_terms_are_known_when_there_are_some(db, rows, index):
    docs = db.create_collection("docs", 32, index=index, quantization=vecstore.Int4())
    before, vectors = docs.estimate(5000), rows(5000, 32)
    docs.insert(range(5000), vectors)
    docs.search(vectors[0])
    docs.wait_indexed(120)
    assert before.code_bytes > 1.1 * docs.estimate().code_bytes  # as if there were terms
    assert near(docs.estimate().code_bytes, docs.stats().code_bytes)
    other = vecstore.estimate(5000, 32, index=index, quantization=vecstore.Int8())
    assert docs.estimate(quantization=vecstore.Int8()).code_bytes == other.code_bytes


def test_few_rows_have_no_index(db, rows):
    docs = db.create_collection("docs", 64)
    assert docs.estimate().index_bytes == docs.estimate(999).peak_bytes == docs.estimate().file_bytes == 0
    assert docs.estimate(5000).link_bytes > 0 and docs.estimate(2000).link_bytes == 0
    assert docs.estimate(10**6, index=vecstore.Flat(), quantization=None).index_bytes == 0
    assert docs.estimate(10**6, index=vecstore.Flat()).index_bytes >= 64 * 10**6
    docs.insert(range(100), rows(100, 64), [{"text": "x" * 1000}] * 100)
    assert docs.estimate(10**5).file_bytes > 10**5 * 1000


def test_binary_lists_are_small():
    """About an eighth of a byte a dimension, and some twenty."""
    small = vecstore.estimate(1_000_000, 768, index=vecstore.IVF(), quantization=vecstore.Binary())
    assert small.index_bytes < 1_000_000 * (768 / 8 + 20) * 1.3
    assert vecstore.estimate(10**6, 128, index=vecstore.IVF()).quantization == "int8"
