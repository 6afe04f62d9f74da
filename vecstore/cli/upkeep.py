"""Commands that look after databases: figures, checks, backups, and what makes an index or a file anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

import vecstore
from vecstore.cli import given, terminal
from vecstore.cli.given import QUANTIZATIONS, AsJson, IndexOption, Name, Target
from vecstore.errors import CorruptionError, InvalidArgumentError, NotADatabaseError
from vecstore.types import Finding

commands = typer.Typer()

# Findings of a collection that are printed.
SHOWN = 20


@commands.command(
    epilog="Examples: [cyan]vecstore stats data/[/]   [cyan]vecstore stats localhost:6333 docs --json[/]",
)
def stats(target: Target, collection: Name = None, as_json: AsJson = False) -> None:
    """Counts and sizes of the collections of a folder or a server."""
    with given.database(target) as db:
        found = [db.get_collection(name).stats() for name in given.names(db, collection)]
    if as_json:
        terminal.print_json([dataclasses.asdict(one) for one in found])
        return
    if not found:
        terminal.console.print(f"{target} holds no collections yet")
    for one in found:
        figures = dataclasses.asdict(one)
        terminal.print_figures(figures, title=figures.pop("name"))


@commands.command(
    epilog="Examples: [cyan]vecstore check data/[/]   [cyan]vecstore check data/ docs[/]   "
    "[cyan]vecstore check data/ --repair[/]"
)
def check(
    target: Target,
    collection: Name = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Where it finds something: take damaged rows out, make anew what follows.",
        ),
    ] = False,
) -> None:
    """Read and verify everything that is stored; exit code 1 if something is wrong."""
    findings: dict[str, list[Finding]] = {}
    repaired: set[str] = set()
    with given.database(target, write=repair) as db:
        if repair and not isinstance(db, vecstore.Database):
            raise InvalidArgumentError("check --repair works on a folder, not on a server")
        for name in given.names(db, collection):
            with terminal.progress(f"Checking {name}") as show:
                try:
                    findings[name] = db.get_collection(name).check(progress=show)
                except (CorruptionError, NotADatabaseError) as error:  # and the other collections are looked at too
                    findings[name] = [Finding("file", str(error))]
            if isinstance(db, vecstore.Database) and repair and findings[name]:
                repaired.add(name)
                with terminal.console.status(f"Repairing {name} ..."):
                    try:
                        findings[name] = db.repair_collection(name)
                    except (CorruptionError, NotADatabaseError) as error:
                        findings[name] = [Finding("repair", f"{error}. Only a backup helps")]
    if as_json:
        terminal.print_json({name: [dataclasses.asdict(f) for f in found] for name, found in findings.items()})
    else:
        for name, found in findings.items():
            count = "1 finding" if len(found) == 1 else f"{len(found)} findings"
            sound = "repaired, nothing is lost" if name in repaired else "sound"
            terminal.console.print(f"{name}: " + (f"[red]{count}[/]" if found else f"[green]{sound}[/]"))
            for one in found[:SHOWN]:
                ids = f"; ids: {', '.join(map(repr, one.ids[:20]))}{' ...' if len(one.ids) > 20 else ''}"
                terminal.console.print(
                    f"  {one.part}: {one.message}{ids if one.ids else ''}", markup=False, highlight=False
                )
            if len(found) > SHOWN:
                terminal.console.print(f"  and {len(found) - SHOWN:,} more; --json has all of them", highlight=False)
            if name in repaired and found:
                terminal.console.print(
                    f"  what could be read of them is in {target}/collections/{name}/quarantine-*.jsonl",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip
    if any(findings.values()):
        raise typer.Exit(1)


@commands.command(
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
    config = given.index(index)
    codes: Any = "same" if quantization == "same" else given.quantization(quantization)
    with given.database(target, write=True) as db, terminal.progress(f"Indexing {collection}") as show:
        rows = db.get_collection(collection)
        rows.set_index(config, quantization=codes, progress=show)
        terminal.console.print(f"{collection}: {rows.info.index}, {rows.info.quantization}", highlight=False)


@commands.command(
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
    config = None if index is None else given.index(index)
    if target is not None and collection is not None:
        if dim is not None or metric is not None:
            raise InvalidArgumentError("estimate: --dim and --metric are those of the collection; leave them out")
        same: Any = "same" if quantization in (None, "same") else given.quantization(str(quantization))
        with given.database(target) as db:
            found = db.get_collection(collection).estimate(count, index=config, quantization=same)
    elif target is not None or count is None or dim is None:
        raise InvalidArgumentError("estimate takes either a folder and a collection, or --rows and --dim")
    else:
        codes = given.quantization(quantization or "auto")
        found = vecstore.estimate(count, dim, metric or "cosine", index=config, quantization=codes)  # type: ignore[arg-type]
    if as_json:
        terminal.print_json(dataclasses.asdict(found))
        return
    terminal.print_figures(dataclasses.asdict(found))


@commands.command(epilog="Examples: [cyan]vecstore compact data/[/]   [cyan]vecstore compact localhost:6333 docs[/]")
def compact(target: Target, collection: Name = None) -> None:
    """Shrink the files of a folder, or of a server's collections, to their rows; searches go on meanwhile."""
    with given.database(target, write=True) as db:
        for name in given.names(db, collection):
            rows = db.get_collection(name)
            before = rows.stats().file_bytes
            with terminal.console.status(f"Compacting {name} ..."):
                rows.compact()
            terminal.console.print(
                f"{name}: {terminal.size(before)} -> {terminal.size(rows.stats().file_bytes)}", highlight=False
            )


@commands.command(
    epilog="Examples: [cyan]vecstore backup data/ /backups/monday[/]   [cyan]vecstore backup data/ b/ docs[/]"
)
def backup(
    database: Annotated[Path, typer.Argument(help="A database folder; a process may write to it meanwhile.")],
    target: Annotated[Path, typer.Argument(help="The new folder of the backup.", show_default=False)],
    collection: Name = None,
) -> None:
    """Copy a database folder, or one collection, while it is in use; the copy is a database that opens."""
    with vecstore.open(database, read_only=True) as db, terminal.console.status(f"Copying {database} to {target} ..."):
        source: Any = db if collection is None else db.get_collection(collection)
        source.backup(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    terminal.console.print(f"{target}: {terminal.size(size)}", highlight=False)
