"""How an index follows the writes of its collection, and how it is kept in files.

Of each write it knows which slots got a row and which lost theirs. Removals are remembered for a while, for searches
that began before them, and int ids, so that hits need not read them.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from vecstore.index.arrays import Coder
from vecstore.index.calls import NO_NAMES
from vecstore.index.flat import Rows
from vecstore.index.nodes import Slots
from vecstore.index.parallel import cpus
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole
from vecstore.types import KIND_NAMES, IndexConfig, Metric, Quantization

# Writes whose removals are remembered, for searches that began before them.
REMEMBERED: Final = 64


class PastError(Exception):
    """The index has gone on, too far to tell what a search of an earlier write sees."""


@dataclass(frozen=True, slots=True)
class Change:
    """Slots whose rows are new, and slots whose rows are gone, since an lsn; a slot may be in both."""

    added: Slots
    removed: Slots


@dataclass(frozen=True, slots=True)
class Kept:
    """An index at the write `lsn`: `facts` that msgpack can pack, and arrays by name."""

    lsn: int
    work: int
    facts: dict[str, Any]
    parts: dict[str, npt.NDArray[Any]]


class Structure(Protocol):
    """What holds the rows of an index: a graph, or lists."""

    config: Any
    fitted_on: int
    arrays: Any

    def add(self, rows: Rows, slots: Slots, threads: int) -> None: ...
    def remove(self, slots: Slots) -> None: ...
    def changing(self) -> contextlib.AbstractContextManager[Any]: ...
    def renumber_slots(self, numbers: Slots) -> None: ...
    def held(self) -> contextlib.AbstractContextManager[dict[str, Any]]: ...
    def restore(self, parts: dict[str, Any], slots: int) -> None: ...
    def figures(self) -> dict[str, Any]: ...
    @property
    def gone(self) -> int: ...
    @property
    def search(self) -> Callable[..., tuple[Any, Any, Any]]: ...


S = TypeVar("S", bound=Structure)


class Following(abc.ABC, Generic[S]):
    """A graph or lists that follow the writes, in one thread at a time; see the module."""

    def __init__(self, config: IndexConfig, quantization: Quantization | None, dim: int, metric: Metric) -> None:
        self.config: Any = config
        self.kind = "float32" if quantization is None else KIND_NAMES[type(quantization)]
        self.dim, self.metric = dim, metric
        self.structure: S | None = None
        self._lsn = -1
        self._following = threading.Lock()
        # The write after which all removals are remembered, and those: (lsn, slots), the latest last.
        self._removals: tuple[int, tuple[tuple[int, Slots], ...]] = (-1, ())
        self._removed_at = -1  # the last of them
        # Int ids by slot, -1 for others; odd while they change.
        self._ids = np.zeros(0, np.int64)
        self._version, self._ids_lsn = 0, -1
        self.work = 0
        """What it would take to do again: nodes linked, coded anew or removed since this was made."""

    @abc.abstractmethod
    def _made(self, config: Any, coder: Coder, fitted_on: int) -> S:
        """A structure without rows."""

    @abc.abstractmethod
    def _new(self, rows: Rows, slots: Slots, threads: int, config: Any) -> S | None:
        """A structure of some rows, which all wait in it; None where there are too few for one."""

    def begun(self, rows: Rows, live: Slots, seed: int | None, *, threads: int | None = None) -> S | None:
        """A new structure of some rows, which all wait in it, for `replace`."""
        config = self.config if seed is None else dataclasses.replace(self.config, seed=seed)
        return self._new(rows, live, threads or cpus(), config)

    # -- following the writes --------------------------------------------------------------------------------

    @property
    def lsn(self) -> int:
        """The write up to which the index knows the rows."""
        return self._lsn

    def follow(
        self,
        rows: Rows,
        lsn: int,
        live: Callable[[], Slots],
        since: Callable[[int], Change | None],
        ids_of: Callable[[Slots], Slots] | None = None,
        threads: int | None = None,
    ) -> None:
        """Bring the index up to the write `lsn`.

        `live()` are the slots of all rows, `since(lsn)` what has changed after an lsn, or None where that is no longer
        known. `ids_of(slots)` gives int ids, -1 for others, for `ids` to remember.
        """
        if lsn <= self._lsn:
            return
        with self._following:
            if lsn <= self._lsn:
                return
            threads = threads or cpus()
            change = None if self.structure is None else since(self._lsn)
            if self.structure is None or change is None:
                added = live()
                structure = self._new(rows, added, threads, self.config)
                self._removals, self._removed_at = (lsn, ()), lsn
                self.structure = structure
                self.work += len(added)
            else:
                added = change.added
                self.work += len(change.removed)
                if len(change.removed):
                    since_lsn, known = self._removals
                    if len(known) == REMEMBERED:
                        since_lsn, known = known[0][0], known[1:]
                    self._removals, self._removed_at = (since_lsn, (*known, (lsn, change.removed))), lsn
                with self._whole_or_lost():
                    _apply(change, self.structure, rows, threads)
            if ids_of is not None and self.structure is not None:
                if self._ids_lsn != self._lsn:  # the structure was replaced since
                    added = live()
                ids = ids_of(added)
                with self._whole_or_lost():
                    self._remember(added, ids, rows.slots, lsn)
            self._lsn = lsn

    @contextlib.contextmanager
    def _whole_or_lost(self) -> Iterator[None]:
        """A change that, where an interruption or a lack of memory stops it half way, has all made anew."""
        try:
            yield
        except BaseException:
            self._lose()
            raise

    def _remember(self, slots: Slots, ids: Slots, size: int, lsn: int) -> None:
        self._version += 1
        if size > len(self._ids):
            grown = np.full(size + size // 4, -1, np.int64)
            grown[: len(self._ids)] = self._ids
            self._ids = grown
        self._ids[slots] = ids
        self._ids_lsn = lsn
        self._version += 1

    def let_go(self) -> None:
        """Know no rows any more, until it follows again."""
        if self.structure is not None:
            with self._following:
                self._lose()

    def _lose(self) -> None:
        self.structure, self._lsn = None, -1
        self._version |= 1
        self._ids, self._ids_lsn = np.zeros(0, np.int64), -1
        self._version += 1

    @property
    def id_bytes(self) -> int:
        """Bytes of RAM that ids take."""
        return self._ids.nbytes

    def names(self, lsn: int) -> tuple[Slots, int]:
        """The ids by slot, -1 for other than ints, and a version for `names_are`; none if they are of another write."""
        version = self._version
        return (self._ids, version) if not version & 1 and self._ids_lsn == lsn else (NO_NAMES, version)

    def names_are(self, version: int) -> bool:
        """Whether the ids have been those of a version up to now."""
        return self._version == version

    def lost_since(self, lsn: int) -> bool:
        """Whether rows have gone after the write `lsn`."""
        return lsn < self._removed_at

    def ids(self, slots: npt.NDArray[np.int32], lsn: int) -> list[int] | None:
        """The ids of some slots at `lsn`; None where the index knows another moment, or one of them is no int."""
        version = self._version
        if version & 1 or self._ids_lsn != lsn:
            return None
        ids: list[int] = self._ids.take(slots).tolist()
        return None if version != self._version or -1 in ids else ids

    def replace(
        self,
        structure: S | None,
        built_at: int,
        rows: Rows,
        lsn: int,
        live: Callable[[], Slots],
        since: Callable[[int], Change | None],
        ids_of: Callable[[Slots], Slots] | None = None,
    ) -> bool:
        """Put a structure of the rows at `built_at`, brought up to `lsn`, in the place of the old one; False if the
        index has moved on from there. The rest is as for `follow`."""
        with self._following:
            if lsn < self._lsn:
                return False
            if lsn > built_at:
                change = None if structure is None else since(built_at)
                if structure is None or change is None:
                    structure = self._new(rows, live(), cpus(), self.config if structure is None else structure.config)
                else:
                    _apply(change, structure, rows, cpus())
            if ids_of is not None and structure is not None:
                change = None if self.structure is None else since(self._lsn)
                added = live() if change is None else change.added
                self._remember(added, ids_of(added), rows.slots, lsn)
            self._removals, self._removed_at = (lsn, ()), lsn
            self.structure, self._lsn = structure, lsn
            self.work += 0 if structure is None else structure.arrays.count
            return True

    @contextlib.contextmanager
    def renumbering(self, slots: Slots, before: int, lsn: int) -> Iterator[None]:
        """At the end of the block, the row that had the slot `slots[i]` at the write `before` has the slot i at the
        write `lsn`. Searches of either may run: those of earlier ones scan the rows that they see."""
        structure = self.structure
        # Both before the block: searches that have seen its end wait for the new numbers.
        with self._following, contextlib.nullcontext() if structure is None else structure.changing():
            yield
            if self._lsn != before:
                return  # `follow` will find that it cannot know what has changed
            self._removals, self._removed_at = (lsn, ()), lsn
            if self.structure is not None:
                self.structure.renumber_slots(inverse(slots))
                self.work += self.structure.arrays.count
            self._version += 1
            known = slots < len(self._ids)
            ids = np.full(len(slots), -1, np.int64)
            ids[known] = self._ids[slots[known]]
            self._ids, self._ids_lsn = ids, lsn if self._ids_lsn == before else -1
            self._version += 1
            self._lsn = lsn

    # -- files -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[Kept | None]:
        """The index as it is at one write, or None while there is no structure. Within the block its arrays stay as
        they are: rows may be added and removed meanwhile, and searched, but links wait."""
        with contextlib.ExitStack() as block:
            with self._following:
                structure, kept = self.structure, None
                if structure is not None:
                    parts = block.enter_context(structure.held())
                    known = self._ids_lsn == self._lsn
                    if known and len(ints := np.flatnonzero(self._ids >= 0)):
                        parts["ids"] = self._ids[: ints[-1] + 1].copy()
                    coder = structure.arrays.coder
                    facts = {
                        "seed": structure.config.seed, "fitted_on": structure.fitted_on, "ids_known": known,
                        "coder": b"" if isinstance(coder, Whole) else coder.to_bytes(),
                    }  # fmt: skip
                    kept = Kept(self._lsn, self.work, facts, parts)
            yield kept

    def restore(self, lsn: int, facts: dict[str, Any], parts: dict[str, Any], slots: int) -> None:
        """Become, before its first use, the index that `held` gave at `lsn`; there are `slots` slots by now.

        ValueError, CorruptionError or the like if it does not fit together.
        """
        self.structure = self.restored(facts, parts, slots)
        if facts["ids_known"]:
            ids = np.full(slots, -1, np.int64)
            if "ids" in parts:
                ids[: len(parts["ids"])] = parts["ids"]
            self._ids, self._ids_lsn = ids, lsn
        self._removals, self._removed_at = (lsn, ()), lsn
        self._lsn = lsn

    def restored(self, facts: dict[str, Any], parts: dict[str, Any], slots: int) -> S:
        """The structure that `held` gave, for `replace`; errors as of `restore`."""
        blob = facts["coder"]
        coder: Coder = Quantizer.from_bytes(blob) if blob else Whole(self.dim, self.metric)
        if (coder.kind, coder.dim, coder.metric) != (self.kind, self.dim, self.metric):
            raise ValueError("the codes are of another kind")
        config = dataclasses.replace(self.config, seed=facts["seed"])
        return self._taken(coder, config, facts["fitted_on"], parts, slots)

    def take_over(self, coder: Coder, config: Any, fitted_on: int, parts: dict[str, Any], slots: int) -> None:
        """Hold the rows as `parts` say; ValueError if they do not fit together."""
        self.structure = self._taken(coder, config, fitted_on, parts, slots)

    def _taken(self, coder: Coder, config: Any, fitted_on: int, parts: dict[str, Any], slots: int) -> S:
        structure = self._made(config, coder, fitted_on)
        structure.restore(parts, slots)
        return structure

    def renew(self, lsn: int, facts: dict[str, Any], parts: dict[str, Any], slots: int) -> None:
        """`restore` while searches run: of a write that the index does not know yet, whatever its slots were."""
        with self._following:
            if lsn > self._lsn:
                self._version += 1
                self._ids_lsn = -1
                try:
                    self.restore(lsn, facts, parts, slots)
                finally:
                    self._version += 1


def inverse(slots: Slots) -> Slots:
    """Where each slot stands in `slots`, -1 for those that do not."""
    numbers = np.full(int(slots.max(initial=-1)) + 1, -1, np.int64)
    numbers[slots] = np.arange(len(slots))
    return numbers


def _apply(change: Change, structure: Structure, rows: Rows, threads: int) -> None:
    structure.remove(change.removed)
    structure.remove(change.added)
    structure.add(rows, change.added, threads)
