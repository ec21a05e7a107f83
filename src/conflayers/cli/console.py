"""What the commands share of the terminal: results on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from conflayers.api import Llm


def out() -> Console:
    """Standard output, where nothing that comes from a model is taken for markup."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def note(message: str) -> None:
    """A line on standard error."""
    typer.echo(message, err=True)


def print_json(document: dict[str, Any]) -> None:
    """One document on one line."""
    typer.echo(json.dumps(document))


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show that something takes long, where somebody is watching. Gives a function that changes what is shown."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Nothing moves: a thread that draws would take time from what is being measured.
    with Live(Text(what), console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        live.refresh()
        yield lambda then: live.update(Text(then), refresh=True)


def load_model(source: str, threads: int | None, **arguments: Any) -> "Llm":
    """Load a model as `conflayers.load` does, with progress shown where somebody is watching."""
    with busy("starting"):
        import torch

        from conflayers.api import load

    if threads is not None:
        torch.set_num_threads(threads)
    return load(source, progress=sys.stderr.isatty(), **arguments)
