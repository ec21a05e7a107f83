"""`conflayers bench report`: results as a page with tables and plots."""

from pathlib import Path
from typing import Annotated

import typer

from conflayers.cli.console import busy, note, out


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `conflayers bench` wrote.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; the plots go beside it. By default DIR/report.html."),
    ] = None,
) -> None:
    """Write the results of a benchmark as one self-contained page, and its plots as PNG files beside it."""
    with busy("drawing"):
        from conflayers.bench.report import write

        page, *plots = write(folder, file)
    out().print(str(page))
    note(f"plots beside it: {', '.join(plot.name for plot in plots) or 'none, for there is nothing to plot'}")
