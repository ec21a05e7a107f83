from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from priced import PricedLlm

from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.errors import InputError
from conflayers.plan import FULL, Plan
from conflayers.predict.calibration import Costs, Drafting
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
COSTS = Costs(100, request=30.0, plain=10.0, drafting={"ours": Drafting(PLAN, token=6.0, row=0.5, round=12.0)})


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


@pytest.mark.parametrize(("ratio", "seconds"), [(0.5, 6), (0.25, 8), (0.0, 10), (0.75, 4), (2.0, 0)])
def test_drafted_tokens_follow_the_skip_ratio(ratio, seconds):
    assert COSTS.token("ours", ratio, 8) == pytest.approx(seconds)


def test_a_plan_that_skips_nothing_has_one_price():
    costs = Costs(1, 1.0, 9.0, {"whole": Drafting(FULL, 11.0, 0.0, 0.0)})
    assert costs.token("whole", 0.5, 8) == 11


def test_a_methods_time_by_hand_from_its_counts():
    plain, (ours,), left_out = count_methods(
        results(record("vanilla", 0, 1, plain_stats()), record("ours", 0, 1, drafted_stats(), str(PLAN)))
    )
    assert left_out == []
    assert predicted_seconds(plain, COSTS, 8) == pytest.approx(30 + 100 * 10)
    # Up to the first token, 4 plain rounds, 60 drafted tokens at 6, 25 rounds at 12, and 60 rows.
    assert predicted_seconds(ours, COSTS, 8) == pytest.approx(30 + 40 + 360 + 25 * 12 + 60 * 0.5)


def test_siblings_are_rows_of_the_verification():
    stats = drafted_stats()
    stats.num_sibling_tokens = 25
    _, (ours,), _ = count_methods(
        results(record("vanilla", 0, 1, plain_stats()), record("ours", 0, 1, stats, str(PLAN)))
    )
    assert predicted_seconds(ours, COSTS, 8) == pytest.approx(30 + 40 + 360 + 25 * 12 + 85 * 0.5)


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
    assert found.predicted == pytest.approx((71 / 760) / (101 / 1030))
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


def test_methods_stand_in_the_order_they_were_named_in():
    runs = results(
        record("swift", 0, 1, drafted_stats(), str(PLAN)),
        record("ours", 0, 1, drafted_stats(), str(PLAN)),
        record("vanilla", 0, 1, plain_stats()),
    )
    runs.settings["methods"] = ["vanilla", "ours", "swift"]
    assert [counts.method for counts in count_methods(runs)[1]] == ["ours", "swift"]


def test_what_was_measured_is_predicted_from_counts_and_other_requests():
    """The runs are as long and draft as much as they like: by known prices their time follows from their counts."""
    llm = PricedLlm()
    methods = {"vanilla": None, "uniform:draft_length=3": PLAN, "uniform:draft_length=5:tree=none": Plan.layers([1])}
    runs = Results({"layers": 8, "methods": list(methods)}, {}, [{"id": "1", "data": "d", "category": "c"}] * 2)
    for name, plan in methods.items():
        for sample, length in enumerate((60, 40)):
            seconds, stats, tokens = llm.answer(name, plan, range(length), 50 + length)
            one = record(name, sample, seconds, stats, None if plan is None else str(plan))
            one.token_ids = tokens
            runs.records.append(one)
    costs = calibrate_for(llm, runs, turns=2, clock=llm.clock)
    checked = validate(runs, costs)
    assert [one.method for one in checked] == list(methods)[1:]
    for one in checked:
        assert one.predicted_seconds == pytest.approx(one.measured_seconds)
        assert one.difference == pytest.approx(0)


def test_sampled_runs_are_calibrated_with_sampled_requests():
    llm = PricedLlm()
    runs = results(record("vanilla", 0, 1, plain_stats()), record("uniform", 0, 1, drafted_stats(), str(PLAN)))
    runs.settings |= {"temperature": 0.8, "seed": 3}
    calibrate_for(llm, runs, turns=1, clock=llm.clock)
    assert llm.choices == {(("seed", 3), ("temperature", 0.8))}
    runs.settings |= {"temperature": None, "seed": None}
    llm.choices.clear()
    calibrate_for(llm, runs, turns=1, clock=llm.clock)
    assert llm.choices == {()}


def test_results_that_cannot_be_calibrated_with_are_an_error():
    with pytest.raises(InputError, match="9 layers"):
        calibrate_for(PricedLlm(), results(record("vanilla", 0, 1, plain_stats()), layers=9))
    silent = record("vanilla", 0, 1, plain_stats())
    silent.token_ids = []
    with pytest.raises(InputError, match="wrote nothing"):
        calibrate_for(PricedLlm(), results(silent))


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
