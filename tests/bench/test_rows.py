"""The arithmetic of a benchmark, by records whose times are known."""

from collections import Counter

import pytest

from conflayers.bench.record import Difference, Record
from conflayers.bench.rows import ratio_interval, summarise
from conflayers.stats import Stats


def record(method, sample, tokens, seconds, *, repeat=0, first=0.0, category="all of it", **stats):
    filled = Stats(new_tokens=tokens, **stats)
    return Record(method, "data", category, sample, 0, repeat, seconds, first, filled, list(range(tokens)))


def test_ratios_are_of_totals_and_no_mean_of_ratios():
    records = [
        record("vanilla", 0, 10, 1.0),
        record("vanilla", 1, 90, 9.0),
        record("fast", 0, 10, 0.25),
        record("fast", 1, 90, 9.75),
    ]
    plain, fast = summarise(records, ["vanilla", "fast"], {})
    # The mean of the ratios would be (4 + 0.923) / 2 = 2.46.
    assert fast["speedup"] == pytest.approx(1.0)
    assert plain["speedup"] == 1.0
    assert fast["tokens_per_second"] == pytest.approx(10.0)
    assert fast["seconds"] == 10.0
    assert fast["requests"] == 2


def test_time_of_the_search_counts():
    records = [record("vanilla", 0, 8, 4.0), record("ours", 0, 8, 4.0, draft_seconds=1.0, select_seconds=2.0)]
    ours = summarise(records, ["vanilla", "ours"], {})[1]
    assert ours["speedup"] == 1.0
    assert ours["select_seconds"] == 2.0
    assert ours["select_share"] == 0.5
    assert ours["phases"] == {"prefill": 0.0, "draft": 1.0, "verify": 0.0, "select": 2.0, "other": 1.0}


def test_decoding_speed_leaves_out_the_first_token_and_its_time():
    records = [record("vanilla", 0, 11, 3.0, first=1.0), record("vanilla", 1, 1, 0.5, first=0.5)]
    row = summarise(records, ["vanilla"], {})[0]
    assert row["decode_tokens_per_second"] == pytest.approx(10 / 2.0)
    assert row["first_token_seconds"] == pytest.approx(0.75)


def test_over_transformers_where_it_took_part():
    records = [record("vanilla", 0, 10, 2.0), record("hf", 0, 10, 4.0), record("ours", 0, 10, 1.0)]
    rows = {row["method"]: row for row in summarise(records, ["vanilla", "hf", "ours"], {})}
    assert rows["ours"]["speedup_over_hf"] == pytest.approx(4.0)
    assert rows["vanilla"]["speedup_over_hf"] == pytest.approx(2.0)
    without = summarise(records, ["vanilla", "ours"], {})[1]
    assert without["speedup_over_hf"] is None


def test_texts_of_different_length_are_compared_by_time_a_token():
    records = [record("vanilla", 0, 10, 1.0), record("hf", 0, 20, 1.0)]
    assert summarise(records, ["vanilla", "hf"], {})[1]["speedup"] == pytest.approx(2.0)


def test_requests_that_one_method_lacks_count_for_none():
    records = [
        record("vanilla", 0, 10, 1.0),
        record("ours", 0, 10, 0.5),
        record("vanilla", 1, 10, 100.0),
    ]
    rows = summarise(records, ["vanilla", "ours"], {})
    assert [row["requests"] for row in rows] == [1, 1]
    assert rows[1]["speedup"] == pytest.approx(2.0)
    assert summarise(records[:1], ["vanilla", "ours"], {}) == []


def test_categories_and_repeats():
    records = [
        record(method, sample, 10, seconds, repeat=repeat, category=category)
        for method, sample, repeat, category, seconds in (
            ("vanilla", 0, 0, "x", 1.0),
            ("vanilla", 1, 0, "y", 1.0),
            ("vanilla", 0, 1, "x", 3.0),
            ("vanilla", 1, 1, "y", 1.0),
            ("ours", 0, 0, "x", 2.0),
            ("ours", 1, 0, "y", 0.5),
            ("ours", 0, 1, "x", 2.0),
            ("ours", 1, 1, "y", 0.5),
        )
    ]
    rows = {(row["method"], row["category"]): row for row in summarise(records, ["vanilla", "ours"], {})}
    assert set(rows) == {(method, category) for method in ("vanilla", "ours") for category in ("all", "x", "y")}
    assert rows["ours", "x"]["speedup"] == pytest.approx(4.0 / 4.0)
    assert rows["ours", "y"]["speedup"] == pytest.approx(2.0)
    assert rows["ours", "all"]["speedup_by_repeat"] == pytest.approx([2.0 / 2.5, 4.0 / 2.5])
    assert rows["ours", "all"]["speedup_median"] == pytest.approx((2.0 / 2.5 + 4.0 / 2.5) / 2)
    assert rows["vanilla", "all"]["tokens_per_second_by_repeat"] == pytest.approx([10.0, 5.0])


