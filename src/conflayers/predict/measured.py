"""A benchmark's runs against what their counts and separately measured costs predict."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.predict.calibration import PLAIN, TURNS, Costs, calibrate
from conflayers.predict.watch import Clock

if TYPE_CHECKING:
    from conflayers.api import Llm

_PART = re.compile(r"(layers|attention of|MLP of) ((?:\d+, )*\d+)")


@dataclass(frozen=True, slots=True)
class Counts:
    """What one method did over all its requests, as far as counts go: no time among them.

    Attributes:
        method: its row.
        requests, new_tokens, prompt_tokens: how many.
        plain_steps: rounds that drafted nothing.
        verifications: rounds that verified a draft.
        drafted: draft steps.
        siblings: tokens verified beside the chains.
        accepted: drafted tokens accepted.
        skip_ratio: mean share of the sublayers that draft steps skipped.
        plan: the one timed for it: in use at the end, else one that skips about as much.
        seconds, select_seconds: measured; compared with the prediction and never used for it.
    """

    method: str
    requests: int
    new_tokens: int
    prompt_tokens: int
    plain_steps: int
    verifications: int
    drafted: int
    siblings: int
    accepted: int
    skip_ratio: float
    plan: Plan | None
    seconds: float
    select_seconds: float


@dataclass(frozen=True, slots=True)
class Checked:
    """One method, predicted and measured.

    Attributes:
        method, requests, new_tokens, skip_ratio: which, and over what.
        draft_length, mean_accepted, acceptance: tokens drafted a verification, new tokens a pass of the
            whole model, accepted over drafted.
        predicted, measured: speedup over plain decoding.
        difference: predicted over measured, less 1.
        predicted_seconds, measured_seconds: of all its requests.
        select_share: share of the measured time that choosing and searching took, which is not predicted.
    """

    method: str
    requests: int
    new_tokens: int
    skip_ratio: float
    draft_length: float
    mean_accepted: float
    acceptance: float
    predicted: float
    measured: float
    difference: float
    predicted_seconds: float
    measured_seconds: float
    select_share: float


def read_plan_words(words: str | None) -> Plan | None:
    """The plan that `str(plan)` named; None where it names none."""
    parts = dict(_PART.findall(words or ""))
    numbers = {name: frozenset(map(int, text.split(", "))) for name, text in parts.items()}
    both = numbers.get("layers", frozenset())
    plan = Plan(both | numbers.get("attention of", frozenset()), both | numbers.get("MLP of", frozenset()))
    return plan if plan.skipped else None


def even_plan(layers: int, skip_ratio: float) -> Plan | None:
    """Whole inner layers, evenly spread, that skip about so much; None where that is none."""
    inner = max(layers - 2, 0)
    count = min(round(skip_ratio * layers), inner)
    return Plan.layers(1 + (2 * i + 1) * inner // (2 * count) for i in range(count)) if count else None


def count_methods(results: Results) -> tuple[Counts, list[Counts], list[str]]:
    """Plain decoding's counts, those of every method that drafts with a part of the model, and the names of the rest.

    Raises:
        InputError: plain decoding has no records, or a method has requests that plain decoding has not.
    """
    by_method: dict[str, list[Record]] = {}
    for record in results.records:
        by_method.setdefault(record.method, []).append(record)
    plain = by_method.pop(PLAIN, [])
    if not plain:
        raise InputError("the results have no records of plain decoding, method 'vanilla': nothing to compare with")
    layers, known = int(results.settings["layers"]), {record.request for record in plain}
    counted, left_out = [], []
    # Records lie in the order in which the methods took turns; people named them in another.
    named = [name for name in results.settings.get("methods", ()) if name in by_method]
    for name in dict.fromkeys([*named, *by_method]):
        shared = [record for record in by_method[name] if record.request in known]
        counts = _count(name, shared, layers)
        if counts.drafted and counts.skip_ratio > 0 and counts.plan is not None:
            counted.append(counts)
        else:
            left_out.append(name)
    return _count(PLAIN, plain, layers), counted, left_out


def _count(method: str, records: Sequence[Record], layers: int) -> Counts:
    stats = [record.stats for record in records]
    drafted = sum(one.num_draft_tokens for one in stats)
    skip_ratio = sum(one.skipped_share for one in stats) / drafted if drafted else 0.0
    named = next((plan for record in reversed(records) if (plan := read_plan_words(record.plan))), None)
    return Counts(
        method=method,
        requests=len(records),
        new_tokens=sum(one.new_tokens for one in stats),
        prompt_tokens=sum(one.prompt_tokens for one in stats),
        plain_steps=sum(one.num_plain_steps for one in stats),
        verifications=sum(one.num_spec_steps for one in stats),
        drafted=drafted,
        siblings=sum(one.num_sibling_tokens for one in stats),
        accepted=sum(one.num_accepted_draft_tokens - one.num_accepted_sibling_tokens for one in stats),
        skip_ratio=skip_ratio,
        plan=named or even_plan(layers, skip_ratio),
        seconds=sum(record.seconds for record in records),
        select_seconds=sum(one.select_seconds for one in stats),
    )


def predicted_seconds(counts: Counts, costs: Costs, layers: int) -> float:
    """What the counted requests, rounds, drafted tokens and rows take by these costs."""
    seconds = counts.requests * costs.request + counts.plain_steps * costs.plain
    if not counts.drafted:
        return seconds
    timed = costs.drafting[counts.method]
    seconds += counts.drafted * costs.token(counts.method, counts.skip_ratio, layers)
    return seconds + counts.verifications * timed.round + (counts.drafted + counts.siblings) * timed.row


def check_method(counts: Counts, plain: Counts, costs: Costs, layers: int) -> Checked:
    """Predict a method's speedup in tokens per second and set it beside the measured one."""
    ours, theirs = predicted_seconds(counts, costs, layers), predicted_seconds(plain, costs, layers)
    tokens = counts.new_tokens / plain.new_tokens
    predicted, measured = tokens * theirs / ours, tokens * plain.seconds / counts.seconds
    passes = counts.verifications + counts.plain_steps
    return Checked(
        method=counts.method,
        requests=counts.requests,
        new_tokens=counts.new_tokens,
        skip_ratio=counts.skip_ratio,
        draft_length=counts.drafted / counts.verifications,
        mean_accepted=(counts.new_tokens - counts.requests) / passes,
        acceptance=counts.accepted / counts.drafted,
        predicted=predicted,
        measured=measured,
        difference=predicted / measured - 1,
        predicted_seconds=ours,
        measured_seconds=counts.seconds,
        select_share=counts.select_seconds / counts.seconds,
    )


