"""How long drafts grow, by each rule, against hand-computed cases."""

import pytest

from conflayers.costs import Costs
from conflayers.drafters.calibration import PLANS, Calibration
from conflayers.drafters.length import FIRST, AdaptiveThreshold, ConfidenceStop, ExpectedGain, FixedLength
from conflayers.plan import Plan
from conflayers.round import Round

PLAN, OTHER = Plan.layers([1]), Plan.layers([2])


def done(drafted: int, on_chain: int, *, plan: Plan = PLAN, confidence: float = 0.9) -> Round:
    return Round(plan, drafted, on_chain, on_chain + 1, 1.0, 1.0, on_chain=on_chain, confidences=[confidence] * drafted)


def length(rule, confidence: float) -> int:
    """Tokens drafted if every one has this confidence."""
    more, drafted = rule.rule(PLAN), 1
    while more(confidence, drafted):
        drafted += 1
    return drafted


def test_a_fixed_length_looks_at_nothing():
    assert length(FixedLength(1), 0.9) == 1
    assert length(FixedLength(6), 0.0) == length(FixedLength(6), float("nan")) == 6


def test_a_confidence_stop_keeps_the_doubtful_token_and_stops():
    rule = ConfidenceStop(25, 0.8)

    assert length(rule, 0.8) == 25
    assert length(rule, 0.79) == length(rule, float("nan")) == 1
    assert not rule.rule(PLAN)(0.5, 3)


def test_the_adaptive_threshold_moves_as_published():
    rule = AdaptiveThreshold(max_tokens=8, threshold=0.6)

    rule.learn(done(4, 4))
    # The rate begins at 0, so one perfect round makes 0.5, below the target of 0.9: up.
    assert rule.rate == pytest.approx(0.5)
    assert rule.threshold == pytest.approx(0.9 * 0.6 + 0.1 * 0.61)
    for _ in range(4):
        rule.learn(done(8, 8))
    assert rule.rate > 0.9
    before = rule.threshold
    rule.learn(done(8, 8))
    assert rule.threshold == pytest.approx(before)  # enough is accepted and the draft was as long as may be
    rule.learn(done(4, 4))
    assert rule.threshold == pytest.approx(before - 0.1 * 0.01)  # enough is accepted but the draft ended early
    rule.learn(done(0, 0))
    assert rule.threshold == pytest.approx(before - 0.1 * 0.01)  # nothing drafted, nothing learnt
    assert length(rule, rule.threshold) == 8
    assert length(rule, rule.threshold - 1e-6) == 1


def costs(*, step: float, row: float, token: float) -> Costs:
    """A plain step of 10, draft steps of `step`, rows of `row`, and tokens that cost `token` at present."""
    found = Costs(layers=4)
    for _ in range(3):
        found.observe(None, steps=0, rows=1, kept=1, draft_seconds=0.0, verify_seconds=10.0)
        found.observe(PLAN, steps=4, rows=5, kept=5, draft_seconds=4 * step, verify_seconds=10.0 + 4 * row)
    found.token_seconds = token
    return found


def test_the_default_stops_where_another_token_costs_more_than_it_saves():
    # A bin far from the prior: confidence 0.5 was right 9 times of 10.
    calibration = Calibration()
    for _ in range(100):
        calibration.learn(done(9, 9, confidence=0.5))
        calibration.learn(done(1, 0, confidence=0.5))
    accepted = calibration.of(PLAN).acceptance(0.5)
    assert accepted == pytest.approx(0.9, abs=0.02)
    assert calibration.of(PLAN).rate == pytest.approx(0.9, abs=0.02)

    rule = ExpectedGain(costs(step=5.0, row=1.0, token=8.0), 25, calibration)
    # A token saves at most 8 and costs 8.5: a draft step is never taken below the share that runs, here 7.5.
    assert length(rule, 0.5) == 1
    cheap = ExpectedGain(costs(step=5.0, row=0.0, token=20.0), 25, calibration)
    n = length(cheap, 0.5)
    assert (
        20.0 * calibration.of(PLAN).rate * accepted ** (n - 1) > 7.5 >= 20.0 * calibration.of(PLAN).rate * accepted**n
    )
    assert n > 5


def test_the_default_goes_by_confidence_until_a_draft_step_has_been_measured():
    rule = ExpectedGain(Costs(layers=4))

    assert length(rule, 0.9) == FIRST
    assert length(rule, 0.7) == length(rule, float("nan")) == 1


def test_confidences_are_judged_by_plan_and_old_plans_are_forgotten():
    calibration = Calibration()
    for _ in range(50):
        calibration.learn(done(3, 0))
    calibration.learn(done(3, 3, plan=OTHER))
    assert calibration.of(PLAN).acceptance(0.9) < 0.15
    assert calibration.of(OTHER).acceptance(0.9) > 0.9
    for layer in range(2, 2 + PLANS):
        calibration.learn(done(1, 1, plan=Plan.layers([layer])))
    assert calibration.of(PLAN).acceptance(0.9) == pytest.approx(0.9)


def test_only_tokens_whose_predecessors_were_accepted_are_counted():
    calibration = Calibration()
    calibration.learn(done(5, 2))

    assert sum(calibration.of(PLAN).tried) == 3
    assert sum(calibration.of(PLAN).accepted) == 2


def test_memory_fades_so_that_a_new_text_counts():
    calibration = Calibration()
    for _ in range(1000):
        calibration.learn(done(1, 1))
    for _ in range(150):
        calibration.learn(done(1, 0))
    assert calibration.of(PLAN).acceptance(0.9) < 0.6