def test_acceptance_is_counted_over_all_requests():
    records = [
        record("vanilla", 0, 9, 1.0, num_plain_steps=8),
        record("vanilla", 1, 5, 1.0, num_plain_steps=4),
        record("ours", 0, 9, 1.0, num_spec_steps=2, num_draft_tokens=8, num_accepted_draft_tokens=7,
               num_accepted_sibling_tokens=1, acceptance_histogram=Counter({4: 1, 3: 1}),
               chain_histogram=Counter({4: 1, 2: 1}), draft_histogram=Counter({4: 2}), skipped_share=4.0),
        record("ours", 1, 5, 1.0, num_spec_steps=4, num_draft_tokens=4, num_accepted_draft_tokens=0,
               acceptance_histogram=Counter({0: 4}), chain_histogram=Counter({0: 4}), draft_histogram=Counter({1: 4}),
               skipped_share=1.0),
    ]  # fmt: skip
    plain, ours = summarise(records, ["vanilla", "ours"], {})
    assert plain["mean_accepted_tokens"] == 1.0
    assert plain["acceptance_rate"] is None
    assert ours["acceptance_rate"] == pytest.approx(6 / 12)
    # Of the tokens that were kept: one that was accepted behind the end of the text is none of them.
    assert ours["mean_accepted_tokens"] == pytest.approx((8 + 4) / 6)
    assert ours["skip_ratio"] == pytest.approx(5 / 12)
    assert ours["acceptance_by_position"] == pytest.approx([2 / 6, 2 / 2, 1 / 2, 1 / 2])
    assert ours["acceptance_histogram"] == {"0": 4, "3": 1, "4": 1}


def test_intervals_hold_the_samples_together():
    same = [record("a", i, 10, 1.0) for i in range(8)], [record("b", i, 10, 2.0) for i in range(8)]
    assert ratio_interval(*same) == pytest.approx((2.0, 2.0))
    mixed = [record("a", i, 10, 1.0 + i % 2) for i in range(8)], [record("b", i, 10, 1.5) for i in range(8)]
    low, high = ratio_interval(*mixed)
    assert low < 1.0 < high
    # Twice the repeats of the same samples are no more evidence.
    again = tuple([*side, *side] for side in mixed)
    assert ratio_interval(*again) == pytest.approx((low, high))
    assert ratio_interval(same[0][:1], same[1][:1]) is None


def test_what_is_the_same_and_what_is_not():
    records = [record("vanilla", i, 4, 1.0) for i in range(3)] + [record("ours", i, 4, 1.0) for i in range(3)]
    for one in records:
        one.identical = True
    records[4].identical, records[4].difference = False, Difference(2, 7, 2, 1e-6)
    plain, ours = summarise(records, ["vanilla", "ours"], {"ours": {"peak_mb": 12.0, "extra_mb": 2.0}})
    assert plain["identical"] is True
    assert ours["identical"] is False
    assert ours["differing"] == 1
    assert ours["peak_memory_mb"] == 12.0
    assert plain["peak_memory_mb"] is None
    records[4].identical = None
    assert summarise(records, ["vanilla", "ours"], {})[1]["identical"] is True


def test_a_record_survives_its_file():
    one = record("ours", 3, 5, 1.5, first=0.5, chain_histogram=Counter({2: 3}), draft_histogram=Counter({4: 3}))
    one.difference = Difference(1, None, 4)
    again = Record.from_dict(one.as_dict())
    assert again == one
    assert again.stats.acceptance_by_position == [1.0, 1.0, 0.0, 0.0]


def test_what_nobody_counted_is_not_shown():
    records = [record("vanilla", 0, 9, 1.0, num_plain_steps=8), record("hf-early-exit", 0, 9, 1.0)]
    row = summarise(records, ["vanilla", "hf-early-exit"], {})[1]
    assert row["mean_accepted_tokens"] is None
    assert row["skip_ratio"] is None
    assert row["acceptance_rate"] is None
