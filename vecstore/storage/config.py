"""What a collection was created with, as its data.mdb keeps it: written once, checked at each opening."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any, Final, get_args

import msgpack

from vecstore.arguments import index_config
from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError, NotADatabaseError
from vecstore.storage import log
from vecstore.storage.blocks import Layout
from vecstore.storage.environment import Environment
from vecstore.types import INDEX_KINDS, KIND_NAMES, Metric

FORMAT: Final = 2
CONFIG_KEY: Final = b"config"
UID_BYTES: Final = 16
MAGIC: Final = "vecstore"


def new_config(given: dict[str, Any]) -> dict[str, Any]:
    """All that is kept of a new collection which is given dim, metric, index and quantization."""
    shift, uid = Layout.of(given["dim"]).shift, secrets.token_bytes(UID_BYTES)
    return {"magic": MAGIC, "format": FORMAT, **given, "shift": shift, "uid": uid}


def write_config(txn: Any, env: Environment, config: dict[str, Any]) -> None:
    """Keep it, within a write transaction."""
    txn.put(CONFIG_KEY, msgpack.packb(config), db=env.db("meta"))


def upgrade(txn: Any, env: Environment, config: dict[str, Any]) -> dict[str, Any]:
    """From format 1, which had neither uid nor write ids."""
    config = {**config, "format": FORMAT, "uid": secrets.token_bytes(UID_BYTES)}
    write_config(txn, env, config)
    log.give_write_id(txn, env.db("log"))
    return config


def read_config(txn: Any, env: Environment) -> dict[str, Any]:
    """What `write_config` has kept; NotADatabaseError, FormatVersionError or CorruptionError where it is no such."""
    path = str(env.path)
    value = txn.get(CONFIG_KEY, db=env.db("meta"))
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
    if index.keys() != {"kind", *names}:
        return False
    try:
        index_config(kind(**{name: index[name] for name in names}))
    except InvalidArgumentError:
        return False
    return True
