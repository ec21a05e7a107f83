"""The command `conflayers`: one file a command."""

import signal
import sys
import threading
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from conflayers.cli.bench import app as bench
from conflayers.cli.check import run as check
from conflayers.cli.demo import run as demo
from conflayers.cli.export import run as export
from conflayers.cli.generate import run as generate
from conflayers.cli.inspect import run as inspect
from conflayers.cli.methods import run as methods
from conflayers.cli.plans import app as plans
from conflayers.cli.predict import run as predict
from conflayers.cli.profile import run as profile
from conflayers.cli.search import run as search
from conflayers.errors import ConfLayersError


class _Group(TyperGroup):
    """What a user can meet becomes one line on standard error and an exit code; a traceback means a bug of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConfLayersError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> None:
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    typer.echo(f"error: {line}", err=True)
    raise typer.Exit(2)


app = typer.Typer(
    cls=_Group, name="conflayers", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.command("generate")(generate)
app.command("check")(check)
app.command("methods")(methods)
app.command("inspect")(inspect)
app.command("demo")(demo)
app.command("export")(export)
app.command("predict")(predict)
app.command("profile")(profile)
app.command("search")(search)
app.add_typer(bench, name="bench")
app.add_typer(plans, name="plans")


def _show_version(wanted: bool) -> None:
    if wanted:
        from conflayers import __version__

        typer.echo(f"conflayers {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a Hugging Face language model generate faster by drafting with its own layers."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows a stand-in; it is no reason to stop.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    # Elsewhere, as where SIGINT is ignored, somebody had a reason; and only the main thread may ask for signals.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except Exception:
        # A library that is interrupted while it is imported makes an error of its own of it.
        if not interrupted:
            raise
        typer.echo("interrupted", err=True)
        sys.exit(130)
