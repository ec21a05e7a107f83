"""A finished request as a table, as sentences and as one JSON document."""

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import transformers
from rich import box
from rich.table import Table

import conflayers
from conflayers.compare import PLAIN, TRANSFORMERS, Row

if TYPE_CHECKING:
    from conflayers.api import Llm, Result
    from conflayers.plan import Plan

TITLES = {PLAIN: "plain decoding", TRANSFORMERS: "transformers", "conflayers": "ConfLayers", "auto": "auto"}
SHOWN_DECISIONS = 6


def settings(llm: "Llm") -> dict[str, Any]:
    """What every measurement needs beside it."""
    return {
        "model": llm.name,
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "device": str(llm.model.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what took part."""
    return {
        "conflayers": conflayers.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def document(llm: "Llm", result: "Result", rows: list[Row], **arguments: Any) -> dict[str, Any]:
    """Everything there is to say of a request, as plain values."""
    return {
        **settings(llm),
        **arguments,
        "prompt_tokens": len(result.prompt_ids),
        "text": result.text,
        "token_ids": result.token_ids,
        "decisions": result.decisions,
        "plan": plan_values(result.plan),
        "standings": [{**asdict(one), "plan": plan_values(one.plan)} for one in result.standings],
        "statistics": result.stats.as_dict(),
        "rows": [asdict(row) for row in rows],
    }


def standings(result: "Result") -> Table:
    """Every way to draft that was considered, the most used first."""
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column("draft that")
    for title in ("expected", "brought", "rounds", "draft steps", "accepted"):
        drawn.add_column(title, justify="right")
    for one in result.standings:
        speeds = ("" if value is None else f"{value:.2f}x" for value in (one.forecast, one.live))
        drawn.add_row(str(one.plan), *speeds, *(f"{count:.0f}" for count in (one.rounds, one.steps, one.accepted)))
    return drawn


def plan_values(plan: "Plan | None") -> dict[str, Any] | None:
    """A plan as in its file, if there is one."""
    return None if plan is None else plan.as_dict()


def table(rows: list[Row]) -> Table:
    """One row a method."""
    # This fits a terminal of 80 columns.
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    drawn.add_column("method", no_wrap=True)
    titles = ("tokens/s", "speedup", "mean accepted tokens", "acceptance rate", "skip ratio", "search seconds")
    for title in titles:
        drawn.add_column(title.replace(" ", "\n"), justify="right")
    drawn.add_column("identical")
    for row in rows:
        drawn.add_row(
            TITLES.get(row.method, row.method),
            f"{row.tokens_per_second:.1f}",
            "" if row.speedup is None else f"{row.speedup:.2f}",
            f"{row.mean_accepted_tokens:.2f}",
            f"{row.acceptance_rate:.2f}",
            f"{row.skip_ratio:.2f}",
            f"{row.select_seconds:.3f}",
            "" if row.identical is None else "yes" if row.identical else "no",
        )
    return drawn


def statistics(result: "Result") -> str:
    """The counts and times of one request in a line."""
    stats = result.stats
    parts = [f"{stats.new_tokens} tokens in {stats.total_seconds:.2f} s, {stats.tokens_per_second:.1f} tokens/s"]
    if stats.num_draft_tokens:
        parts.append(f"{stats.mean_acceptance_length:.2f} tokens a pass")
        parts.append(f"{_drafts(result)}, skip ratio {stats.skip_ratio:.2f}")
    parts.append(f"search {stats.select_seconds:.3f} s")
    return "; ".join(parts)


def decisions(result: "Result") -> list[str]:
    """What the method decided, the latest last; of many only the latest."""
    hidden = len(result.decisions) - SHOWN_DECISIONS
    return [f"({hidden} earlier decisions)"] * (hidden > 0) + result.decisions[-SHOWN_DECISIONS:]


def verdict(rows: list[Row], result: "Result") -> list[str]:
    """What the comparison came to, in sentences, with nothing in them that was not measured."""
    lines = [_difference(row) for row in rows if row.first_difference is not None]
    row = rows[-1]
    if row.method in (PLAIN, TRANSFORMERS):
        return lines
    name, speed = TITLES.get(row.method, row.method), f"{row.speedup or 0:.2f}"
    if result.plan is not None:
        verb = "ended with" if result.decisions else "drafted by"
        lines.append(
            f"{name} {verb} a plan that {result.plan}: {speed} times the speed of plain decoding, search included."
        )
    elif result.stats.num_lookup_tokens:
        lines.append(
            f"{name} drafts by looking up what came after the same words before ({_drafts(result)}): {speed} times the "
            "speed of plain decoding, everything included."
        )
    elif not result.decisions and result.stats.num_draft_tokens:
        lines.append(
            f"{name} was still trying what to draft with when the text ended ({_drafts(result)}). It ran at {speed} "
            "times the speed of plain decoding."
        )
    elif not result.decisions:
        lines.append(
            f"{name} stayed with plain decoding: the text ended before any draft was judged. It ran at {speed} times "
            "the speed of plain decoding."
        )
    else:
        lines.append(
            f"{name} fell back to plain decoding: skipping {result.stats.skip_ratio:.0%} of the sublayers, "
            f"{_drafts(result)}, and that does not pay for the drafts here. Everything included, it ran at {speed} "
            "times the speed of plain decoding."
        )
    return lines


def _drafts(result: "Result") -> str:
    stats = result.stats
    siblings = stats.num_accepted_sibling_tokens
    beside = f", and {siblings} beside them" if siblings else ""
    on_chain = stats.num_accepted_draft_tokens - siblings
    return f"{on_chain} of {stats.num_draft_tokens} drafted tokens were accepted{beside}"


def _difference(row: Row) -> str:
    return (
        f"{TITLES.get(row.method, row.method)} first differs from plain decoding at new token {row.first_difference}; "
        "`conflayers check` shows whether the two likeliest tokens were nearly tied."
    )
