"""A small sample of real embeddings: 5,000 WordNet definitions and 200 sentences; see NOTICE for their licence."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sample:
    """Rows in one order everywhere, `vectors` `(5000, 384)` and `query_vectors` `(200, 384)`, unit float32."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    payloads: list[dict[str, Any]]
    queries: list[str]
    query_vectors: npt.NDArray[np.float32]


def load_sample() -> Sample:
    """Read the sample."""
    folder = Path(__file__).parent
    with gzip.open(folder / "rows.jsonl.gz", "rt", encoding="utf-8") as file:
        payloads = [json.loads(line) for line in file]
    return Sample(
        ids=[payload.pop("id") for payload in payloads],
        vectors=np.load(folder / "vectors.f16.npy").astype(np.float32),
        payloads=payloads,
        queries=json.loads((folder / "queries.json").read_text(encoding="utf-8")),
        query_vectors=np.load(folder / "queries.f16.npy").astype(np.float32),
    )
