"""Trials against a machine whose times are known: what is adopted, what is rejected, and what it may cost."""

import pytest

from conflayers.costs import Costs
from conflayers.plan import Plan
from conflayers.round import Round
from conflayers.selectors.losses import SHARE
from conflayers.selectors.trials import BURN_IN, WARM_UP, Trials

GOOD, BAD = Plan.layers([1, 2]), Plan.layers([0, 1])


def trials(length: int, fallback: bool) -> Trials:
    return Trials(length, fallback, Costs(layers=3))


class Machine:
    """Runs rounds at known prices: a plain step 10, a draft step 4, a verification 11; chains of two."""

    def __init__(self, trials: Trials, acceptance: dict[Plan, int]) -> None:
        self.trials, self.acceptance = trials, acceptance
        self.plain, self.draft, self.verify = 10.0, 4.0, 11.0
        self.tokens, self.seconds = 0, 0.0

    def round(self) -> Plan | None:
        plan = self.trials.current
        if plan is None:
            done = Round(None, 0, 0, 1, 0.0, self.plain, None)
        else:
            accepted = self.acceptance[plan]
            done = Round(plan, 2, accepted, accepted + 1, 2 * self.draft, self.verify, None)
        self.trials.costs.observe(
            plan,
            drafted=done.drafted,
            rows=done.rows,
            kept=done.kept,
            draft_seconds=done.draft_seconds,
            verify_seconds=done.verify_seconds,
        )
        self.trials.observe(done)
        self.tokens += done.kept
        self.seconds += done.draft_seconds + done.verify_seconds
        return plan

    def try_out(self, plan: Plan) -> None:
        """A whole trial: its rounds, the plain steps measured before the decision, and the round that decides."""
        self.trials.begin(plan)
        self.rounds(self.trials.length + BURN_IN + WARM_UP + 1)

    def rounds(self, count: int) -> list[Plan | None]:
        return [self.round() for _ in range(count)]


def test_starts_plainly_until_a_plain_step_is_known():
    machine = Machine(trials(6, True), {GOOD: 2})
    machine.trials.begin(GOOD)

    assert machine.rounds(WARM_UP + 2) == [None] * WARM_UP + [GOOD] * 2


def test_a_plan_that_pays_is_adopted_after_a_full_trial_and_stays():
    machine = Machine(trials(6, True), {GOOD: 2})
    machine.rounds(WARM_UP)
    machine.try_out(GOOD)

    assert machine.trials.incumbent == GOOD
    assert machine.trials.last_won
    # 3 tokens in 2 * 4 + 11 against 30 for plain decoding.
    assert "adopted, 1.58x" in machine.trials.decisions[0]
    assert machine.rounds(6) == [GOOD] * 6


def test_a_plan_that_cannot_pay_is_rejected_long_before_its_trial_ends():
    machine = Machine(trials(100, True), {BAD: 0})
    machine.rounds(WARM_UP)
    machine.trials.begin(BAD)
    drafted = machine.rounds(20).count(BAD)

    assert machine.trials.incumbent is None
    assert drafted < 8
    assert "rejected, 0.53x" in machine.trials.decisions[0]


def test_one_disturbed_round_does_not_end_a_trial():
    machine = Machine(trials(8, True), {GOOD: 2})
    machine.rounds(WARM_UP)
    machine.trials.begin(GOOD)
    machine.verify, verify = 5000.0, machine.verify
    machine.round()
    machine.verify = verify
    machine.rounds(7 + BURN_IN + WARM_UP + 1)

    assert machine.trials.incumbent == GOOD


def test_the_incumbent_is_kept_while_a_better_one_is_tried_and_after_it_lost():
    machine = Machine(trials(6, True), {GOOD: 2, BAD: 1})
    machine.rounds(WARM_UP)
    machine.try_out(GOOD)
    machine.try_out(BAD)

    assert machine.trials.incumbent == GOOD
    assert not machine.trials.last_won
    assert machine.trials.current == GOOD


def test_an_incumbent_that_stops_paying_is_given_up_only_after_plain_steps_were_measured_again():
    machine = Machine(trials(6, True), {GOOD: 2})
    machine.rounds(WARM_UP)
    machine.try_out(GOOD)
    machine.acceptance[GOOD] = 0
    used = machine.rounds(6 + WARM_UP + 2)

    assert used == [GOOD] * 6 + [None] * WARM_UP + [GOOD, None]
    assert machine.trials.incumbent is None
    assert "given up, 0.53x" in machine.trials.decisions[-1]


def test_plain_steps_measured_in_a_slow_moment_do_not_make_a_bad_plan_good():
    machine = Machine(trials(6, True), {BAD: 0})
    machine.plain = 100.0
    machine.rounds(WARM_UP)
    machine.plain = 10.0
    machine.try_out(BAD)

    assert machine.trials.incumbent is None


def test_a_slower_machine_is_no_reason_to_give_up():
    machine = Machine(trials(6, True), {GOOD: 2})
    machine.rounds(WARM_UP)
    machine.try_out(GOOD)
    machine.plain, machine.draft, machine.verify = 30.0, 12.0, 33.0
    machine.rounds(60)

    assert machine.trials.incumbent == GOOD
    assert len(machine.trials.decisions) == 1


@pytest.mark.parametrize("tokens", [256, 2000])
def test_hopeless_candidates_cost_no_more_than_a_few_percent(tokens):
    machine = Machine(trials(16, True), {BAD: 0})
    while machine.tokens < tokens:
        if machine.trials.ready:
            machine.trials.begin(BAD)
        machine.round()

    assert machine.trials.finished > 0
    assert machine.seconds / (machine.tokens * machine.plain) < 1 + SHARE + 8 / tokens


def test_without_fallback_the_first_candidate_is_adopted_whatever_it_brings():
    machine = Machine(trials(4, False), {BAD: 0})
    machine.trials.begin(BAD)

    assert machine.rounds(10) == [BAD] * 10
    assert machine.trials.incumbent == BAD


def test_without_fallback_a_given_start_is_measured_before_it_can_be_replaced():
    machine = Machine(trials(4, False), {GOOD: 2, BAD: 0})
    machine.trials.incumbent = GOOD
    for _ in range(40):
        if machine.trials.ready:
            machine.trials.begin(BAD)
        machine.round()

    assert machine.trials.finished > 0
    assert machine.trials.incumbent == GOOD
    assert "plain decoding" not in machine.trials.decisions[0]


def test_a_clock_that_stands_still_harms_nothing():
    machine = Machine(trials(4, True), {GOOD: 2})
    machine.plain = machine.draft = machine.verify = 0.0
    machine.rounds(WARM_UP)
    machine.trials.begin(GOOD)
    machine.rounds(50)

    assert machine.tokens >= 53
