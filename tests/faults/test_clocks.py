"""Clocks that stand still, jump or run backwards: the tokens are the same, and no time is negative."""

import itertools
import random

import pytest
from doubles import FakeBody, expected, run

from conflayers.methods import build_method
from conflayers.plan import Plan

PLAN = Plan.layers([1, 3])


def _jumping():
    draw = random.Random(1)
    return lambda: draw.choice([-1e9, 0.0, 1e-12, 5.0, 1e15])


CLOCKS = {
    "stands still": lambda: lambda: 42.0,
    "stands at zero": lambda: lambda: 0.0,
    "backwards": lambda: itertools.count(1e6, -0.5).__next__,
    "backwards now and then": lambda: itertools.cycle([1.0, 2.0, 3.0, 0.5, 0.25]).__next__,
    "huge steps": lambda: itertools.count(0.0, 1e12).__next__,
    "tiny steps": lambda: itertools.count(1e9, 1e-7).__next__,
    "jumps": _jumping,
    "no number": lambda: itertools.cycle([1.0, float("nan"), 2.0]).__next__,
    "forever": lambda: itertools.cycle([0.0, float("inf")]).__next__,
}
METHODS = {
    "vanilla": {"name": "vanilla"},
    "gain": {"name": "fixed", "plan": PLAN, "draft_length": "gain"},
    "confidence": {"name": "fixed", "plan": PLAN, "draft_length": "confidence", "tree": "none"},
    "adaptive": {"name": "fixed", "plan": PLAN, "draft_length": "adaptive"},
    "kept": {"name": "conflayers", "plan": PLAN},
    "search": {"name": "conflayers", "interval": 2, "context_window": 4},
    "search without fallback": {"name": "conflayers", "interval": 2, "context_window": 4, "fallback": False},
    "published search": {"name": "conflayers", "variant": "paper", "interval": 2, "context_window": 4},
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("method", METHODS)
def test_any_clock(method, clock):
    options = dict(METHODS[method])
    body = FakeBody(agrees=lambda plan, position: position % 3 != 0)

    method = build_method(options.pop("name"), body.layers, options.pop("plan", None), **options)
    tokens, stats = run(body, method, 120, clock=CLOCKS[clock]())

    assert tokens == expected(120)
    seconds = [getattr(stats, name) for name in stats.__slots__ if name.endswith("_seconds")]
    assert len(seconds) == 6
    if clock != "forever":
        assert all(time >= 0 for time in seconds)
        assert stats.tokens_per_second >= 0
        # The first token's time is part of other phases, and the total is all of them.
        assert sum(seconds) - stats.first_token_seconds <= 2 * stats.total_seconds * (1 + 1e-9)
        assert stats.first_token_seconds <= stats.total_seconds


def test_a_task_goes_on_when_the_clock_has_been_set_back():
    body = FakeBody()
    method = build_method("fixed", body.layers, PLAN, draft_length=3)

    for start in (1e9, 0.0):
        tokens, stats = run(body, method, 40, clock=itertools.count(start, 0.001).__next__)
        assert tokens == expected(40)
        assert 0 < stats.total_seconds < 1
