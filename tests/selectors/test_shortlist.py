import numpy as np
import pytest

from conflayers.costs import Costs, Yield
from conflayers.expected import Expected, Savings
from conflayers.plan import Plan
from conflayers.selectors.candidates import LEAST, VALLEY
from conflayers.selectors.forecast import speedups
from conflayers.selectors.shortlist import ENOUGH, HALF_LIFE, ROUNDS, Shortlist

LAYERS = 10
LEAST_PLANS = [Plan.layers(range(1, 1 + count)) for count in range(1, 9)]
VALLEY_PLANS = [Plan.layers(s) for s in ([2, 8], [3, 5, 7], [2, 4, 6, 8])]


def costs() -> Costs:
    known = Costs(layers=LAYERS)
    for _ in range(3):
        known.observe(None, steps=0, rows=1, kept=1, draft_seconds=0.0, verify_seconds=10.0)
    return known


def shortlist() -> Shortlist:
    plans = dict.fromkeys(LEAST_PLANS, LEAST) | dict.fromkeys(VALLEY_PLANS, VALLEY)
    return Shortlist(plans, LAYERS, Savings(0.045, 0.045))


def leader(listed: Shortlist) -> tuple[Plan, float] | None:
    forecasts = listed.forecasts(costs())
    return max(((plan, speedup) for plan, (speedup, _) in forecasts.items()), key=lambda one: one[1], default=None)


def search(listed: Shortlist, acceptance, most: int = 40) -> list[Plan]:
    """Look until nothing may beat the leader; the order of the looks."""
    looks = []
    for now in range(most):
        best = leader(listed)
        plan = listed.next(costs(), best[1] if best else 0.0)
        if plan is None or (best and plan == best[0]):
            break
        looks.append(plan)
        listed.count(plan, 32 * acceptance(plan), 0, 32, 32 * now)
    return looks


def test_the_first_looks_are_at_three_quarters_most_and_half_of_the_layers():
    looks = search(shortlist(), lambda plan: 0.95 if plan.skipped <= 2 * 5 else 0.5)

    assert looks[:3] == [LEAST_PLANS[5], LEAST_PLANS[6], LEAST_PLANS[3]]


def test_nobody_who_was_seen_is_hoped_to_miss_nothing():
    listed = shortlist()
    for _ in range(3):
        listed.count(LEAST_PLANS[3], 32, 0, 32, 0)

        hope = listed.hopes()[list(listed.plans).index(LEAST_PLANS[3])]
        assert 1 - 0.5 / 32 < hope < 1


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("least", [0.0, 0.4])
def test_few_looks_find_a_plan_nearly_as_fast_as_the_best(power, least):
    def acceptance(plan: Plan) -> float:
        return 1 - (1 - least) * (plan.skipped / (2 * LAYERS)) ** power

    listed = shortlist()
    looks = search(listed, acceptance)

    everyone = list(listed.plans)
    fastest = speedups(np.array([*map(acceptance, everyone)]), listed.draft_steps(costs()), costs())
    best = leader(listed)[0]
    assert fastest[everyone.index(best)] > 0.97 * fastest.max()
    assert len(set(looks)) <= 12


def test_another_rule_wins_where_its_plans_are_better():
    def acceptance(plan: Plan) -> float:
        return 0.95 if plan == VALLEY_PLANS[2] else 0.6 if plan.skipped <= 8 else 0.05

    listed = shortlist()
    search(listed, acceptance)

    assert leader(listed)[0] == VALLEY_PLANS[2]


def test_a_rule_whose_plan_was_bad_comes_later():
    listed = shortlist()
    listed.count(LEAST_PLANS[3], 30, 0, 32, 32)
    listed.count(LEAST_PLANS[5], 20, 0, 32, 64)
    before = listed.acceptance(VALLEY_PLANS[0])
    listed.count(VALLEY_PLANS[1], 3, 0, 32, 96)

    assert listed.acceptance(VALLEY_PLANS[0]) < before - 0.3


def test_a_forecast_is_there_for_whoever_was_looked_at_and_is_worth_its_tokens():
    listed = shortlist()
    assert listed.forecasts(costs()) == {}
    listed.count(LEAST_PLANS[3], 32, 0, 32, 32)
    listed.count(LEAST_PLANS[5], 0, 0, 16, 32)
    forecasts = listed.forecasts(costs())

    assert [*forecasts] == [LEAST_PLANS[3], LEAST_PLANS[5]]
    assert forecasts[LEAST_PLANS[3]][0] > 1 > forecasts[LEAST_PLANS[5]][0]
    assert [weight for _, weight in forecasts.values()] == [32 * ROUNDS, 16 * ROUNDS]


