"""Commands that run something: the demo, the server, the compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import vecstore
from vecstore.cli import terminal
from vecstore.errors import InvalidArgumentError

commands = typer.Typer()


@commands.command(
    epilog="Example: [cyan]vecstore demo --data /tmp/demo[/]",
)
def demo(
    data: Annotated[Path, typer.Option(help="Where to put the database.")] = Path("vecstore-demo"),
) -> None:
    """From nothing to answers: insert 5,000 real sentences durably, search, filter, delete, reopen."""
    from vecstore.demo.show import run

    run(data, terminal.console)


@commands.command(epilog="Example: [cyan]vecstore serve --data data/ --listen 127.0.0.1:6333[/]")
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


@commands.command(
    epilog="Example: [cyan]vecstore warmup[/], once after installing, or while a container image is built"
)
def warmup() -> None:
    """Compile the kernels for this CPU now, instead of when they are first used."""
    with terminal.console.status("") as status:

        def show(name: str, done: int, total: int) -> None:
            status.update(f"Compiling kernels: {done} of {total} {name.rpartition('.')[2]}")

        count = vecstore.warmup(show)
    terminal.console.print(f"{count} kernels are ready", highlight=False)
