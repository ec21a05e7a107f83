import pytest

from conflayers.costs import RECKONED, Costs, Yield
from conflayers.expected import Expected, Savings
from conflayers.plan import Plan
from conflayers.prices import LEAST_ROW, RECENT

PLAN = Plan.layers([1])


def observe(costs: Costs, plan: Plan | None, drafted: int, draft_seconds: float, verify_seconds: float) -> None:
    """A round that keeps all of a chain."""
    costs.observe(
        plan,
        steps=drafted,
        rows=drafted + 1,
        kept=drafted + 1,
        draft_seconds=draft_seconds,
        verify_seconds=verify_seconds,
    )


def measured() -> Costs:
    costs = Costs(layers=2)
    for _ in range(3):
        observe(costs, None, 0, 0.0, 10.0)
        observe(costs, PLAN, 4, 20.0, 14.0)
    return costs


def test_costs_are_medians_of_what_was_measured():
    costs = measured()
    observe(costs, PLAN, 4, 2000.0, 1400.0)

    assert costs.plain_step == 10.0
    assert costs.draft_step(PLAN) == 5.0
    assert costs.verification(5) == 14.0


def test_verifications_between_measured_sizes_are_interpolated_and_beyond_them_are_not_guessed():
    costs = measured()

    assert costs.verification(3) == 12.0
    assert costs.verification(9) == 14.0
    assert Costs(layers=2).verification(3) == 0.0


def test_an_unknown_draft_step_costs_a_plain_step():
    assert measured().draft_step(Plan.layers([2])) == 10.0


def test_a_step_in_lower_precision_costs_what_was_measured():
    costs = measured()
    view = Plan(precision="int4")
    costs.observe(view, steps=4, rows=5, kept=3, draft_seconds=8.0, verify_seconds=14.0)

    assert costs.draft_step(view) == 2.0
    whole = Plan(mlp=frozenset({1}))
    costs.observe(whole, steps=4, rows=5, kept=3, draft_seconds=8.0, verify_seconds=14.0)
    assert costs.draft_step(whole) == 7.5


def test_plans_have_prices_of_the_same_time_where_steps_are_expected():
    known = Expected(100, ((1, 1.0), (2, 1.0)), {"whole": Savings(0.1, 0.1)})
    costs = Costs(layers=4, expectations=(known,))
    costs.begin(100)
    more, less = Plan.layers([1, 2]), Plan.layers([1])
    for _ in range(3):
        observe(costs, None, 0, 0.0, 10.0)
    # Drafts were twice as slow as expected while the first one had its turn, and then as fast.
    for _ in range(RECENT):
        observe(costs, more, 4, 4 * 12.0, 14.0)
    assert (costs.draft_step(more), costs.draft_step(less)) == pytest.approx((12.0, 16.0))
    for _ in range(RECENT):
        observe(costs, less, 4, 4 * 8.0, 14.0)
    assert (costs.draft_step(more), costs.draft_step(less)) == pytest.approx((6.0, 8.0))

    # Nothing is expected of lower precision here.
    view = Plan(precision="int4")
    observe(costs, view, 4, 8.0, 14.0)
    assert costs.draft_step(view) == 2.0


def test_times_that_no_clock_can_have_measured_are_left_out():
    costs = measured()
    observe(costs, None, 0, 0.0, 0.0)
    observe(costs, None, 0, 0.0, -5.0)
    observe(costs, PLAN, 4, -1.0, -1.0)

    assert (costs.plain_step, costs.draft_step(PLAN), costs.verification(5)) == (10.0, 5.0, 14.0)


def test_a_token_costs_what_the_last_rounds_took_and_a_row_what_larger_passes_take_longer():
    costs = measured()

    assert costs.token_seconds == pytest.approx((10 + 34) / 6)
    assert costs.row_seconds == pytest.approx(0.02 * 10)
    observe(costs, PLAN, 2, 10.0, 13.0)
    for _ in range(RECKONED):
        observe(costs, PLAN, 4, 20.0, 14.0)
    assert costs.row_seconds == pytest.approx((14 - 13) / 2)
    assert (Costs().token_seconds, Costs().row_seconds) == (0.0, 0.0)


