"""The `vecstore` command: a demo, a server, and a look into databases."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import vecstore
from vecstore.errors import InvalidArgumentError, VecstoreError
from vecstore.verbs.database import DatabaseVerbs

app = typer.Typer(
    name="vecstore",
    help="A durable vector database that is a folder, embedded in Python or served over gRPC.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
console = Console()

Target = Annotated[str, typer.Argument(help="A database folder, or the HOST:PORT of a server.", show_default=False)]
Name = Annotated[str | None, typer.Argument(help="A collection; all of them if left out.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """The console script: an error of vecstore is one line on stderr and exit code 1, never a traceback."""
    try:
        app()
    except VecstoreError as error:
        Console(stderr=True).print(f"[red]{type(error).__name__}[/]: ", end="")
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"vecstore {vecstore.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the command."""


@app.command(
    epilog="Example: [cyan]vecstore demo --data /tmp/demo[/]",
)
def demo(
    data: Annotated[Path, typer.Option(help="Where to put the database.")] = Path("vecstore-demo"),
) -> None:
    """From nothing to answers: insert 5,000 real sentences durably, search, filter, delete, reopen."""
    from vecstore.demo.show import run

    run(data, console)


@app.command(epilog="Example: [cyan]vecstore serve --data data/ --listen 127.0.0.1:6333[/]")
def serve(
    data: Annotated[Path, typer.Option(help="The database folder; created if it is not there.", show_default=False)],
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes a free one.")] = "127.0.0.1:6333",
    durability: Annotated[
        str, typer.Option(help='When a write is synced: "commit" is before it returns, "interval" some time later.')
    ] = "commit",
    sync_interval: Annotated[
        float | None,
        typer.Option(help="Seconds of writes that a power loss may take, with interval; 0.1 if left out."),
    ] = None,
    memory_limit: Annotated[
        int | None, typer.Option(help="Bytes of RAM that all indexes together may take; see estimate.")
    ] = None,
) -> None:
    """Serve a database folder over gRPC until SIGTERM or Ctrl-C."""
    try:
        from vecstore_server import Config
        from vecstore_server import serve as run
    except ImportError as error:
        raise InvalidArgumentError(
            f'the server is not installed ({error}); run: pip install "vecstore[server]"'
        ) from None
    config = Config(
        data=data,
        listen=listen,
        durability=durability,  # type: ignore[arg-type]
        sync_interval=sync_interval,
        memory_limit=memory_limit,
    )
    raise typer.Exit(run(config))


@app.command(epilog="Example: [cyan]vecstore warmup[/], once after installing, or while a container image is built")
def warmup() -> None:
    """Compile the kernels for this CPU now, instead of when they are first used."""
    with console.status("") as status:

        def show(name: str, done: int, total: int) -> None:
            status.update(f"Compiling kernels: {done} of {total} {name.rpartition('.')[2]}")

        count = vecstore.warmup(show)
    console.print(f"{count} kernels are ready", highlight=False)


@app.command(
    epilog="Examples: [cyan]vecstore stats data/[/]   [cyan]vecstore stats localhost:6333 docs --json[/]",
)
def stats(target: Target, collection: Name = None, as_json: AsJson = False) -> None:
    """Counts and sizes of the collections of a folder or a server."""
    with _database(target) as db:
        found = [db.get_collection(name).stats() for name in _names(db, collection)]
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))  # noqa: T201
        return
    if not found:
        console.print(f"{target} holds no collections yet")
    for one in found:
        table = Table(title=one.name, title_justify="left", show_header=False)
        for key, value in dataclasses.asdict(one).items():
            if key != "name":
                table.add_row(key.replace("_", " "), _size(value) if key.endswith("_bytes") else _plain(value))
        console.print(table)


