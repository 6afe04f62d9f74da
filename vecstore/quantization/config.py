"""How a collection asks for codes: plain frozen dataclasses, with nothing imported that takes time.

`oversampling * k` candidates are rescored from the full rows. The defaults are where recall@10 of a scan over
100,000 embeddings of 384 dims was 1.0000 (Int8), 0.9997 (Int4) and 0.9950 (Binary).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Int8:
    """A byte per dim."""

    kind: ClassVar[str] = "int8"
    oversampling: float = 2.0


@dataclass(frozen=True, slots=True)
class Int4:
    """Half a byte per dim."""

    kind: ClassVar[str] = "int4"
    oversampling: float = 2.0


@dataclass(frozen=True, slots=True)
class Binary:
    """One bit per dim (RaBitQ), in steps of 512 dims."""

    kind: ClassVar[str] = "binary"
    oversampling: float = 10.0


Quantization = Int8 | Int4 | Binary


def default_for(dim: int) -> Quantization:
    """What quantization="auto" stands for: Int4 from 128 dims up, where its codes are half of Int8's."""
    return Int4() if dim >= 128 else Int8()