def calibrate_for(llm: "Llm", results: Results, *, turns: int = TURNS, clock: Clock = time.perf_counter) -> Costs:
    """Time what the methods of a benchmark are made of, by requests as long as the benchmark's.

    The text is what plain decoding wrote.

    Args:
        turns: how many; see `calibrate`.
        clock: seconds, of the kind that the results' were.

    Raises:
        InputError: there is nothing to time, or the results are of another model.
    """
    plain, methods, _ = count_methods(results)
    if results.settings["layers"] != llm.body.layers:
        raise InputError(f"the results are of a model with {results.settings['layers']} layers, not {llm.body.layers}")
    written = [token for record in results.records if record.method == PLAIN for token in record.token_ids]
    if not written:
        raise InputError("plain decoding wrote nothing in these results: there is no text to calibrate with")
    plans = {counts.method: counts.plan for counts in methods if counts.plan is not None}
    prompt = max(plain.prompt_tokens // plain.requests, 1)
    new_tokens = max(plain.new_tokens // plain.requests, 2)
    given = {name: results.settings.get(name) for name in ("temperature", "seed")}
    choice = {name: value for name, value in given.items() if value is not None}
    return calibrate(llm, plans, written, prompt=prompt, new_tokens=new_tokens, choice=choice, turns=turns, clock=clock)


def validate(results: Results, costs: Costs) -> list[Checked]:
    """Every method that drafts, predicted and measured."""
    plain, methods, _ = count_methods(results)
    layers = int(results.settings["layers"])
    shared = {counts.method: _paired(results, counts.method, layers) for counts in methods}
    return [check_method(counts, shared[counts.method] or plain, costs, layers) for counts in methods]


def _paired(results: Results, method: str, layers: int) -> Counts:
    """Plain decoding's counts on the requests that the method answered too."""
    theirs = {record.request for record in results.records if record.method == method}
    return _count(PLAIN, [r for r in results.records if r.method == PLAIN and r.request in theirs], layers)
