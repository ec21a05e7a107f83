import numpy as np
import pytest
from doubles import FakeBody, Ticks

from conflayers.costs import Costs
from conflayers.expected import LEAST_STEP, Savings
from conflayers.plan import Plan
from conflayers.selectors.candidates import LEAST
from conflayers.selectors.forecast import ROW, measure, speedups
from conflayers.selectors.shortlist import Shortlist


def costs(plain: float = 10.0) -> Costs:
    known = Costs(layers=8)
    for _ in range(3):
        known.observe(None, steps=0, rows=1, kept=1, draft_seconds=0.0, verify_seconds=plain)
    return known


def test_a_speedup_is_that_of_the_best_length_by_hand():
    # Acceptance 0.5 and half a step: one token is best, 1.5 tokens in half a step and a pass over two rows.
    found = speedups(np.array([0.5]), np.array([0.5]), costs())
    assert found[0] == pytest.approx(1.5 / (0.5 + 1 + ROW))

    # Certain and nearly free: the longest chain, 17 tokens.
    found = speedups(np.array([1.0]), np.array([0.02]), costs())
    assert found[0] == pytest.approx(17 / (16 * 0.02 + 1 + 16 * ROW))

    # Never right: the shortest loses least, and still loses.
    found = speedups(np.array([0.0]), np.array([0.5]), costs())
    assert found[0] == pytest.approx(1 / (0.5 + 1 + ROW))


def test_rows_have_their_measured_price_beyond_what_was_measured_too():
    known = costs()
    for rows, seconds in ((2, 11.0), (4, 13.0)):
        known.observe(Plan.layers([1]), steps=rows - 1, rows=rows, kept=1, draft_seconds=1.0, verify_seconds=seconds)

    found = speedups(np.array([1.0]), np.array([0.1]), known)

    assert found[0] == pytest.approx(max((1 + g) / (0.1 * g + 1 + 0.1 * g) for g in range(1, 17)), rel=0.02)


def test_steps_are_as_measured_where_they_were_and_by_the_savings_elsewhere():
    known = costs()
    tried, new = Plan.layers([1, 2]), Plan(attention=frozenset([1, 2, 3]), mlp=frozenset([5]))
    known.observe(tried, steps=2, rows=3, kept=1, draft_seconds=16.0, verify_seconds=10.0)

    plans = dict.fromkeys([tried, new, Plan.layers(range(1, 7))], LEAST)

    assert Shortlist(plans, 8, Savings(0.1, 0.05)).draft_steps(known) == pytest.approx([0.8, 1 - 0.3 - 0.05, 0.1])
    assert Shortlist({new: LEAST}, 8, Savings(0.4, 0.0)).draft_steps(known) == [LEAST_STEP]


def test_savings_are_measured_by_steps_without_the_inner_layers():
    class PricedBody(FakeBody):
        def forward(self, tokens, **arguments):
            output = super().forward(tokens, **arguments)
            self.clock.now += 10.0 - 0.5 * len(self.plan.attention) - 0.25 * len(self.plan.mlp)
            return output

    body = PricedBody()
    body.clock = Ticks()
    body.reserve(100)
    body.forward([1, 2, 3])

    found = measure(body, 4, 10.0, body.clock)

    assert (found.attention, found.mlp) == pytest.approx((0.05, 0.025))
    assert body.length == 3


def test_a_clock_that_stands_still_spares_nothing_impossible():
    body = FakeBody()
    body.reserve(100)
    body.forward([1, 2, 3])
    found = measure(body, 4, 0.0, lambda: 0.0)

    assert 0 <= found.attention <= 1
    assert 0 <= found.mlp <= 1
