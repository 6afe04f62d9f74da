"""What a collection holds and takes, in counts and bytes: what it has, and what it would have."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from vecstore.estimates import ROW_BYTES, estimated
from vecstore.index.answering import NO_FIGURES
from vecstore.means import Means
from vecstore.storage.view import View
from vecstore.types import KIND_NAMES, Estimate, IndexConfig, Quantization, Stats


def stats_of(view: View, means: Means, *, read_only: bool) -> Stats:
    """Counts and sizes as of a view."""
    file_bytes, free_bytes = view.env.used(view.txn)
    info, indexing, code_scan = means.info, means.indexing, means.codes
    codes = 0 if code_scan is None else code_scan.bytes
    figures: dict[str, Any] = {**NO_FIGURES, "code_bytes": codes, "index_bytes": codes}
    if indexing is not None:
        figures |= indexing.index.figures()
        figures["index_bytes"] += indexing.index.id_bytes
    return Stats(
        name=info.name,
        dim=info.dim,
        metric=info.metric,
        index=type(info.index).__name__,
        quantization=None if info.quantization is None else KIND_NAMES[type(info.quantization)],
        count=view.state.count,
        dead=view.state.slots - view.state.count,
        lsn=view.state.lsn,
        durability=None if read_only else "commit" if view.env.sync_interval is None else "interval",
        synced_lsn=None if read_only else view.env.synced_lsn(view.state.lsn),
        checkpoint_lsn=0 if indexing is None else indexing.checkpoints.lsn,
        vector_bytes=int(np.count_nonzero(view.table.rows)) * view.layout.size,
        row_bytes=_bytes(view, "row"),
        id_bytes=_bytes(view, "slot"),
        log_bytes=_bytes(view, "log"),
        free_bytes=free_bytes,
        file_bytes=file_bytes,
        index_error=means.share.refusal or None if indexing is None else indexing.error,
        **figures,
    )


def estimate_of(
    view: View,
    means: Means,
    count: int | None,
    index: IndexConfig | None,
    quantization: Quantization | Literal["same"] | None,
) -> Estimate:
    """About what it would take with `count` rows, or another index or codes; its rows tell how large their payloads
    are."""
    info, there = means.info, view.state.count
    codes = info.quantization if quantization == "same" else quantization
    beside = sum(_bytes(view, name) for name in ("row", "slot"))
    return estimated(
        there if count is None else count,
        info.dim,
        info.metric,
        index or info.index,
        codes,
        max(ROW_BYTES, beside / there) if there else ROW_BYTES,
        means.terms(codes),
    )


def _bytes(view: View, name: str) -> int:
    """Bytes of the pages of a tree."""
    stat = view.txn.stat(view.env.db(name))
    pages: int = stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
    return pages
