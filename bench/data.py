"""The rows that benchmarks run on: a folder of real embeddings, or the sample that comes with vecstore.

A folder (`--data DIR`, or VECSTORE_BENCH_DATA) holds `vectors.f16.npy` `(n, dim)`, `queries.f16.npy`,
`payloads.jsonl.gz` with one object a line and its `id`, and `truth100.npy`, the exact top 100 by cosine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE = Path(__file__).parent.parent / "vecstore" / "demo"


@dataclass(frozen=True)
class Data:
    """Rows in one order everywhere: ids, unit vectors `(n, dim) float32`, payloads; queries; truth or None."""

    name: str
    ids: list[str]
    vectors: npt.NDArray[np.float32]
    payloads: list[dict[str, Any]]
    queries: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int32] | None


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("VECSTORE_BENCH_DATA") or SAMPLE)
    return parser


def load(folder: Path) -> Data:
    """Read a data folder."""
    folder = Path(folder)
    rows = folder / "payloads.jsonl.gz"
    with gzip.open(rows if rows.exists() else folder / "rows.jsonl.gz", "rt") as file:
        payloads = [json.loads(line) for line in file]
    truth = folder / "truth100.npy"
    return Data(
        name="sample" if folder == SAMPLE else folder.name,
        ids=[payload.pop("id") for payload in payloads],
        vectors=_unit(np.load(folder / "vectors.f16.npy")),
        payloads=payloads,
        queries=_unit(np.load(folder / "queries.f16.npy")),
        truth=np.load(truth) if truth.exists() else None,
    )


def _unit(rows: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    floats = rows.astype(np.float32)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True)
