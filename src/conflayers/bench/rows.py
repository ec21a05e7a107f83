"""From records to rows: what a benchmark's requests come to, by method and by category.

All ratios are ratios of totals: seconds and tokens are added up over requests before anything is divided, so that no
short request counts as much as a long one. Search time is in every total. Intervals are those of `paired`.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conflayers.bench.paired import Array, change, speeds
from conflayers.bench.record import PHASES, Record
from conflayers.bench.values import PLAIN, TOTAL, TRANSFORMERS
from conflayers.stats import Stats


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens, and the seconds that one method took for them."""

    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.seconds + other.seconds)

    @property
    def speed(self) -> float:
        """Tokens a second; 0 where nothing was measured."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def summarise(
    records: Sequence[Record], methods: Sequence[str], memory: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """One row a method over all requests, then one for each category where there are several.

    Requests that not every method has answered yet are left out, so that all rows are about the same work.

    Args:
        records: of all methods.
        methods: in the order of the rows.
        memory: by method, `peak_mb` and `extra_mb`.

    Returns:
        Dictionaries with `method`, `category` ("all" for the total), `requests`, `new_tokens`, `seconds`,
        `tokens_per_second` of whole requests, in all, by repeat, and the median of repeats, `decode_tokens_per_second`
        behind the first token, `first_token_seconds` (median), `speedup` over plain decoding with its 95%
        `speedup_interval`, by repeat and the median of repeats, the same over transformers' `generate` where it took
        part, `mean_accepted_tokens`, `acceptance_rate` of the chain, `acceptance_by_position`,
        `acceptance_histogram`, `skip_ratio`, `select_seconds` and `select_share`, `phases` (seconds),
        `peak_memory_mb`, `extra_memory_mb`, `identical`, `differing` requests, `rouge_to_plain`,
        `rouge_to_reference`, `passed`, `plan`. None where there is nothing to say.
    """
    by_method: dict[str, dict[tuple[int, int, int], Record]] = {method: {} for method in methods}
    for record in records:
        if record.method in by_method:
            by_method[record.method][record.request] = record
    common = set.intersection(*(set(found) for found in by_method.values())) if by_method else set()
    if not common:
        return []
    several = len({record.data for record in records}) > 1
    labels = {request: label(by_method[methods[0]][request], several) for request in common}
    categories = sorted(set(labels.values()))
    rows = []
    for category in [TOTAL, *categories] if len(categories) > 1 else [TOTAL]:
        chosen = sorted(request for request in common if category in (TOTAL, labels[request]))
        columns = {method: [by_method[method][request] for request in chosen] for method in methods}
        rows += [_row(method, category, columns, memory.get(method, {})) for method in methods]
    return rows


def ratio_interval(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[float, float] | None:
    """The 95% interval of the speed of `ours` over that of `theirs`; None for fewer than two samples.

    Args:
        ours, theirs: records of the same requests, in the same order.
    """
    _, interval = change(_by_sample(theirs), _by_sample(ours), speeds)
    return None if interval is None else (1 + interval[0], 1 + interval[1])


def _by_sample(records: Sequence[Record]) -> Array:
    """Tokens and seconds of each sample, [samples, 2]."""
    found: dict[int, Work] = {}
    for record in records:
        found[record.sample] = found.get(record.sample, Work()) + _work(record)
    return np.array([[work.tokens, work.seconds] for _, work in sorted(found.items())], dtype=np.float64)


def total(records: Sequence[Record]) -> Stats:
    """Counts and times of all the records together."""
    found = Stats()
    for record in records:
        found.include(record.stats)
    return found


def _row(
    method: str, category: str, columns: Mapping[str, list[Record]], memory: Mapping[str, float]
) -> dict[str, Any]:
    mine = columns[method]
    work, stats = sum((_work(r) for r in mine), Work()), total(mine)
    behind = sum((Work(max(r.stats.new_tokens - 1, 0), r.seconds - r.first_token_seconds) for r in mine), Work())
    passes = stats.num_spec_steps + stats.num_plain_steps
    compared = [r.identical for r in mine if r.identical is not None]
    return {
        "method": method,
        "category": category,
        "requests": len(mine),
        "new_tokens": work.tokens,
        "seconds": work.seconds,
        "tokens_per_second": work.speed,
        "decode_tokens_per_second": behind.speed,
        "first_token_seconds": statistics.median(r.first_token_seconds for r in mine),
        **_speedup("speedup", mine, columns.get(PLAIN)),
        **_speedup("speedup_over_hf", mine, columns.get(TRANSFORMERS)),
        "speedup_by_repeat": (speedups := _by_repeat(mine, columns.get(PLAIN))),
        "speedup_median": _median(speedups),
        "tokens_per_second_by_repeat": (by_repeat := [sum(map(_work, one), Work()).speed for one in _repeats(mine)]),
        "tokens_per_second_median": _median(by_repeat),
        "mean_accepted_tokens": _tokens_a_pass(mine),
        "acceptance_rate": stats.draft_acceptance_rate if stats.num_draft_tokens else None,
        "acceptance_by_position": stats.acceptance_by_position,
        "acceptance_histogram": {str(k): v for k, v in sorted(stats.acceptance_histogram.items())},
        "skip_ratio": stats.skip_ratio if passes else None,
        "select_seconds": stats.select_seconds,
        "select_share": stats.select_seconds / work.seconds if work.seconds > 0 else 0.0,
        "phases": {name: sum(r.phases[name] for r in mine) for name in PHASES},
        "peak_memory_mb": memory.get("peak_mb"),
        "extra_memory_mb": memory.get("extra_mb"),
        "identical": all(compared) if compared else None,
        "differing": sum(not same for same in compared) if compared else None,
        "rouge_to_plain": _mean([r.rouge_to_plain for r in mine]),
        "rouge_to_reference": _mean([r.rouge_to_reference for r in mine]),
        "passed": _mean([r.passed for r in mine]),
        "plan": mine[-1].plan,
    }


def _tokens_a_pass(records: Sequence[Record]) -> float | None:
    """New tokens behind the first one over passes of the whole model; None where passes cannot be counted."""
    passes = sum(r.stats.num_spec_steps + r.stats.num_plain_steps for r in records)
    tokens = sum(max(r.stats.new_tokens - 1, 0) for r in records)
    return tokens / passes if passes else None if tokens else 1.0


def _work(record: Record) -> Work:
    return Work(record.stats.new_tokens, record.seconds)


def _speedup(name: str, mine: Sequence[Record], theirs: Sequence[Record] | None) -> dict[str, Any]:
    if theirs is None:
        return {name: None, f"{name}_interval": None}
    interval = ratio_interval(mine, theirs)
    return {name: _ratio(mine, theirs), f"{name}_interval": None if interval is None else list(interval)}


def _ratio(mine: Sequence[Record], theirs: Sequence[Record]) -> float | None:
    ours, base = sum((_work(r) for r in mine), Work()), sum((_work(r) for r in theirs), Work())
    return ours.speed / base.speed if base.speed else None


def _by_repeat(mine: Sequence[Record], plain: Sequence[Record] | None) -> list[float | None]:
    if plain is None:
        return []
    return [_ratio(ours, theirs) for ours, theirs in zip(_repeats(mine), _repeats(plain), strict=True)]


def _repeats(records: Sequence[Record]) -> list[list[Record]]:
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record.repeat, []).append(record)
    return [found[repeat] for repeat in sorted(found)]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def label(record: Record, several: bool) -> str:
    """The category of a record, with its data set where there are several."""
    return f"{record.data}: {record.category}" if several and record.category != record.data else record.category


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return statistics.fmean(known) if known else None
