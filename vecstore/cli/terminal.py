"""How a command answers: on a terminal, or in JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import vecstore

console = Console()


def print_json(value: Any) -> None:
    """For another program."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, as long as something goes on."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_figures(figures: dict[str, Any], title: str | None = None) -> None:
    """A table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), size(value) if key.endswith("_bytes") else _plain(value))
    console.print(table)


def print_hits(hits: list[vecstore.Hit], title: str, as_json: bool) -> None:
    """Rows with the score that `title` names."""
    if as_json:
        print_json([{"id": hit.id, "score": hit.score, "payload": hit.payload} for hit in hits])
        return
    table = Table()
    table.add_column(title, justify="right")
    table.add_column("id")
    table.add_column("payload", ratio=1)
    for hit in hits:
        text = "" if hit.payload is None else json.dumps(hit.payload, ensure_ascii=False, default=str)
        table.add_row(f"{hit.score:.4f}", repr(hit.id), text)
    console.print(table)


def size(n: int) -> str:
    """Bytes in a unit that suits them."""
    left = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if left < 1024:
            return f"{left:,.0f} {unit}" if unit == "B" else f"{left:,.1f} {unit}"
        left /= 1024
    return f"{left:,.1f} TiB"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