def test_speedup_is_tokens_over_the_time_of_a_round():
    costs, brought = measured(), Yield()
    brought.add(4, 4, 5)
    brought.add(4, 2, 5)

    # Two rounds of 4 draft steps at 5 and a verification at 14 bring 8 tokens, which take plain decoding 80.
    assert brought.speedup(PLAN, costs) == pytest.approx(80 / (2 * (4 * 5 + 14)))


def test_without_any_measurement_nothing_is_claimed():
    assert Yield().speedup(PLAN, measured()) == 1.0
    one = Yield()
    one.add(4, 4, 5)
    assert one.speedup(PLAN, Costs(layers=2)) == 1.0


def passes(costs: Costs, rows: int, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        costs.observe(
            PLAN if rows > 1 else None,
            steps=rows - 1,
            rows=rows,
            kept=1,
            draft_seconds=0.0,
            verify_seconds=seconds,
        )


def test_one_disturbed_pass_does_not_set_the_price_of_a_row():
    costs = Costs(layers=2)
    passes(costs, 26, 500.0)
    for rows in (1, 2, 3, 4):
        passes(costs, rows, 10.0 + 0.2 * rows, times=5)

    assert costs.row_seconds == pytest.approx(0.2, rel=1e-6)


def test_prices_of_a_row_from_long_ago_are_forgotten():
    costs = Costs(layers=2)
    passes(costs, 26, 30.0, times=3)
    passes(costs, 2, 11.0, times=3)
    assert costs.row_seconds == pytest.approx(19 / 24)
    for _ in range(40):
        passes(costs, 2, 10.2)
        passes(costs, 3, 10.4)
    assert costs.row_seconds == pytest.approx(0.2)


def test_a_row_is_never_free_and_keeps_its_price_while_all_passes_are_of_one_size():
    costs = Costs(layers=2)
    assert not costs.row_known
    passes(costs, 1, 10.0)
    assert not costs.row_known
    passes(costs, 2, 9.0)
    assert costs.row_known
    assert 0 < costs.row_seconds <= LEAST_ROW * 10
    passes(costs, 4, 14.0, times=30)
    assert costs.row_seconds == pytest.approx((14 - 9) / (4 - 2))
    passes(costs, 1, 10.0, times=70)
    assert costs.row_seconds == pytest.approx((14 - 9) / (4 - 2))


def test_what_a_mask_costs_is_not_taken_for_the_price_of_a_row():
    costs = Costs(layers=2)
    passes(costs, 1, 10.0, times=10)
    passes(costs, 2, 13.0, times=10)
    assert costs.row_seconds == pytest.approx(0.2)
    passes(costs, 6, 13.4, times=10)
    assert costs.row_seconds == pytest.approx(0.1)


def test_later_rounds_displace_earlier_ones_beyond_a_limit():
    kept, later = Yield(), Yield()
    for _ in range(10):
        kept.add(4, 4, 5)
        later.add(2, 0, 3)
    kept.merge(later, 15)

    assert (kept.rounds, kept.accepted, kept.drafted) == (15, 20, 40)


def test_a_token_costs_what_the_last_rounds_took_and_nothing_of_those_before():
    costs = Costs(layers=4)
    for seconds in (1000.0, *[40.0] * RECENT):
        observe(costs, None, 0, 0.0, 100.0)
        costs.observe(PLAN, steps=1, rows=2, kept=4, draft_seconds=seconds - 20.0, verify_seconds=20.0)

    # The last rounds are a plain one of one token and one of four in turns.
    pairs = RECENT // 2
    seconds, tokens = pairs * 140 + 40, pairs * 5 + 4
    assert costs.token_seconds == pytest.approx(seconds / tokens)


def test_what_rounds_brought_fades_as_a_whole():
    brought = Yield()
    brought.add(4, 2, 5)
    brought.fade(0.25)

    assert (brought.rounds, brought.drafted, brought.accepted, brought.rows) == (0.25, 1.0, 0.5, 1.25)
