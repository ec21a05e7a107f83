"""`conflayers bench compare`: what became better or worse between two benchmarks, by more than noise."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conflayers.cli.console import busy, note, out, print_json
from conflayers.errors import InputError

if TYPE_CHECKING:
    from conflayers.bench.compare import Change

SIGNS = {"better": "+", "worse": "-", "unknown": "?"}


def run(
    before: Annotated[Path, typer.Argument(metavar="A", help="Results from before.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="Results from after.", show_default=False)],
    threshold: Annotated[
        float, typer.Option(metavar="SHARE", help="The least change that is called one: 0.02 is 2%.")
    ] = 0.02,
) -> None:
    """Compare two benchmarks of the same model and data, request by request. The last line is one JSON document.

    Exits with 1 if anything became worse by at least the threshold and by more than noise, memory by 5%, or if a text
    is no longer plain decoding's. Noise alone exits with 1 in one of twenty comparisons at most, however many rows
    there are. Where the machines differ, tokens per second do not count.
    """
    if not (math.isfinite(threshold) and 0 <= threshold < 1):
        raise InputError(f"--threshold takes a share from 0 to below 1, such as 0.02, not {threshold}")
    with busy("comparing"):
        from dataclasses import asdict

        from conflayers.bench import compare as bench
        from conflayers.bench.results import Results

        one, other = Results.load(before), Results.load(after)
        changes = bench.compare(one, other, threshold)
    machine, settings = bench.machine_differences(one, other), bench.setting_differences(one, other)
    only = dict(zip(("before", "after"), bench.only_in_one(one, other), strict=True))
    worse = [change for change in changes if change.verdict == "worse" and change.counts]
    if machine:
        note(f"the machines differ in {', '.join(machine)}: tokens per second are shown, and do not count")
    if settings:
        note(f"other settings that differ: {', '.join(settings)}")
    for name, path in (("before", before), ("after", after)):
        if only[name]:
            out().print(f"only in {path}: {', '.join(map(_plain, only[name]))}")
    for change in changes:
        # What categories are too small for would hide what they are not.
        if change.verdict in SIGNS and (change.verdict != "unknown" or change.category == "all"):
            out().print(line(change))
    quiet = [sum(change.verdict == verdict for change in changes) for verdict in ("same", "unclear", "unknown")]
    out().print(
        f"{len(changes)} comparisons: {len(worse)} regressions; {quiet[0]} did not change by {100 * threshold:g}% "
        f"(memory: 5%), {quiet[1]} may be noise, "
        f"{quiet[2]} cannot be told for want of samples or of measurements"
    )
    print_json(
        {
            "before": str(before),
            "after": str(after),
            "threshold": threshold,
            "machine_differs": machine,
            "settings_differ": settings,
            "only_before": only["before"],
            "only_after": only["after"],
            "regressions": len(worse),
            "changes": [asdict(change) for change in changes],
        }
    )
    if worse:
        raise typer.Exit(1)


def line(change: "Change") -> str:
    """A change in one line."""
    where = f"{_plain(change.method)} ({_plain(change.category)})"
    counted = "" if change.counts else ", does not count"
    text = (
        f"{SIGNS[change.verdict]} {change.verdict}{counted}: {where} {change.quantity} "
        f"{_value(change.before)} -> {_value(change.after)}"
    )
    if change.change is None:
        return text
    share = change.quantity == "select_share"
    text += f", {_percent(change.change, share)}"
    if change.interval is not None:
        low, high = (_percent(value, share) for value in change.interval)
        text += f" (95% interval {low} to {high}, {change.samples} samples)"
    return text + (", too few samples to tell" if change.verdict == "unknown" else "")


def _percent(value: float, share: bool) -> str:
    return f"{100 * value:+.1f}{' points' if share else '%'}"


def _value(value: float | bool | None) -> str:
    if value is None:
        return "not measured"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"


def _plain(text: str) -> str:
    """Names come from a file: what could steer a terminal is left out."""
    return "".join(c if c.isprintable() else " " for c in text)
