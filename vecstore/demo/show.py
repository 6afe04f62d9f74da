"""What `vecstore demo` does: insert, search, filter, delete, reopen, on real data and a real folder."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import vecstore
from vecstore.demo import Sample, load_sample
from vecstore.types import Hit

COLLECTION = "wordnet"
BATCH = 250
SENTENCES = (
    "automobile tires are usually made of rubber and filled with compressed air",
    "she heard the sigh of the wind in the trees",
    "ducks walk with a waddle",
    "the map showed roads and other features",
    "the time of year for planting",
)
TEA, FOOD = "She was sipping her tea", {"domain": 13}  # 13 is WordNet's lexicographer file of food


def run(folder: Path, console: Console) -> None:
    """Build a database in `folder` (its collection `wordnet` is made anew) and show what it answers."""
    sample = load_sample()
    console.print(
        f"[bold]vecstore {vecstore.__version__}[/]: {len(sample.ids):,} definitions from WordNet, embedded as vectors "
        f"of {sample.vectors.shape[1]} numbers, in the folder [cyan]{escape(str(folder))}[/]\n"
    )
    with vecstore.open(folder) as db:
        words = _fill(db, sample, console)
        _nearest(words, sample, console)
        _filtered(words, sample, console)
        _delete(words, sample, console)
        before = _answers(words, sample)
    with vecstore.open(folder) as db:
        after = _answers(db.get_collection(COLLECTION), sample)
    same = "the same answers" if before == after else "[red]other answers: this should never be[/]"
    console.print(
        f"[bold]Closed and reopened:[/] all {len(sample.queries)} sentences asked before and after have {same}.\n"
    )
    _next_steps(folder, sample, console)


def _fill(db: Any, sample: Sample, console: Console) -> Any:
    if COLLECTION in db.list_collections():
        db.drop_collection(COLLECTION)
    words = db.create_collection(COLLECTION, dim=sample.vectors.shape[1])
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Inserting, durably", total=len(sample.ids))
        for i in range(0, len(sample.ids), BATCH):
            rows = slice(i, i + BATCH)
            words.insert(sample.ids[rows], sample.vectors[rows], sample.payloads[rows])
            progress.advance(task, len(sample.ids[rows]))
    taken = time.perf_counter() - start
    commits = -(-len(sample.ids) // BATCH)
    console.print(f"{words.count():,} rows in {taken:.2f} s: {commits} commits, each on disk when insert() returned\n")
    return words


def _nearest(words: Any, sample: Sample, console: Console) -> None:
    table = Table(show_edge=False)
    table.add_column("score", justify="right")
    table.add_column("sentence, and its nearest definitions", no_wrap=True, max_width=console.width - 10)
    for sentence in SENTENCES:
        table.add_row("", f"[bold]{sentence}[/]")
        hits = words.search(_vector(sample, sentence), k=3)
        for hit in hits:
            table.add_row(f"{hit.score:.3f}", _text(hit), end_section=hit is hits[-1])
    console.print(table, "")


def _filtered(words: Any, sample: Sample, console: Console) -> None:
    query = _vector(sample, TEA)
    table = Table(title=f'"{TEA}", asked with a filter', title_justify="left", show_edge=False)
    table.add_column("filter")
    table.add_column("score", justify="right")
    table.add_column("nearest definitions", no_wrap=True, max_width=console.width - 34)
    for name, condition in (("none", None), (f"{FOOD}, food", FOOD)):
        hits = words.search(query, k=3, filter=condition)
        for hit in hits:
            first, last = hit is hits[0], hit is hits[-1]
            table.add_row(name if first else "", f"{hit.score:.3f}", _text(hit), end_section=last)
    console.print(table, "")


def _delete(words: Any, sample: Sample, console: Console) -> None:
    query = _vector(sample, SENTENCES[2])
    first = words.search(query, k=1)[0]
    words.delete(first.id)
    now = words.search(query, k=1)[0]
    console.print(
        f'[bold]A delete:[/] "{SENTENCES[2]}" was nearest to [cyan]{_title(first)}[/] ({first.score:.3f}); '
        f"without that row it is [cyan]{_title(now)}[/] ({now.score:.3f}).\n",
        highlight=False,
    )


def _answers(words: Any, sample: Sample) -> Any:
    return words.search(sample.query_vectors, k=10)


def _vector(sample: Sample, sentence: str) -> Any:
    return sample.query_vectors[sample.queries.index(sentence)]


def _text(hit: Hit) -> str:
    return escape(str((hit.payload or {}).get("text")))


def _title(hit: Hit) -> str:
    return escape(str((hit.payload or {}).get("title")))


def _next_steps(folder: Path, sample: Sample, console: Console) -> None:
    command = "vecstore" if shutil.which("vecstore") else shlex.quote(sys.argv[0])
    console.print("[bold]Now serve the folder,[/] and ask it from another terminal, or from Python:\n")
    console.print(
        f"  {command} serve --data {shlex.quote(str(folder))}\n"
        f"  {command} search localhost:6333 {COLLECTION} --like {sample.ids[0]}\n\n"
        f"  import vecstore\n"
        f'  words = vecstore.connect("localhost:6333").get_collection("{COLLECTION}")\n'
        f'  words.get("{sample.ids[0]}")\n',
        highlight=False,
        markup=False,
    )
