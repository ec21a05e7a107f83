"""Results of benchmarks made by hand, with times one can work out in one's head."""

from collections import Counter
from typing import Any

from conflayers.bench.record import Difference, Record
from conflayers.bench.results import Results
from conflayers.stats import Stats

SAMPLES = [
    {"id": "q1", "data": "questions", "category": "trivia"},
    {"id": "q2", "data": "questions", "category": "trivia"},
    {"id": "c1", "data": "code", "category": "code"},
]


def record(
    method: str,
    sample: int,
    seconds: float,
    tokens: int = 100,
    repeat: int = 0,
    turn: int = 0,
    drafted: int = 0,
    accepted: int = 0,
    steps: int = 0,
    select: float = 0.0,
    plan: str | None = None,
    decisions: tuple[str, ...] = (),
    identical: bool | None = True,
    difference: Difference | None = None,
    samples: list[dict[str, str]] | None = None,
) -> Record:
    about = (samples or SAMPLES)[sample]
    stats = Stats(
        new_tokens=tokens,
        num_draft_tokens=drafted,
        num_accepted_draft_tokens=accepted,
        num_spec_steps=steps,
        num_plain_steps=0 if steps else tokens,
        acceptance_histogram=Counter({1: steps}) if steps else Counter(),
        select_seconds=select,
        total_seconds=seconds,
        decisions=list(decisions),
    )
    values: dict[str, Any] = {"plan": plan, "identical": identical, "difference": difference}
    return Record(
        method, about["data"], about["category"], sample, turn, repeat, seconds, seconds / 10, stats, [1, 2], **values
    )


def results(records: list[Record], rows: list[dict[str, Any]] | None = None, **changes: Any) -> Results:
    """A finished benchmark; `changes` are of settings or of provenance, by name."""
    settings = {
        "model": "tiny",
        "identity": {"weights_digest": "ab"},
        "dtype": "float32",
        "device": "cpu",
        "threads": 2,
        "methods": list(dict.fromkeys(one.method for one in records)),
        "data": ["questions", "code"],
        "digests": {"questions": "11", "code": "22"},
        "limit": None,
        "max_new_tokens": 100,
        "repeat": 1,
        "fresh": False,
    }
    provenance = {
        "versions": {"python": "3.12.1", "conflayers": "0.1.0", "torch": "2.6.0"},
        "processor": "Fast <CPU>",
        "cores": 2,
        "git": "abc",
        "command": ["conflayers", "bench", "a model"],
        "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T11:00:00+00:00",
    }
    for name, value in changes.items():
        (provenance if name in provenance else settings)[name] = value
    return Results(settings, provenance, [dict(sample) for sample in SAMPLES], records, rows=rows or [])


def row(method: str, category: str = "all", **values: Any) -> dict[str, Any]:
    """A row of a method that drafts; `values` replace what is here."""
    found = {
        "method": method,
        "category": category,
        "requests": 3,
        "new_tokens": 300,
        "seconds": 6.0,
        "tokens_per_second": 50.0,
        "speedup": 1.5,
        "speedup_interval": [1.4, 1.6],
        "speedup_by_repeat": [1.5],
        "speedup_over_hf": None,
        "speedup_over_hf_interval": None,
        "mean_accepted_tokens": 2.5,
        "acceptance_rate": 0.75,
        "acceptance_by_position": [0.8, 0.7],
        "acceptance_histogram": {"0": 20, "1": 10, "10": 10},
        "skip_ratio": 0.4,
        "select_seconds": 0.6,
        "select_share": 0.1,
        "phases": {"prefill": 0.3, "draft": 2.1, "verify": 2.4, "select": 0.6, "other": 0.6},
        "identical": True,
        "differing": 0,
        "plan": "skips attention of 3",
    }
    return {**found, **values}


def plain_row(category: str = "all") -> dict[str, Any]:
    """Plain decoding's row, with what has no meaning for it left out."""
    phases = {"prefill": 0.3, "draft": 0.0, "verify": 8.4, "select": 0.0, "other": 0.3}
    nothing = dict.fromkeys(("acceptance_rate", "plan", "identical", "differing"))
    return row(
        "vanilla",
        category,
        seconds=9.0,
        speedup=1.0,
        speedup_interval=[1.0, 1.0],
        acceptance_by_position=[],
        acceptance_histogram={},
        skip_ratio=0.0,
        phases=phases,
        **nothing,
    )
