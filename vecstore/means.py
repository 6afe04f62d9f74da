"""By which index and codes the searches of a collection are answered, and how others take their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vecstore.budget import Share
from vecstore.errors import StateError
from vecstore.index.codes import CodeScan
from vecstore.index.flat import Rows
from vecstore.index.kinds import GraphOrLists
from vecstore.indexing import Indexing
from vecstore.storage.config import built_alike, config_of
from vecstore.storage.store import Store
from vecstore.storage.view import View
from vecstore.types import KIND_NAMES, CollectionInfo, Flat, Quantization


@dataclass(frozen=True, slots=True)
class Means:
    """What a collection is, by the `config` that its store keeps; and its index, or its codes, or neither."""

    info: CollectionInfo
    config: dict[str, Any]
    share: Share
    indexing: Indexing | None = None
    codes: CodeScan | None = None

    @property
    def index(self) -> GraphOrLists | None:
        """The graph or the lists."""
        return None if self.indexing is None else self.indexing.index

    def terms(self, quantization: Quantization | None) -> int | None:
        """Numbers beside a code of some kind, where there are codes of it."""
        structure = None if self.index is None else self.index.structure
        coder = structure.arrays.coder if structure is not None else self.codes.coder if self.codes else None
        known = coder is not None and quantization is not None and coder.kind == KIND_NAMES[type(quantization)]
        return coder.terms_count if coder is not None and known else None

    @classmethod
    def of(
        cls,
        info: CollectionInfo,
        store: Store,
        rows_of: Callable[[View], Rows],
        *,
        read_only: bool,
        share: Share,
        succeeds: bool = False,
    ) -> Means:
        """As they are at an open, or to take the place of others."""
        if not isinstance(info.index, Flat):
            made = Indexing(info, store, rows_of, read_only=read_only, share=share, succeeds=succeeds)
            return cls(info, store.config, share, made)
        return cls(info, store.config, share, None, None if info.quantization is None else CodeScan(info.quantization))

    def only_tunes(self, info: CollectionInfo) -> bool:
        """Whether another `info` asks for the same index and codes, with other numbers to search by."""
        own, other = config_of(self.info), config_of(info)
        return own["quantization"] == other["quantization"] and built_alike(own["index"], other["index"])

    def tuned(self, info: CollectionInfo, config: dict[str, Any]) -> Means:
        """The same index, which searches by the numbers of `info` from now on."""
        if self.indexing is not None:
            self.indexing.retune(info)
        return dataclasses.replace(self, info=info, config=config)

    def build(
        self,
        store: Store,
        rows_of: Callable[[View], Rows],
        progress: Callable[[int, int], None],
        refuse_closed: Callable[[], None],
    ) -> None:
        """Make index or codes for all rows, before they are taken into use."""
        if self.indexing is not None:
            self.indexing.build(progress, refuse_closed)
        elif self.codes is not None:
            with store.view() as view:
                count = view.state.count
                if not self.share.fits(self.info, count):
                    raise StateError(f'collection "{self.info.name}" keeps its index: {self.share.refusal}')
                progress(0, count)
                follow_codes(self.codes, view, rows_of(view))
            progress(count, count)


def follow_codes(codes: CodeScan, view: View, rows: Rows) -> None:
    """Bring codes up to a view, whose rows were verified or are so now."""
    view.verify()
    codes.follow(rows, view.state.lsn, view.state.count, view.table.live_slots, view.added_since)