@app.command(
    epilog="Examples: [cyan]vecstore check data/[/]   [cyan]vecstore check data/ docs[/]   "
    "[cyan]vecstore check data/ --repair[/]"
)
def check(
    target: Target,
    collection: Name = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Take damaged rows out, and make anew what follows from the others."),
    ] = False,
) -> None:
    """Read and verify everything that is stored; exit code 1 if something is wrong."""
    from rich.progress import Progress

    findings: dict[str, list[Any]] = {}
    with (
        _database(target, write=repair) as db,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        if repair and not isinstance(db, vecstore.Database):
            raise InvalidArgumentError("check --repair works on a folder, not on a server")
        for name in _names(db, collection):
            task = bar.add_task(f"Checking {name}", total=None)

            def show(done: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            if isinstance(db, vecstore.Database) and repair:
                findings[name] = db.repair_collection(name)
            else:
                findings[name] = db.get_collection(name).check(progress=show)
    if as_json:
        print(json.dumps({name: [dataclasses.asdict(f) for f in found] for name, found in findings.items()}, indent=2))  # noqa: T201
    else:
        for name, found in findings.items():
            count = "1 finding" if len(found) == 1 else f"{len(found)} findings"
            console.print(f"{name}: " + (f"[red]{count}[/]" if found else "[green]sound[/]"))
            for one in found:
                ids = f"; ids: {', '.join(map(repr, one.ids[:20]))}{' ...' if len(one.ids) > 20 else ''}"
                console.print(f"  {one.part}: {one.message}{ids if one.ids else ''}", markup=False, highlight=False)
    if any(findings.values()):
        raise typer.Exit(1)


IndexOption = Annotated[
    str, typer.Option("--index", help="hnsw, ivf or flat, perhaps with parameters: hnsw:m=32,ef=100.")
]
QUANTIZATIONS = "auto, int8, int4, binary or none"


@app.command(
    "set-index",
    epilog="Examples: [cyan]vecstore set-index data/ docs --index ivf --quantization auto[/]   "
    "[cyan]vecstore set-index localhost:6333 docs --index hnsw:ef=100[/]",
)
def set_index(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection to change.", show_default=False)],
    index: IndexOption,
    quantization: Annotated[str, typer.Option(help=f"same, {QUANTIZATIONS}.")] = "same",
) -> None:
    """Give a collection another index or other codes; searches and writes of this server go on meanwhile."""
    from rich.progress import Progress

    config = _index(index)
    codes: Any = "same" if quantization == "same" else _quantization(quantization)
    with (
        _database(target, write=True) as db,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        rows, task = db.get_collection(collection), bar.add_task(f"Indexing {collection}", total=None)
        rows.set_index(
            config, quantization=codes, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
        console.print(f"{collection}: {rows.info.index}, {rows.info.quantization}", highlight=False)


@app.command(
    epilog="Examples: [cyan]vecstore estimate --rows 1e6 --dim 768 --index ivf[/]   "
    "[cyan]vecstore estimate data/ docs --rows 1e7[/]"
)
def estimate(
    target: Annotated[str | None, typer.Argument(help="A folder or HOST:PORT, for a collection of it.")] = None,
    collection: Annotated[str | None, typer.Argument(help="The collection; left out for one to be created.")] = None,
    rows: Annotated[float | None, typer.Option(help="How many rows; those that there are if left out.")] = None,
    dim: Annotated[int | None, typer.Option(help="Numbers in each vector, without a collection.")] = None,
    metric: Annotated[str | None, typer.Option(help="cosine, dot or l2, without a collection.")] = None,
    index: Annotated[str | None, typer.Option("--index", help="hnsw, ivf or flat, as for set-index.")] = None,
    quantization: Annotated[str | None, typer.Option(help=f"{QUANTIZATIONS}; same with a collection.")] = None,
    as_json: AsJson = False,
) -> None:
    """About what a collection takes in RAM and on the disk, or would with other rows, index or codes."""
    count = None if rows is None else int(rows)
    config = None if index is None else _index(index)
    if target is not None and collection is not None:
        if dim is not None or metric is not None:
            raise InvalidArgumentError("estimate: --dim and --metric are those of the collection; leave them out")
        same: Any = "same" if quantization in (None, "same") else _quantization(str(quantization))
        with _database(target) as db:
            found = db.get_collection(collection).estimate(count, index=config, quantization=same)
    elif target is not None or count is None or dim is None:
        raise InvalidArgumentError("estimate takes either a folder and a collection, or --rows and --dim")
    else:
        codes = _quantization(quantization or "auto")
        found = vecstore.estimate(count, dim, metric or "cosine", index=config, quantization=codes)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))  # noqa: T201
        return
    table = Table(show_header=False)
    for key, value in dataclasses.asdict(found).items():
        table.add_row(key.replace("_", " "), _size(value) if key.endswith("_bytes") else _plain(value))
    console.print(table)


@app.command(epilog="Examples: [cyan]vecstore compact data/[/]   [cyan]vecstore compact localhost:6333 docs[/]")
def compact(target: Target, collection: Name = None) -> None:
    """Shrink the files of a folder, or of a server's collections, to their rows; searches go on meanwhile."""
    with _database(target, write=True) as db:
        for name in _names(db, collection):
            rows = db.get_collection(name)
            before = rows.stats().file_bytes
            with console.status(f"Compacting {name} ..."):
                rows.compact()
            console.print(f"{name}: {_size(before)} -> {_size(rows.stats().file_bytes)}", highlight=False)


@app.command(epilog="Examples: [cyan]vecstore backup data/ /backups/monday[/]   [cyan]vecstore backup data/ b/ docs[/]")
def backup(
    database: Annotated[Path, typer.Argument(help="A database folder; a process may write to it meanwhile.")],
    target: Annotated[Path, typer.Argument(help="The new folder of the backup.", show_default=False)],
    collection: Name = None,
) -> None:
    """Copy a database folder, or one collection, while it is in use; the copy is a database that opens."""
    with vecstore.open(database, read_only=True) as db, console.status(f"Copying {database} to {target} ..."):
        source: Any = db if collection is None else db.get_collection(collection)
        source.backup(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    console.print(f"{target}: {_size(size)}", highlight=False)


@app.command(
    epilog="Examples: [cyan]vecstore search data/ docs --like 17 -k 5[/]   "
    '[cyan]vecstore search localhost:6333 docs --vector query.npy --filter \'{"lang": "en"}\'[/]',
)
def search(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection to search.", show_default=False)],
    like: Annotated[str | None, typer.Option(help="Search with the vector of the row of this id.")] = None,
    vector: Annotated[
        str | None, typer.Option(help="The query: a .npy file, a JSON list, or - for a JSON list on standard input.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many rows to find.")] = 10,
    filter: Annotated[str | None, typer.Option(help="A filter as JSON.")] = None,
    ef: Annotated[int | None, typer.Option(help="Candidates that a search of a graph keeps.")] = None,
    nprobe: Annotated[int | None, typer.Option(help="Lists of an IVF that a search scans.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows nearest to a vector, or to a stored row."""
    if (like is None) == (vector is None):
        raise InvalidArgumentError("search takes either --like ID or --vector QUERY")
    condition = _condition(filter)
    with _database(target) as db:
        rows = db.get_collection(collection)
        query = _read_vector(vector) if vector is not None else _vector_of(rows, str(like))
        hits = rows.search(query, k, filter=condition, ef=ef, nprobe=nprobe)
    _print_hits(hits, "score", as_json)


Only = Annotated[str | None, typer.Option("--filter", help="A filter as JSON: only the rows that match.")]


@app.command(epilog="Example: [cyan]vecstore cluster data/ docs -n 20[/]")
def cluster(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="How many clusters.")] = 10,
    seed: Annotated[int, typer.Option(help="Of all that is drawn at random.")] = 0,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Put the rows into clusters of rows that are near each other; with --json, all ids of each."""
    with _database(target) as db, _progress(f"Clustering {collection}") as show:
        made = db.get_collection(collection).cluster(n, seed=seed, filter=_condition(only), progress=show)
    members = [made.members(label) for label in range(n)]
    if as_json:
        print(json.dumps([{"cluster": label, "ids": ids} for label, ids in enumerate(members)], indent=2))  # noqa: T201
        return
    table = Table("cluster", "rows", "nearest to its centroid")
    for label in made.sizes.argsort(kind="stable")[::-1].tolist():
        table.add_row(str(label), f"{made.sizes[label]:,}", ", ".join(map(repr, members[label][:5])))
    console.print(table)


@app.command(epilog="Example: [cyan]vecstore duplicates data/ docs --threshold 0.97[/]")
def duplicates(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    threshold: Annotated[float, typer.Option(help="The least score of two rows.", show_default=False)],
    exact: Annotated[bool, typer.Option("--exact", help="Score every pair of rows.")] = False,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Find groups of rows that are nearly equal."""
    with _database(target) as db, _progress(f"Searching {collection}") as show:
        rows = db.get_collection(collection)
        groups = rows.near_duplicates(threshold, exact=exact, filter=_condition(only), progress=show)
    if as_json:
        print(json.dumps([group._asdict() for group in groups], indent=2))  # noqa: T201
        return
    table = Table("keep", "near duplicates, by their score")
    for group in groups:
        others = [f"{one!r} ({score:.4f})" for one, score in zip(group.ids[1:], group.scores[1:], strict=True)]
        table.add_row(repr(group.representative), ", ".join(others[:20]) + (" ..." if len(others) > 20 else ""))
    console.print(table)


@app.command(epilog="Example: [cyan]vecstore outliers data/ docs -n 20[/]")
def outliers(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="How many rows to find.")] = 10,
    k: Annotated[int, typer.Option("-k", help="How many nearest others the mean distance is taken to.")] = 10,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows that are farthest from the others."""
    with _database(target) as db, _progress(f"Searching {collection}") as show:
        hits = db.get_collection(collection).outliers(n, k=k, filter=_condition(only), progress=show)
    _print_hits(hits, "distance", as_json)


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, as long as something goes on."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _condition(text: str | None) -> Any:
    return None if text is None else _json(text, "--filter")


def _print_hits(hits: list[vecstore.Hit], title: str, as_json: bool) -> None:
    if as_json:
        found = [{"id": hit.id, "score": hit.score, "payload": hit.payload} for hit in hits]
        print(json.dumps(found, indent=2, ensure_ascii=False, default=str))  # noqa: T201
        return
    table = Table()
    table.add_column(title, justify="right")
    table.add_column("id")
    table.add_column("payload", ratio=1)
    for hit in hits:
        text = "" if hit.payload is None else json.dumps(hit.payload, ensure_ascii=False, default=str)
        table.add_row(f"{hit.score:.4f}", repr(hit.id), text)
    console.print(table)


@contextlib.contextmanager
def _database(target: str, *, write: bool = False) -> Iterator[DatabaseVerbs]:
    """A folder, opened so that a live writer is not in the way unless one has to `write`; or a connection."""
    host, colon, port = target.rpartition(":")
    db: DatabaseVerbs
    if colon and host and port.isdigit() and not Path(target).exists():
        db = vecstore.connect(target)
    else:
        if write:
            from vecstore.storage.folder import check_marker

            check_marker(Path(target))  # it is not the command to create one
        db = vecstore.open(target, read_only=not write)
    with db:
        yield db


def _names(db: DatabaseVerbs, collection: str | None) -> list[str]:
    return db.list_collections() if collection is None else [collection]


def _vector_of(rows: Any, like: str) -> Any:
    """The vector of a row; the id is taken as it stands, else as a number."""
    for one in [like, *([int(like)] if like.isdigit() else [])]:
        record = rows.get(one, with_payload=False, with_vectors=True)
        if record is not None:
            return record.vector
    raise vecstore.NotFoundError(f"--like: no row with id {like!r}", ids=[like])


def _read_vector(source: str) -> Any:
    import numpy as np

    if source.endswith(".npy"):
        try:
            return np.load(source)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"--vector: cannot read {source}: {error}") from None
    return _json(sys.stdin.read() if source == "-" else source, "--vector")


def _index(text: str) -> Any:
    """HNSW(m=32) of "hnsw:m=32"."""
    from vecstore.types import INDEX_KINDS

    kind, _, rest = text.partition(":")
    if kind not in INDEX_KINDS:
        raise InvalidArgumentError(f"--index: expected hnsw, ivf or flat, got {text!r}")
    options = dict(one.partition("=")[::2] for one in rest.split(",") if one)
    return INDEX_KINDS[kind](**{name: _json(value, f"--index: {name}") for name, value in options.items()})


def _quantization(text: str) -> Any:
    """Int8() of "int8"."""
    from vecstore.types import KIND_NAMES

    kinds = {"auto": "auto", "none": None, **{name: kind() for kind, name in KIND_NAMES.items()}}
    if text not in kinds:
        raise InvalidArgumentError(f"--quantization: expected {QUANTIZATIONS}, got {text!r}")
    return kinds[text]


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{option}: expected JSON ({error}), got {text[:60]!r}") from None


def _size(n: int) -> str:
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
