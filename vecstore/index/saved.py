"""The file of a raw index: a zip of NumPy arrays, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from vecstore.errors import CorruptionError, FormatVersionError, NotADatabaseError
from vecstore.index.arrays import Coder
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole
from vecstore.types import HNSW, INDEX_KINDS, KIND_NAMES, IndexConfig, Metric, Quantization

FORMAT: Final = 2

Parts = dict[str, Any]


def write(path: str | os.PathLike[str], parts: Parts) -> None:
    """Write arrays by their names."""
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, format=np.array(FORMAT), **parts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Parts]:
    """The arrays of a file. FileNotFoundError, NotADatabaseError (another file), FormatVersionError, CorruptionError:
    the latter also where the block finds them incomplete."""
    where = str(path)
    try:
        with Path(path).open("rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            try:
                arrays = np.load(file, allow_pickle=False)
                parts = {name: arrays[name] for name in arrays.files} if zipped else {}
            except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
                if zipped:
                    raise CorruptionError(f"{where}: the file is damaged ({error})", path=where) from None
    except IsADirectoryError:
        zipped = False
    if not zipped or "format" not in parts:
        raise NotADatabaseError(f"{where} is no saved index", path=where)
    if parts["format"].dtype.kind != "i" or parts["format"].shape:
        raise CorruptionError(f"{where}: the file is damaged", path=where)
    if (found := int(parts["format"])) > FORMAT:
        raise FormatVersionError(
            f"{where} has format {found}, and this version of vecstore reads up to {FORMAT}; upgrade vecstore",
            path=where,
            found=found,
            supported=FORMAT,
        )
    try:
        yield parts
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CorruptionError(f"{where}: the file is not complete ({error!r})", path=where) from None


def of_index(config: IndexConfig, metric: Metric, quantization: Quantization | None, dim: int) -> Parts:
    """What index it is."""
    name = next(name for name, made in INDEX_KINDS.items() if isinstance(config, made))
    kind = "float32" if quantization is None else KIND_NAMES[type(quantization)]
    return {
        "index": np.array([name, json.dumps(dataclasses.asdict(config))]),
        "kind": np.array([metric, kind]),
        "dim": np.array(dim),
    }


def index_of(parts: Parts) -> tuple[IndexConfig, Metric, Quantization | None, int]:
    """What `of_index` says: config, metric, codes and dim."""
    config: IndexConfig
    if "index" in parts:
        kept, text = (str(x) for x in parts["index"])
        config = INDEX_KINDS[kept](**json.loads(text))
    else:  # format 1 knew only graphs
        m, ef_construction, ef, seed = (int(x) for x in parts["config"])
        config = HNSW(m=m, ef_construction=ef_construction, ef=ef, alpha=float(parts["alpha"]), seed=seed)
    metric, kind = (str(x) for x in parts["kind"])
    kind = kind.removeprefix("list-")  # as it was once written of binary codes in lists
    quantization = next((made() for made, name in KIND_NAMES.items() if name == kind), None)
    if quantization is None and kind != "float32":
        raise ValueError(f"{kind!r} are no codes")
    return config, metric, quantization, int(parts["dim"])  # type: ignore[return-value]


def of_coder(coder: Coder, fitted_on: int) -> Parts:
    """How rows are coded, and how many it was fitted on."""
    blob = b"" if isinstance(coder, Whole) else coder.to_bytes()
    return {"coder": np.frombuffer(blob, np.uint8), "fitted_on": np.array(fitted_on)}


def coder_of(parts: Parts, dim: int, metric: Metric) -> tuple[Coder, int]:
    """What `of_coder` says."""
    blob = parts["coder"].tobytes()
    return Quantizer.from_bytes(blob) if blob else Whole(dim, metric), int(parts["fitted_on"])
