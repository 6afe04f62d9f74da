"""What RAM an index of so many rows takes, before there is one. A test holds it against indexes that were built."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from vecstore.index import codes, graph, hnsw, ivf, steps
from vecstore.index.answering import FIT_FROM
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.quantization import KINDS, ListBinary
from vecstore.quantization.quantizer import padded
from vecstore.types import HNSW, IVF, KIND_NAMES, Flat, IndexConfig, Metric, Quantization

# Arrays grow by a quarter: they are larger than what they hold by none to that.
SLACK: Final = 1.05
GROWTH: Final = 1.25
# Of a row: the slot of its node or place, the node or place of its slot, and its id, if that is an int.
SLOT, PLACE, ID = 4, 4, 8
# What a checkpoint adds to the bytes it keeps.
CHECKSUMS: Final = 1.001
# Bits of a dimension, and float32 terms of a row at the most: under cosine there may be none.
BITS: Final = {"int8": 8, "int4": 4, "binary": 1, "list-binary": 1, "float32": 32}
TERMS: Final = {"int8": 2, "int4": 2, "binary": 3, "list-binary": 3, "float32": 0}


class Sizes(NamedTuple):
    """Bytes: codes with their terms, links, the whole index, that while it is built, and its checkpoint."""

    codes: int
    links: int
    whole: int
    peak: int
    checkpoint: int


NOTHING: Final = Sizes(0, 0, 0, 0, 0)


def sizes_of(
    config: IndexConfig,
    quantization: Quantization | None,
    count: int,
    dim: int,
    metric: Metric,
    terms: int | None = None,
) -> Sizes:
    """The sizes of an index of so many rows, which are scanned as long as they are few; with codes of so many `terms`
    a row, or of as many as there may be."""
    kind = Flat if isinstance(config, Flat) else HNSW if isinstance(config, HNSW) else IVF
    if count < (codes.MIN_ROWS if kind is Flat else FIT_FROM):
        return NOTHING
    kind_name = "float32" if quantization is None else KIND_NAMES[type(quantization)]
    if isinstance(config, HNSW):
        return _graph(config, row_bytes(kind_name, dim, terms), count, metric)
    if isinstance(config, IVF):
        listed = kind_name == "binary"
        return _lists(config, row_bytes("list-binary" if listed else kind_name, dim, terms), count, dim, listed=listed)
    if quantization is None:
        return NOTHING
    taken = count * row_bytes(kind_name, dim, terms)
    return Sizes(int(SLACK * taken), 0, int(SLACK * taken), int((1 + GROWTH) * taken), 0)


def row_bytes(kind: str, dim: int, terms: int | None = None) -> int:
    """Bytes of the code of a row, whose dims are padded so that codes fill lines or words, and of its terms."""
    terms = TERMS[kind] if terms is None else terms
    coders: dict[str, Any] = {**KINDS, "list-binary": ListBinary}
    multiple = coders[kind]._dims_multiple if kind in coders else 16
    return padded(dim, multiple) * BITS[kind] // 8 + 4 * terms


def _graph(config: HNSW, row: int, count: int, metric: Metric) -> Sizes:
    """As index/nodes.py and index/graph.py keep it; pairs are two or three terms, and a byte tells of the dead."""
    linked = count if count >= hnsw.LINK_FROM else 0
    width, pairs = 8 * config.m, 4 * (3 if metric == "dot" else 2)
    of_node = row + pairs + SLOT + PLACE + 1
    pilots = max(graph.MIN_PILOTS, min(graph.MAX_PILOTS, int(graph.PILOTS_PER_ROOT * math.sqrt(count))))
    bare = count * (of_node + ID) + linked * width
    index = int(SLACK * bare) + pilots * row
    # All is copied when the arrays grow, and when nodes are numbered anew.
    return Sizes(
        int(SLACK * count * row), int(SLACK * linked * width), index, index + int(GROWTH * bare), int(bare * CHECKSUMS)
    )


def _lists(config: IVF, row: int, count: int, dim: int, *, listed: bool) -> Sizes:
    """As index/lists.py keeps them: the last block of each list is half empty; centroids twice, and coded."""
    lists = ivf.lists_for(count, config) if count >= ivf.TRAIN_FROM else 0
    places = count + lists * BLOCK_ROWS // 2
    centroids = lists * (4 * dim * (2 if listed else 1) + row)
    coded = int(SLACK * places * row)
    index = coded + int(SLACK * (places * SLOT + count * (PLACE + ID))) + centroids
    kept = int((places * (row + SLOT) + count * ID + lists * 4 * dim) * CHECKSUMS)
    # All rows are a tail first, then blocks, which are copied when there are more; a step has its rows at hand.
    sample = min(count, steps.samples_for(config, lists, dim)) if lists else 0
    at_hand = int(1.5 * 4 * dim * max(sample, min(count, steps.rows_at_hand(config, count, dim))))
    if not config.resident:
        # The blocks are in files, of which a checkpoint is written from a copy.
        index -= coded + int(SLACK * places * SLOT)
        return Sizes(coded, 0, index, index + max(at_hand, kept), kept)
    return Sizes(coded, 0, index, index + int(GROWTH * places * (row + SLOT)) + at_hand, kept)
