"""The report of a benchmark: one page with everything in it, and every plot as a file beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conflayers.bench import figures, figures_drafts
from conflayers.bench.curves import Stream, stream
from conflayers.bench.look import Look, check_matplotlib, pictures
from conflayers.bench.page import Picture, page
from conflayers.bench.results import Results
from conflayers.bench.values import checked
from conflayers.errors import InputError
from conflayers.files import write_whole

FILE = "report.html"
Plot = Callable[[Look, list[dict[str, Any]], Stream], Any]
# In the order of the page: name, title, caption, and what draws it or finds nothing to show.
PLOTS: tuple[tuple[str, str, str, Plot], ...] = (
    (
        "categories",
        "Speedup by category",
        "Time per new token of plain decoding over that of the method, search included; lines are 95% intervals.",
        lambda look, rows, course: figures.by_category(look, rows),
    ),
    (
        "stream",
        "Speedup over the stream of requests",
        "Total time per new token of plain decoding over that of the method, of all requests until there. A mark "
        "stands at the last request at which the method's plan changed: the end of its search. There is none "
        "where nothing was searched or the plan still changed at the last request.",
        lambda look, rows, course: figures.along_stream(look, course),
    ),
    (
        "skipping",
        "Acceptance rate against skip ratio",
        "Up and to the right is better: more is skipped, and the drafts are still right.",
        lambda look, rows, course: figures_drafts.acceptance_by_skipping(look, rows),
    ),
    (
        "lambda",
        "Speedup and acceptance rate over lambda",
        "Methods that differ in lambda alone; vertical lines are 95% intervals.",
        lambda look, rows, course: figures.along_lambda(look, rows),
    ),
    (
        "phases",
        "Time by phase",
        "select is the choice of the plan, search included; other is what no phase accounts for.",
        lambda look, rows, course: figures.by_phase(look, rows),
    ),
    (
        "accepted",
        "Accepted lengths",
        "How many drafted tokens each verification accepted; the dashed line is their mean.",
        lambda look, rows, course: figures_drafts.accepted_lengths(look, rows),
    ),
    (
        "positions",
        "Acceptance by position",
        "Of the drafts that reach a position, the share that was accepted up to and including it.",
        lambda look, rows, course: figures_drafts.acceptance_by_position(look, rows),
    ),
)


def write(folder: Path, out: Path | None = None) -> list[Path]:
    """Write the report of the results in a folder.

    Args:
        folder: what `conflayers bench` wrote.
        out: the page; by default `report.html` in `folder`. The plots go beside it as `report-*.png`.

    Returns:
        The files written, the page first.

    Raises:
        InputError: there are no results, they are damaged, matplotlib is missing, or the place cannot be written.
    """
    check_matplotlib()
    results = Results.load(folder)
    target = (folder if folder.is_dir() else folder.parent) / FILE if out is None else out
    if target.is_dir():
        raise InputError(f"cannot write the report to {target}: it is a folder; give a file")
    drawn = draw(results)
    text = page(results, drawn)
    written = [target]
    try:
        for picture in drawn:
            written.append(target.with_name(f"{picture.name}.png"))
            write_whole(written[-1], picture.light)
        write_whole(target, text)
    except OSError as error:
        raise InputError(f"cannot write the report to {target}: {error.strerror or error}") from error
    return written


def draw(results: Results) -> list[Picture]:
    """The plots that have something to show.

    Raises:
        InputError: the rows are none.
    """
    rows = checked(results.rows)
    course = stream(results.records, results.restarts, bool(results.settings.get("fresh")))
    named = results.settings.get("methods")
    listed = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    names = [*listed, *(row["method"] for row in rows), *course.curves]
    found = []
    for name, title, caption, plot in PLOTS:
        images = pictures(plot, names, rows, course)
        if images is not None:
            found.append(Picture(f"report-{name}", title, caption, *images))
    return found
