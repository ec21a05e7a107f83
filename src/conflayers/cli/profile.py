"""`conflayers profile`: where the time of a pass goes on this machine, against what its memory allows."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import busy, load_model, out, print_json
from conflayers.cli.predict import numbers

if TYPE_CHECKING:
    from rich.table import Table

    from conflayers.profile.measure import Profile

# A median so many times the best is no noise of a machine that is left alone.
BUSY = 1.25


class Body(StrEnum):
    """What runs the passes."""

    auto = "auto"
    fast = "fast"
    portable = "portable"


def run(
    model: arg.Model,
    context: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", help="Tokens before the pass, several separated by commas or repeated. By default 100,800."
        ),
    ] = None,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    body: Annotated[Body, typer.Option(help="What runs the passes.")] = Body.auto,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
    json_only: Annotated[bool, typer.Option("--json-only", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measure where the time of a pass goes: GB/s against the memory's, operators, where the next millisecond is.

    The last line is one JSON document. Nothing else should run on the machine meanwhile.
    """
    contexts = [length for text in context for length in numbers("context", text, int)] if context else None
    llm = load_model(
        model,
        threads,
        dtype=dtype.value,
        device=device,
        trust_remote_code=trust_remote_code,
        revision=revision,
        body=body.value,
    )
    from conflayers.bench.provenance import command_line, now, provenance
    from conflayers.cli.report import settings
    from conflayers.profile.measure import measure

    # What torch's profiler says of its own comings and goings is of no use to anybody here.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    made = provenance(command_line())
    with busy("timing passes"):
        found = measure(llm, contexts)
    shown = settings(llm) | {
        "body": llm.body.kind,
        "why_not_compiled": llm.body.why_not_compiled,
        "layers": llm.body.layers,
    }
    if not json_only:
        _show(shown, made, found)
    print_json({**shown, "provenance": made | {"finished": now()}, "profiles": [one.as_dict() for one in found]})


def _show(shown: dict[str, Any], made: dict[str, Any], found: "list[Profile]") -> None:
    console = out()
    console.print(
        f"{shown['model']}, {shown['dtype']}, {shown['layers']} layers, body {shown['body']!r}; "
        f"{made['accelerator'] if shown['device'] != 'cpu' else made['processor']}, threads: {shown['threads']}, "
        f"torch {shown['versions']['torch']}"
    )
    if shown["body"] == "fast" and shown["why_not_compiled"]:
        console.print(f"Its small operators are torch's, since {shown['why_not_compiled']}.")
    for one in found:
        console.print()
        for line in summary(one):
            console.print(line)
        console.print()
        console.print(pass_table(one))
        console.print()
        console.print(gap_table(one))


def summary(one: "Profile") -> list[str]:
    """A pass over one token against the limit, in sentences."""
    read, machine, plain = one.traffic, one.bandwidth, one.passes.plain
    achieved = [
        f"{name} {seconds * 1e3:.2f} ms, {one.rate(seconds) / 1e9:.1f} GB/s, {one.share(seconds):.0%} of the limit"
        for name, seconds in (("median", plain.median), ("best", plain.best))
    ]
    lines = [
        f"A pass over one token after {one.context}: {'; '.join(achieved)}.",
        f"It reads {read.total / 1e6:.1f} MB ({read.cache / 1e6:.1f} of them keys and values), which takes "
        f"{one.least * 1e3:.2f} ms at {machine.limit / 1e9:.1f} GB/s: memory gives {machine.memory / 1e9:.1f}, "
        f"as many bytes read again and again {machine.again / 1e9:.1f}.",
    ]
    if plain.median > BUSY * plain.best:
        lines.append(
            f"Something else ran on this machine: the median is {plain.median / plain.best:.2f} times the best. Take "
            "what follows for a rough guide."
        )
    return lines


def pass_table(one: "Profile") -> "Table":
    """Passes by what they run."""
    timed = one.passes
    drawn = _table("a pass over", "median ms", "best ms", "over one token")
    rows = [(f"{size} token{'s' * (size > 1)}", seconds) for size, seconds in timed.sizes.items()]
    if timed.outer is not None:
        rows.append((f"1 token, {timed.inner} inner layers skipped", timed.outer))
    for name, seconds in rows:
        over = seconds.best / timed.plain.best
        drawn.add_row(name, f"{seconds.median * 1e3:.2f}", f"{seconds.best * 1e3:.2f}", f"{over:.2f}")
    if timed.layer is not None and timed.beside_layers is not None:
        drawn.add_row("one layer, by that", "", f"{timed.layer * 1e3:.2f}", f"{timed.layer / timed.plain.best:.2f}")
        beside = timed.beside_layers
        drawn.add_row("what is no layer, by that", "", f"{beside * 1e3:.2f}", f"{beside / timed.plain.best:.2f}")
    return drawn


def gap_table(one: "Profile") -> "Table":
    """Where the next millisecond is, in the best pass over one token."""
    drawn = _table("where the next millisecond is", "ms", "share", "calls", "MB read", "above limit")
    calls = {group.name: str(group.calls) for group in one.operators.groups}
    for gap in one.gaps:
        drawn.add_row(
            gap.name,
            f"{gap.seconds * 1e3:.2f}",
            f"{gap.seconds / one.operators.seconds:.0%}",
            calls.get(gap.name, ""),
            f"{gap.size / 1e6:.1f}" if gap.size else "",
            f"{gap.above * 1e3:.2f}",
        )
    return drawn


def _table(*titles: str) -> "Table":
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column(titles[0], no_wrap=True)
    for title in titles[1:]:
        drawn.add_column(title, justify="right")
    return drawn
