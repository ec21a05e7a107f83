from collections import Counter
from types import SimpleNamespace

import pytest
from doubles import FakeBody, Ticks
from hypothesis import given
from hypothesis import strategies as st

from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.errors import InputError
from conflayers.plan import FULL, Plan
from conflayers.predict.calibration import Costs, calibrate
from conflayers.predict.measured import (
    calibrate_for,
    count_methods,
    even_plan,
    predicted_seconds,
    read_plan_words,
    validate,
)
from conflayers.stats import Stats

PLAN = Plan.layers([1, 2, 3, 4])
COSTS = Costs(100, plain=10.0, prefill=30.0, steps={PLAN: 6.0}, verifications={1: 10.0, 3: 12.0, 5: 20.0})


class Priced(FakeBody):
    """Ten for a pass, one for each row more than the first; one less for each layer that the plan leaves out."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def forward(self, tokens, **arguments):
        self.clock.now += 10 + len(tokens) - 1 - len(self.plan.whole_layers)
        return super().forward(tokens, **arguments)


def record(method, sample, seconds, stats, plan=None, **changes):
    return Record(
        method=method, data="d", category="c", sample=sample, turn=0, repeat=0, seconds=seconds,
        first_token_seconds=0.0, stats=stats, token_ids=[1, 2, 3], plan=plan, **changes,
    )  # fmt: skip


def plain_stats():
    return Stats(prompt_tokens=50, new_tokens=101, num_plain_steps=100)


def drafted_stats():
    # 20 drafts of 2 and 5 of 4; the prefill's token, 25 bonus tokens, 41 accepted ones and 4 of plain steps.
    return Stats(
        prompt_tokens=50, new_tokens=71, num_plain_steps=4, num_spec_steps=25, num_draft_tokens=60,
        num_accepted_draft_tokens=41, draft_histogram=Counter({2: 20, 4: 5}), skipped_share=30.0, select_seconds=7.0,
    )  # fmt: skip


def results(*records, layers=8):
    return Results({"layers": layers}, {}, [], list(records))


def test_costs_are_timed_one_by_one():
    clock = Ticks()
    body = Priced(clock)
    other = Plan.layers([1])
    costs = calibrate(SimpleNamespace(body=body), [PLAN, other], [3, 5], range(20), prompt=12, repeat=3, clock=clock)
    assert (costs.context, costs.plain, costs.prefill) == (20, 10, 21)
    assert costs.steps == {PLAN: 6, other: 9}
    assert costs.verifications == {1: 10, 3: 12, 5: 14}
    assert body.length == 0


def test_a_calibration_that_cannot_be_is_an_error():
    llm = SimpleNamespace(body=FakeBody(context=12))
    for tokens, rows, arguments, named in (
        (range(8), [8], {}, "context of 12"),
        ([1], [1], {}, "two tokens"),
        (range(5), [0], {}, "sizes"),
        (range(5), [2], {"prompt": 6}, "prompt"),
        (range(5), [2], {"repeat": 0}, "repeats"),
    ):
        with pytest.raises(InputError, match=named):
            calibrate(llm, [PLAN], rows, tokens, **arguments)


def test_the_cache_is_given_back_when_a_pass_fails():
    body = FakeBody(fail_at=5)
    with pytest.raises(RuntimeError, match="planted"):
        calibrate(SimpleNamespace(body=body), [PLAN], [3], range(9))
    assert body.cached == []


@pytest.mark.parametrize(("rows", "seconds"), [(1, 10), (2, 11), (3, 12), (4, 16), (5, 20), (6, 24)])
def test_verifications_between_and_beyond_those_timed(rows, seconds):
    assert COSTS.verification(rows) == pytest.approx(seconds)
    assert Costs(1, 1.0, 1.0, {}, {1: 7.0}).verification(rows) == 7


@pytest.mark.parametrize(("ratio", "seconds"), [(0.5, 6), (0.25, 8), (0.0, 10), (0.75, 4)])
def test_draft_steps_follow_the_skip_ratio(ratio, seconds):
    assert COSTS.draft_step(PLAN, ratio, 8) == pytest.approx(seconds)


def test_a_methods_time_by_hand_from_its_counts():
    plain, (ours,), left_out = count_methods(
        results(record("vanilla", 0, 1, plain_stats()), record("ours", 0, 1, drafted_stats(), str(PLAN)))
    )
    assert left_out == []
    assert predicted_seconds(plain, COSTS, 8) == pytest.approx(30 + 100 * 10)
    # A prefill, 4 plain steps, 60 draft steps at 6, 20 verifications of 3 rows and 5 of 5.
    assert predicted_seconds(ours, COSTS, 8) == pytest.approx(30 + 40 + 360 + 20 * 12 + 5 * 20)


def test_siblings_are_rows_of_the_verification():
    stats = drafted_stats()
    stats.num_sibling_tokens = 25
    _, (ours,), _ = count_methods(
        results(record("vanilla", 0, 1, plain_stats()), record("ours", 0, 1, stats, str(PLAN)))
    )
    assert predicted_seconds(ours, COSTS, 8) == pytest.approx(30 + 40 + 360 + 20 * 16 + 5 * 24)


def test_predicted_and_measured_side_by_side_over_shared_requests():
    unshared = Stats(prompt_tokens=9, new_tokens=1000, num_plain_steps=999)
    (found,) = validate(
        results(
            record("vanilla", 0, 1000, plain_stats()),
            record("vanilla", 1, 1e6, unshared),
            record("ours", 0, 500, drafted_stats(), str(PLAN)),
        ),
        COSTS,
    )
    assert found.predicted == pytest.approx((71 / 770) / (101 / 1030))
    assert found.measured == pytest.approx((71 / 500) / (101 / 1000))
    assert found.difference == pytest.approx(found.predicted / found.measured - 1)
    assert (found.draft_length, found.acceptance, found.select_share) == pytest.approx((60 / 25, 41 / 60, 7 / 500))
    assert found.mean_accepted == pytest.approx(70 / 29)


def test_the_runs_own_phase_times_change_nothing():
    timed = drafted_stats()
    timed.draft_seconds, timed.verify_seconds, timed.prefill_seconds = 1e3, 1e4, 1e5
    both = [
        validate(results(record("vanilla", 0, 1000, plain_stats()), record("ours", 0, 500, stats, str(PLAN))), COSTS)
        for stats in (drafted_stats(), timed)
    ]
    assert both[0] == both[1]


def test_what_drafts_with_no_part_of_the_model_is_left_out_by_name():
    lookup = drafted_stats()
    lookup.skipped_share = 0.0
    _, counted, left_out = count_methods(
        results(
            record("vanilla", 0, 1, plain_stats()), record("hf", 0, 1, plain_stats()), record("lookup", 0, 1, lookup)
        )
    )
    assert (counted, left_out) == ([], ["hf", "lookup"])


def test_without_plain_decoding_there_is_nothing_to_compare_with():
    with pytest.raises(InputError, match="vanilla"):
        count_methods(results(record("ours", 0, 1, drafted_stats())))


def test_a_benchmark_is_calibrated_with_its_plans_sizes_and_length():
    clock = Ticks()
    body = Priced(clock)
    runs = results(
        record("vanilla", 0, 1000, plain_stats()),
        record("ours", 0, 500, drafted_stats(), str(PLAN)),
        record("search", 0, 500, drafted_stats(), None),
    )
    costs = calibrate_for(SimpleNamespace(body=body), runs, repeat=2, clock=clock)
    # 50 of the prompt and half of 101; drafts of 2 and 4; half of eight layers where the plan in the end was none.
    assert (costs.context, costs.prefill) == (100, 59)
    assert costs.verifications == {1: 10, 3: 12, 5: 14}
    assert costs.steps == {PLAN: 6, even_plan(8, 0.5): 6}


def test_results_of_another_model_are_an_error():
    with pytest.raises(InputError, match="9 layers"):
        calibrate_for(SimpleNamespace(body=FakeBody()), results(record("vanilla", 0, 1, plain_stats()), layers=9))


@given(st.frozensets(st.integers(0, 12)), st.frozensets(st.integers(0, 12)))
def test_a_plan_is_read_from_its_words(attention, mlp):
    plan = Plan(attention, mlp)
    assert read_plan_words(str(plan)) == (plan if plan != FULL else None)


def test_words_that_name_no_plan():
    assert read_plan_words(None) is None
    assert read_plan_words("something else") is None


@pytest.mark.parametrize(
    ("layers", "ratio", "skipped"), [(8, 0.5, {1, 3, 4, 6}), (8, 0.125, {4}), (8, 1.0, set(range(1, 7)))]
)
def test_an_even_plan_skips_inner_layers(layers, ratio, skipped):
    assert even_plan(layers, ratio) == Plan.layers(skipped)


def test_an_even_plan_of_nothing_is_none():
    assert even_plan(8, 0.01) is None
    assert even_plan(2, 0.9) is None
