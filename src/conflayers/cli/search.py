"""`conflayers search`: find a plan for a model and a task, and save it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import load_model, note, print_json

if TYPE_CHECKING:
    from conflayers.search.run import Outcome, Search

SHOWN_DECISIONS = 6


def run(
    model: arg.Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Prompts of the task: JSON lines with `prompt` or `turns`, or a data set of `conflayers bench`.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time for search and comparison.", show_default=False)
    ],
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to save the plan.", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="One of `conflayers methods` that searches.")] = "conflayers",
    option: arg.MethodOptions = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each prompt: 256, for draft-verify 32.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Prompts at most: all, for draft-verify 8.")
    ] = None,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    chat: arg.Chat = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
) -> None:
    """Find a plan for a model and a task, and save it for --plan; the last line is one JSON document.

    What has been done is kept beside the plan after every step: the same command goes on after an interruption.
    """
    from conflayers.search.data import read_task
    from conflayers.search.wanted import Wanted, default_limit

    wanted = Wanted(method, budget, arg.parse_options(option or []), max_new_tokens, chat)
    wanted.check()
    arg.check_output(out_file)
    prompts = read_task(data, limit or default_limit(method))
    llm = load_model(
        model, threads, dtype=dtype.value, device=device, trust_remote_code=trust_remote_code, revision=revision
    )
    from conflayers.cli.report import plan_values
    from conflayers.search.run import Search

    with progress_bar() as tell:
        search = Search(llm, wanted, prompts, out_file.with_name(out_file.name + ".progress"), tell=tell)
        outcome = go_on(search)
    values = document(search, outcome)
    if outcome.plan is not None:
        llm.save_plan(out_file, outcome.plan, **values)
    search.finish()
    report(search, outcome, out_file)
    saved = None if outcome.plan is None else str(out_file)
    print_json({**values, "plan": plan_values(outcome.plan), "saved": saved})
    if outcome.plan is None:
        raise typer.Exit(1)


def go_on(search: "Search") -> "Outcome":
    """Search from where it stands, and say where that is before and after an interruption."""
    if search.progress.begun:
        note(f"going on after {search.progress.seconds:.0f} s, from {search.path}")
    try:
        return search.run()
    except KeyboardInterrupt:
        if search.path.exists():
            note(f"interrupted; what has been done is in {search.path}. The same command goes on from there")
        raise


def document(search: "Search", outcome: "Outcome") -> dict[str, Any]:
    """How the plan was found, for its provenance."""
    from conflayers.cli.report import settings

    progress, wanted, data = search.progress, search.wanted, search.data
    return {
        **settings(search.llm),
        "method": wanted.method,
        "options": wanted.options,
        "data": {"name": data.name, "sha256": data.digest, "prompts": len(data.prompts)},
        "max_new_tokens": wanted.tokens,
        "prompts_decoded": progress.prompts,
        "candidates": search.candidates,
        "budget_seconds": wanted.budget,
        "seconds": progress.seconds,
        "fallback": outcome.fallback,
        "lookups": outcome.lookups,
        "tokens_per_second": outcome.drafted.per_second,
        "plain_tokens_per_second": outcome.plain.per_second,
        "speedup": outcome.speedup,
        "speedup_interval": outcome.interval and list(outcome.interval),
        "compared_tokens": outcome.drafted.tokens,
        "decisions": outcome.decisions[-SHOWN_DECISIONS:],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(search: "Search", outcome: "Outcome", path: Path) -> None:
    """What came of it, in lines on standard error."""
    method, speedup = search.wanted.method, outcome.speedup
    ended = "ended with lookups, which need no plan" if outcome.lookups else "ended at plain decoding"
    measured = ""
    if speedup is not None:
        ours, plain = outcome.drafted.per_second, outcome.plain.per_second
        measured = (
            f"{ours:.1f} tokens/s, {speedup:.2f} times plain decoding's {plain:.1f} on the same prompts in turns"
            f" ({between(outcome.interval)})"
        )
    if outcome.plan is None:
        # It may have drafted by lookups, or with the whole model.
        nothing = "no plan" if search.candidates else "nothing"
        why = f"the best plan it tried: {measured}" if measured else f"{nothing} was tried: {untried(search, outcome)}"
        note(f"no plan saved: method {method!r} {ended}; {why}")
        return
    if outcome.fallback:
        note(f"method {method!r} {ended}, but the best plan it tried measured faster")
    note(f"plan saved to {path}: {outcome.plan}; {measured}")
    if doubt := doubts(outcome):
        note(f"{doubt}; a larger --budget or another --method may find a better one")


def between(interval: tuple[float, float] | None) -> str:
    """An interval in words."""
    return "no interval" if interval is None else f"95% interval {interval[0]:.2f} to {interval[1]:.2f}"


def doubts(outcome: "Outcome") -> str:
    """What speaks against the plan; "" where it was shown to be faster, or where nothing was measured."""
    from conflayers.bench.values import verdict

    shown = verdict({"method": "", "speedup": outcome.speedup, "speedup_interval": outcome.interval})
    if shown.startswith("slower"):
        return f"this plan is {shown} here"
    return f"{shown} between this plan and plain decoding: the interval includes 1" if "difference" in shown else ""


def untried(search: "Search", outcome: "Outcome") -> str:
    """Why no plan was tried, as far as is known, and what to do."""
    from conflayers.search.wanted import BLIND

    wanted, count, given = search.wanted, search.progress.prompts, len(search.prompts)
    if wanted.method in BLIND:
        return "with these options it skips nothing. Give a higher --option skip_ratio"
    if outcome.expected is not None and outcome.expected <= 1:
        anyway = ". With --option fallback=false it drafts all the same" if wanted.weighs_plain_decoding else ""
        return (
            f"no plan it looked at was expected to pay, the best at {outcome.expected:.2f} times plain decoding's speed"
            f". A larger --budget or another --method may find a better one{anyway}"
        )
    prompts = f"{count} prompt{'s' * (count != 1)}"
    if search.over:
        return f"the budget of {wanted.budget:g} s was over first, after {prompts} of {given}. Give a larger --budget"
    return f"it named no plan in {prompts}. Give more or longer prompts, or another --method"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error where somebody is watching. Gives what to call with words and a share, 0 to 1."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Nothing moves by itself: a thread that draws would take time from what is being measured.
    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        row = bar.add_task("warming up", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(row, description=what, completed=share, refresh=True)

        yield tell
