"""A disk that loses its power: from recorded storage calls, what may be on it at any moment.

What was synced is there. Of what was written since, any part may be: whole pages, and of a page any of its sectors,
in any order. A write to a file opened with O_DSYNC is there when it has returned. After a sync that failed, the kernel
takes the pages for clean: a later sync does not bring them, unless they are written again.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

PAGE, SECTOR = 4096, 512
# So many pieces may each be there or not, in all combinations; of more, some combinations are drawn.
SYSTEMATIC = 4


@dataclass
class Piece:
    """Bytes of one page that were written and not yet synced; `doubtful` once a sync of them has failed."""

    path: str
    offset: int
    data: bytes
    doubtful: bool = False

    @property
    def page(self):
        return self.path, self.offset // PAGE

    def sectors(self):
        at = self.offset
        end = at + len(self.data)
        while at < end:
            upto = min((at // SECTOR + 1) * SECTOR, end)
            yield Piece(self.path, at, self.data[at - self.offset : upto - self.offset])
            at = upto


class Disk:
    """What is durable in some files, by path, and what may be."""

    def __init__(self, paths):
        self.durable = {str(path): bytearray(Path(path).read_bytes()) for path in paths}
        self.pending = []

    def begun(self, call):
        """The pieces that a call brings, which may be there before it has returned."""
        if call.kind != "write" or call.path.endswith("-lock"):
            return []
        pieces, at, end = [], call.offset, call.offset + len(call.data)
        while at < end:
            upto = min((at // PAGE + 1) * PAGE, end)
            pieces.append(Piece(call.path, at, call.data[at - call.offset : upto - call.offset]))
            at = upto
        return pieces

    def ended(self, call, result):
        """Follow a call that has returned with `result`: the bytes written, 0, or -errno."""
        pieces = self.begun(call)
        self.pending += pieces
        here = [one for one in self.pending if one.path == call.path]
        if call.kind == "sync":
            self._synced(here, result == 0)
        elif call.synced:  # with the pages that it touches
            touched = {one.page for one in pieces}
            self._synced([one for one in here if one.page in touched], result == len(call.data))

    def _synced(self, pieces, successfully):
        if not successfully:
            for one in pieces:
                one.doubtful = True
            return
        dirty = {one.page for one in pieces if not one.doubtful}
        for one in pieces:
            if one.page in dirty:
                put(self.durable, one)
        self.pending = [one for one in self.pending if not (one in pieces and one.page in dirty)]

    def images(self, begun, rng, n):
        """Contents by path that may be found after a power loss: all of them if they are few, else some `n`."""
        pieces = [*self.pending, *begun]
        if len(pieces) <= SYSTEMATIC:
            chosen = [[*itertools.compress(pieces, bits)] for bits in itertools.product((0, 1), repeat=len(pieces))]
        else:
            chosen = [[], pieces, pieces[:-1], pieces[1:]]
            chosen += [[one for one in pieces if rng.random() < share] for share in (rng.random() for _ in range(n))]
        # Some pages torn: sectors of theirs, in any order.
        torn = [sector for one in pieces for sector in one.sectors()]
        chosen += [[one for one in torn if rng.random() < share] for share in (rng.random() for _ in range(n // 2))]
        yield from map(self.image, chosen)

    def image(self, pieces):
        """Contents by path, where of what is not durable just these pieces are there."""
        files = {path: bytearray(content) for path, content in self.durable.items()}
        for one in pieces:
            put(files, one)
        return files


def put(files, piece):
    """Write a piece into the contents of its file."""
    content = files.setdefault(piece.path, bytearray())
    missing = piece.offset + len(piece.data) - len(content)
    if missing > 0:
        content += bytes(missing)
    content[piece.offset : piece.offset + len(piece.data)] = piece.data
