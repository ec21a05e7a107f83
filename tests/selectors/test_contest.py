"""Plans in turns on a machine whose times are known: who is drafted with how often, and what that may cost."""

import itertools
import random

import pytest

from conflayers.costs import Costs, Yield
from conflayers.plan import LOOKUP, Plan
from conflayers.round import Round
from conflayers.selectors.contest import BURN_IN, GIVEN, KNOWN, REVIEW, WARM_UP, Contest
from conflayers.selectors.losses import SHARE, STEPS

GOOD, FAIR, BAD = Plan.layers([1, 2]), Plan.layers([0, 2]), Plan.layers([0, 1])
HOPEFUL = (1.2, 8.0)


class Machine:
    """Runs rounds at known prices: a plain step 10, a draft step 4, a verification 11; chains of two."""

    def __init__(self, acceptance: dict[Plan, int], *, fallback: bool = True) -> None:
        self.contest = Contest(4, fallback, Costs(layers=3))
        self.acceptance = acceptance
        self.plain, self.draft, self.verify = 10.0, 4.0, 11.0
        self.tokens, self.seconds = 0, 0.0

    def round(self) -> Plan | None:
        plan = self.contest.chosen
        if plan is None or plan == LOOKUP:  # nothing is found
            done = Round(plan, 0, 0, 1, 0.0, self.plain, None)
        else:
            accepted = self.acceptance[plan]
            done = Round(plan, 2, accepted, accepted + 1, 2 * self.draft, self.verify, None)
        self.contest.costs.observe(
            plan,
            steps=done.steps,
            rows=done.rows,
            kept=done.kept,
            draft_seconds=done.draft_seconds,
            verify_seconds=done.verify_seconds,
        )
        self.contest.observe(done)
        self.tokens += done.kept
        self.seconds += done.draft_seconds + done.verify_seconds
        return plan

    def rounds(self, count: int) -> list[Plan | None]:
        return [self.round() for _ in range(count)]


def test_starts_plainly_until_a_plain_step_is_known():
    machine = Machine({GOOD: 2})
    machine.contest.begin_with(GOOD)

    assert machine.rounds(WARM_UP) == [None] * WARM_UP
    assert GOOD in machine.rounds(20)


def test_a_plan_that_pays_is_used_nearly_always():
    machine = Machine({GOOD: 2})
    machine.contest.enter({GOOD: HOPEFUL})
    used = machine.rounds(200)

    assert used.count(GOOD) > 150
    assert machine.contest.best == GOOD
    # 3 tokens in 2 * 4 + 11 against 30 for plain decoding.
    assert machine.contest.to_beat == pytest.approx(30 / 19, rel=0.05)
    assert len(machine.contest.decisions) == 1


def test_a_plan_that_cannot_pay_is_hardly_drafted_with():
    machine = Machine({BAD: 0})
    machine.contest.enter({BAD: HOPEFUL})
    used = machine.rounds(400)

    assert 0 < used.count(BAD) < 20
    assert machine.contest.best is None
    assert machine.contest.bias < 1


def test_the_best_gets_most_turns_whatever_was_entered_last():
    machine = Machine({GOOD: 2, FAIR: 1, BAD: 0})
    machine.contest.enter({BAD: HOPEFUL, GOOD: HOPEFUL})
    machine.rounds(60)
    machine.contest.enter({FAIR: (1.5, 8.0)})
    used = machine.rounds(200)

    assert machine.contest.best == GOOD
    assert used.count(GOOD) > 8 * used.count(FAIR) > 0
    assert used.count(BAD) < 8


def test_what_stops_paying_gives_way_to_plain_decoding():
    machine = Machine({GOOD: 2})
    machine.contest.enter({GOOD: HOPEFUL})
    machine.rounds(60)
    machine.acceptance[GOOD] = 0
    machine.rounds(150)

    assert machine.contest.best is None
    assert "plain decoding" in machine.contest.decisions[-1]
    assert machine.rounds(100).count(GOOD) < 30


def test_old_rounds_fade_so_that_who_lost_may_win_again():
    machine = Machine({GOOD: 0, FAIR: 1})
    machine.contest.enter({GOOD: HOPEFUL, FAIR: HOPEFUL})
    machine.draft = 2.0
    machine.rounds(400)
    assert machine.contest.best == FAIR
    machine.acceptance[GOOD] = 2
    machine.rounds(2000)

    assert machine.contest.best == GOOD


def test_the_first_rounds_of_a_plan_do_not_count():
    machine = Machine({GOOD: 0})
    machine.contest.begin_with(GOOD)
    drafted = machine.rounds(WARM_UP + machine.contest.length).count(GOOD)

    assert machine.contest.live[GOOD].rounds == drafted - BURN_IN > 0


def test_plain_steps_are_measured_anew_now_and_then():
    machine = Machine({GOOD: 2})
    machine.contest.begin_with(GOOD)
    machine.rounds(WARM_UP + 1)
    used = machine.rounds(REVIEW + 8 * machine.contest.length)

    assert used.count(None) >= WARM_UP
    assert used[-1] == GOOD


