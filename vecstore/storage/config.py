"""What a collection is, as its data.mdb keeps it: checked at each opening. Index and codes may change."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any, Final, get_args

import msgpack

from vecstore.arguments import index_config
from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError, NotADatabaseError
from vecstore.storage import log
from vecstore.storage.blocks import Layout
from vecstore.storage.environment import Environment
from vecstore.types import INDEX_KINDS, KIND_NAMES, CollectionInfo, Metric

FORMAT: Final = 2
CONFIG_KEY: Final = b"config"
UID_BYTES: Final = 16
MAGIC: Final = "vecstore"
CHANGEABLE: Final = ("index", "quantization")
"""What is kept of a collection and may change."""
SEARCH_OPTIONS: Final = ("ef", "nprobe")
"""Numbers of an index that searches go by, and that say nothing of its arrays."""


def new_config(given: dict[str, Any]) -> dict[str, Any]:
    """All that is kept of a new collection which is given dim, metric, index and quantization."""
    shift, uid = Layout.of(given["dim"]).shift, secrets.token_bytes(UID_BYTES)
    return {"magic": MAGIC, "format": FORMAT, **given, "shift": shift, "uid": uid}


def config_of(info: CollectionInfo) -> dict[str, Any]:
    """What is kept of a collection that was given all this, but for its name."""
    codes = None if info.quantization is None else KIND_NAMES[type(info.quantization)]
    kind = next(name for name, cls in INDEX_KINDS.items() if isinstance(info.index, cls))
    index = {"kind": kind, **dataclasses.asdict(info.index)}
    if index.get("resident"):
        del index["resident"]
    return {"dim": info.dim, "metric": info.metric, "index": index, "quantization": codes}


def info_of(name: str, config: dict[str, Any]) -> CollectionInfo:
    """The same, read back."""
    codes = config["quantization"]
    kinds = {kind: cls for cls, kind in KIND_NAMES.items()}
    options = {key: value for key, value in config["index"].items() if key != "kind"}
    index = INDEX_KINDS[config["index"]["kind"]](**options)
    return CollectionInfo(name, config["dim"], config["metric"], index, None if codes is None else kinds[codes]())


def built_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether what is kept of two indexes differs at most in what searches go by."""
    return _built(one) == _built(other)


def _built(index: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in index.items() if key not in SEARCH_OPTIONS}


def write_config(txn: Any, env: Environment, config: dict[str, Any]) -> None:
    """Keep it, within a write transaction."""
    txn.put(CONFIG_KEY, msgpack.packb(config), db=env.db("meta"))


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The same in the format of now: format 1 had no uid."""
    return config if config["format"] == FORMAT else {**config, "format": FORMAT, "uid": secrets.token_bytes(UID_BYTES)}


def upgrade(txn: Any, env: Environment, config: dict[str, Any]) -> dict[str, Any]:
    """From format 1, which had neither uid nor write ids."""
    config = upgraded(config)
    write_config(txn, env, config)
    log.give_write_id(txn, env.db("log"))
    return config


def read_config(txn: Any, env: Environment) -> dict[str, Any]:
    """What `write_config` has kept; NotADatabaseError, FormatVersionError or CorruptionError where it is no such."""
    return unpacked(txn.get(CONFIG_KEY, db=env.db("meta")), env.path)


def unpacked(value: Any, file: Path) -> dict[str, Any]:
    """The same of the value that stands in a file, or None."""
    path = str(file)
    try:
        config: dict[str, Any] = msgpack.unpackb(value) if value is not None else {}
        if config["magic"] != MAGIC:
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise NotADatabaseError(f"{path} was not written by vecstore", path=path) from None
    if not isinstance(config.get("format"), int):
        raise CorruptionError(f"{path}: its format is {config.get('format')!r}", path=path)
    if config["format"] > FORMAT:
        raise FormatVersionError(
            f"{path} has format {config['format']}, and this version of vecstore reads up to {FORMAT}; "
            "upgrade vecstore",
            path=path,
            found=config["format"],
            supported=FORMAT,
        )
    if not _makes_sense(config):
        raise CorruptionError(f"{path}: what the collection was created with is damaged: {config}", path=path)
    return config


def _makes_sense(config: dict[str, Any]) -> bool:
    known = {"dim", "metric", "index", "quantization", "shift"} <= config.keys()
    return (
        known
        and (config["format"] == 1 or (isinstance(config.get("uid"), bytes) and len(config["uid"]) == UID_BYTES))
        and isinstance(config["dim"], int)
        and isinstance(config["shift"], int)
        and config["metric"] in get_args(Metric)
        and config["quantization"] in (None, *KIND_NAMES.values())
        and Layout.of(config["dim"]).shift == config["shift"]
        and _index_makes_sense(config["index"])
    )


def _index_makes_sense(index: Any) -> bool:
    """Whether it is a map of a known kind with just the numbers of that kind, each in its range."""
    if not isinstance(index, dict) or index.get("kind") not in [*INDEX_KINDS]:
        return False
    kind = INDEX_KINDS[index["kind"]]
    names = {one.name for one in dataclasses.fields(kind)}
    optional = names & {"resident"}
    if index.keys() | optional != {"kind", *names}:
        return False
    try:
        index_config(kind(**{name: index[name] for name in names & index.keys()}))
    except InvalidArgumentError:
        return False
    return True
