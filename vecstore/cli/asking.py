"""Commands that ask about the rows of a collection: what is near, alike, or far from all others."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vecstore.cli import given, terminal
from vecstore.cli.given import AsJson, Only, Target
from vecstore.errors import InvalidArgumentError

commands = typer.Typer()


@commands.command(
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
    condition = given.condition(filter)
    with given.database(target) as db:
        rows = db.get_collection(collection)
        query = given.read_vector(vector) if vector is not None else given.vector_of(rows, str(like))
        hits = rows.search(query, k, filter=condition, ef=ef, nprobe=nprobe)
    terminal.print_hits(hits, "score", as_json)


@commands.command(epilog="Example: [cyan]vecstore cluster data/ docs -n 20[/]")
def cluster(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="How many clusters.")] = 10,
    seed: Annotated[int, typer.Option(help="Of all that is drawn at random.")] = 0,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Put the rows into clusters of rows that are near each other; with --json, all ids of each."""
    with given.database(target) as db, terminal.progress(f"Clustering {collection}") as show:
        made = db.get_collection(collection).cluster(n, seed=seed, filter=given.condition(only), progress=show)
    members = [made.members(label) for label in range(n)]
    if as_json:
        terminal.print_json([{"cluster": label, "ids": ids} for label, ids in enumerate(members)])
        return
    table = Table("cluster", "rows", "nearest to its centroid")
    for label in made.sizes.argsort(kind="stable")[::-1].tolist():
        table.add_row(str(label), f"{made.sizes[label]:,}", ", ".join(map(repr, members[label][:5])))
    terminal.console.print(table)


@commands.command(epilog="Example: [cyan]vecstore duplicates data/ docs --threshold 0.97[/]")
def duplicates(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    threshold: Annotated[float, typer.Option(help="The least score of two rows.", show_default=False)],
    exact: Annotated[bool, typer.Option("--exact", help="Score every pair of rows.")] = False,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Find groups of rows that are nearly equal."""
    with given.database(target) as db, terminal.progress(f"Searching {collection}") as show:
        rows = db.get_collection(collection)
        groups = rows.near_duplicates(threshold, exact=exact, filter=given.condition(only), progress=show)
    if as_json:
        terminal.print_json([group._asdict() for group in groups])
        return
    table = Table("keep", "near duplicates, by their score")
    for group in groups:
        others = [f"{one!r} ({score:.4f})" for one, score in zip(group.ids[1:], group.scores[1:], strict=True)]
        table.add_row(repr(group.representative), ", ".join(others[:20]) + (" ..." if len(others) > 20 else ""))
    terminal.console.print(table)


@commands.command(epilog="Example: [cyan]vecstore outliers data/ docs -n 20[/]")
def outliers(
    target: Target,
    collection: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="How many rows to find.")] = 10,
    k: Annotated[int, typer.Option("-k", help="How many nearest others the mean distance is taken to.")] = 10,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows that are farthest from the others."""
    with given.database(target) as db, terminal.progress(f"Searching {collection}") as show:
        hits = db.get_collection(collection).outliers(n, k=k, filter=given.condition(only), progress=show)
    terminal.print_hits(hits, "distance", as_json)