def test_old_tokens_give_way_to_new_ones():
    listed = shortlist()
    for look in range(20):
        listed.count(LEAST_PLANS[0], 0 if look < 10 else 32, 0, 32, 32 * look)

    assert 0.8 * ENOUGH < listed.seen(LEAST_PLANS[0]) <= ENOUGH
    assert listed.acceptance(LEAST_PLANS[0]) > 0.7
    assert listed.fresh(LEAST_PLANS[0], 20 * 32) == 32


def test_looks_fade_so_that_who_was_seen_at_a_hard_place_is_looked_at_again():
    listed = shortlist()
    for plan in LEAST_PLANS + VALLEY_PLANS:
        listed.count(plan, 10, 0, 32, 32)
    assert listed.next(costs(), 1.3) is None

    listed.count(LEAST_PLANS[0], 31, 0, 32, 32 + 6 * int(HALF_LIFE))
    assert listed.seen(LEAST_PLANS[5]) == 0.5
    assert listed.next(costs(), 1.3) is not None


def test_looks_fade_though_nobody_is_looked_at():
    listed = shortlist()
    for plan in LEAST_PLANS + VALLEY_PLANS:
        listed.count(plan, 10, 0, 32, 32)
    assert listed.next(costs(), 1.15) is None

    listed.fade(32 + 6 * int(HALF_LIFE))

    assert listed.seen(LEAST_PLANS[5]) == 0.5
    assert listed.next(costs(), 1.15) is not None


def test_what_drafts_were_accepted_for_tells_where_to_look():
    drafting = LEAST_PLANS[3]
    listed = shortlist()
    listed.count(drafting, 14, 0, 32, 32)
    unlucky = listed.hopes()
    listed.hear({drafting: Yield(rounds=60, drafted=200, accepted=190, rows=260)})
    hopes = listed.hopes()

    places = {plan: at for at, plan in enumerate(listed.plans)}
    assert all(hopes[places[plan]] > unlucky[places[plan]] for plan in LEAST_PLANS[4:7])
    # The forecast of who drafted is of what was seen of it alone: what its drafts brought counts beside it.
    assert listed.forecasts(costs())[drafting][1] == 32 * ROUNDS
    assert listed.next(costs(), 5.0, drafting) not in (None, drafting)


def test_siblings_that_are_accepted_make_nobody_more_than_certain():
    listed = shortlist()
    listed.count(LEAST_PLANS[3], 14, 0, 32, 32)
    listed.hear({LEAST_PLANS[3]: Yield(rounds=40, drafted=30, accepted=60, rows=200)})

    assert ((listed.hopes() >= 0) & (listed.hopes() <= 1)).all()
    assert listed.next(costs(), 1.0, LEAST_PLANS[3]) is not None


def test_the_shortest_look_tells_of_others_for_a_while():
    listed = shortlist()
    untold = listed.acceptance(LEAST_PLANS[4])
    listed.count(LEAST_PLANS[5], 15, 0, 16, 100)
    listed.fade(100 + int(HALF_LIFE) // 2)
    assert listed.acceptance(LEAST_PLANS[4]) > untold


def test_candidates_that_never_drafted_are_priced_by_what_draft_steps_take_now():
    drafted, new = LEAST_PLANS[3], LEAST_PLANS[5]
    known = costs()
    known.expected = Expected(64, ((1, 1.0), (8, 1.5)), {"whole": Savings(0.045, 0.045)})
    listed = shortlist()
    before = listed.draft_steps(known)
    # Twice as long as expected.
    known.observe(drafted, steps=2, rows=3, kept=1, draft_seconds=2 * 2 * 6.4, verify_seconds=11.0)

    after = listed.draft_steps(known)

    assert after == pytest.approx(2 * before)
    places = {plan: at for at, plan in enumerate(listed.plans)}
    for plan in (drafted, new):
        assert after[places[plan]] == pytest.approx(known.draft_step(plan) / 10)


def test_nothing_is_worth_a_look_where_even_hope_loses():
    listed = shortlist()
    for plan in LEAST_PLANS + VALLEY_PLANS:
        listed.count(plan, 0, 0, 256, 256)

    assert listed.next(costs(), 1.0) is None