def test_a_slower_machine_is_no_reason_to_give_up():
    machine = Machine({GOOD: 2})
    machine.contest.enter({GOOD: HOPEFUL})
    machine.rounds(60)
    machine.plain, machine.draft, machine.verify = 30.0, 12.0, 33.0
    machine.rounds(150)

    assert machine.contest.best == GOOD
    assert len(machine.contest.decisions) == 1


@pytest.mark.parametrize("tokens", [256, 2000])
def test_hopeless_candidates_cost_no_more_than_a_few_percent(tokens):
    machine = Machine({BAD: 0, FAIR: 0, GOOD: 0})
    while machine.tokens < tokens:
        machine.contest.enter(dict.fromkeys([BAD, FAIR, GOOD], (1.5, 64.0)))  # forecasts that never learn
        machine.round()

    assert machine.contest.losses.elapsed == machine.seconds
    assert machine.seconds / (machine.tokens * machine.plain) < 1 + SHARE + (STEPS + 2) / tokens


def test_what_was_gained_may_be_staked():
    machine = Machine({GOOD: 2})
    machine.contest.enter({GOOD: HOPEFUL})
    machine.rounds(60)

    assert machine.contest.losses.lost < 0
    machine.acceptance[GOOD] = 0
    machine.rounds(8)
    assert not machine.contest.losses.exceeded


def test_without_fallback_there_is_always_a_plan():
    machine = Machine({BAD: 0}, fallback=False)
    machine.contest.begin_with(BAD)

    assert machine.rounds(50) == [BAD] * 50
    assert machine.contest.best == BAD


def test_without_fallback_a_better_plan_takes_over():
    machine = Machine({GOOD: 2, BAD: 0}, fallback=False)
    machine.contest.begin_with(BAD)
    machine.rounds(10)
    machine.contest.enter({GOOD: GIVEN})
    machine.rounds(100)

    assert machine.contest.best == GOOD


def test_a_clock_that_stands_still_harms_nothing():
    machine = Machine({GOOD: 2})
    machine.plain = machine.draft = machine.verify = 0.0
    machine.contest.begin_with(GOOD)
    machine.rounds(60)

    assert machine.tokens >= 60


def test_the_better_a_plan_is_known_the_longer_its_turns():
    turns = []

    class Chance(random.Random):
        def gauss(self, mu: float, sigma: float) -> float:
            turns.append(machine.tokens)
            return mu

    machine = Machine({GOOD: 1}, fallback=False)
    machine.contest.begin_with(GOOD)
    machine.contest._chance = Chance()
    machine.rounds(400)

    # Two tokens a round; rounds are counted behind the draw.
    lengths = [(later - before) // 2 for before, later in itertools.pairwise(turns)]
    assert set(lengths[: int(KNOWN) // 4]) == {4}
    assert lengths == sorted(lengths)
    assert lengths[-1] > 4 * 4


def test_somebody_new_need_not_wait_for_the_end_of_a_long_turn():
    waited = []
    for seed in range(20):
        machine = Machine({FAIR: 1, GOOD: 2})
        machine.contest._chance = random.Random(seed)
        machine.contest.enter({FAIR: HOPEFUL})
        machine.rounds(80)
        machine.contest.enter({GOOD: (1.8, 16.0)})
        waited.append(machine.rounds(60).index(GOOD))

    # A turn has four rounds at first and sixteen at most.
    assert sum(waited) / len(waited) < 10


def test_lookups_that_find_nothing_give_way_at_once_to_what_was_looked_at():
    machine = Machine({GOOD: 2})
    machine.contest = Contest(4, True, Costs(layers=3), lookup=True)
    machine.rounds(60)
    assert machine.contest.current == LOOKUP
    machine.contest.enter({GOOD: (1.8, 16.0)})

    assert GOOD in machine.rounds(3)


def test_a_fall_ends_a_long_turn():
    drafted = []
    for seed in range(20):
        machine = Machine({GOOD: 2})
        machine.contest._chance = random.Random(seed)
        machine.contest.enter({GOOD: HOPEFUL})
        machine.rounds(200)
        machine.acceptance[GOOD] = 0
        drafted.append(machine.rounds(100).count(GOOD))

    assert sum(drafted) / len(drafted) < 30


def test_the_best_stays_the_best_until_another_surely_is_better():
    contest = Machine({GOOD: 2}).contest
    contest.begin_with(GOOD)
    contest.live = {GOOD: Yield(50), FAIR: Yield(50)}

    assert contest._best_of({GOOD: (1.3, 0.05), FAIR: (1.4, 0.05)}) == GOOD
    assert contest._best_of({GOOD: (1.3, 0.05), FAIR: (1.5, 0.05)}) == FAIR
    assert contest._best_of({GOOD: (0.99, 0.05), FAIR: (1.01, 0.05)}) == FAIR
    assert contest._best_of({GOOD: (0.99, 0.05), FAIR: (0.98, 0.05)}) is None
