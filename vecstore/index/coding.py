"""How rows and centroids are coded for lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecstore.index.arrays import Coder, Codes, Floats, Ints
from vecstore.index.blocks import Blocks, Lists, Longs
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.quantization import ListBinary


def encoded(coder: Coder, vectors: Floats, norms: Floats, lists: Ints | None, offsets: Floats) -> tuple[Codes, Floats]:
    """Codes and terms of rows `(n, dim)` in lists, or in none yet."""
    if isinstance(coder, ListBinary):
        if lists is None:
            lists, offsets = np.zeros(len(vectors), np.int32), np.zeros((1, coder.dims), np.float32)
        return coder.encode_listed(vectors, norms, lists, offsets)
    codes = np.empty((len(vectors), coder.code_bytes), np.uint8)
    terms = np.empty((len(vectors), coder.terms_count), np.float32)
    coder.encode(vectors, norms, codes, terms)
    return codes, terms


def centroids_of(
    coder: Coder, centroids: Floats, known: Lists | None = None, changed: Ints | Longs | None = None
) -> dict[str, Any]:
    """What `Lists` hold of centroids `(lists, dim)`, of which others than those `changed` are as `known` has them."""
    n, width = len(centroids), coder.dims if isinstance(coder, ListBinary) else 0
    if known is None or changed is None:
        changed = np.arange(n)
    coarse = Blocks.empty(coder, 0) if known is None else known.coarse
    coarse = coarse.grown(-(-n // BLOCK_ROWS))
    offsets, terms = np.zeros((n, width), np.float32), np.zeros((n, 2), np.float32)
    if known is not None:
        same = min(n, len(known.offsets))
        offsets[:same], terms[:same] = known.offsets[:same], known.offset_terms[:same]
    some = centroids[changed]
    norms = np.sqrt(np.einsum("ij,ij->i", some, some))
    places = np.asarray(changed, np.int64)
    coarse.put(coder, places, *encoded(coder, some, norms, None, np.zeros((0, 0), np.float32)))
    if isinstance(coder, ListBinary):
        offsets[changed], terms[changed] = coder.offsets(some)
    return {"centroids": centroids, "coarse": coarse, "offsets": offsets, "offset_terms": terms}
