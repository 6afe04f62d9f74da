"""The `vecstore` command: a demo, a server, and a look into databases."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

import vecstore
from vecstore.cli import asking, running, terminal, upkeep
from vecstore.errors import VecstoreError

app = typer.Typer(
    name="vecstore",
    help="A durable vector database that is a folder, embedded in Python or served over gRPC.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for module in (running, upkeep, asking):
    app.add_typer(module.commands)


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
        terminal.console.print(f"vecstore {vecstore.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the command."""
