"""The interval of a plan's speedup: what counts as one sample, and what there is none for."""

import pytest

from conflayers.search.interval import speedup_interval
from conflayers.search.progress import Speed


def pairs(*ratios: float) -> list[tuple[Speed, Speed]]:
    return [(Speed(100, 1.0), Speed(100, 1 / ratio)) for ratio in ratios]


def test_a_plan_equally_fast_on_every_prompt_is_known_exactly():
    assert speedup_interval(pairs(1.25, 1.25, 1.25), 3) == pytest.approx((1.25, 1.25))


def test_further_passes_over_the_same_prompts_are_no_further_samples():
    once, thrice = pairs(0.9, 1.2, 1.1), pairs(*(0.9, 1.2, 1.1) * 3)
    assert speedup_interval(thrice, 3) == pytest.approx(speedup_interval(once, 3))
    low, high = speedup_interval(thrice, 9) or (0, 0)
    before = speedup_interval(once, 3) or (0, 0)
    assert before[0] < low < high < before[1]


def test_a_pass_that_ended_early_counts_for_the_prompts_it_reached():
    assert speedup_interval(pairs(0.9, 1.2, 1.1, 0.9), 3) is not None
    assert speedup_interval(pairs(0.9, 1.2), 3) is not None


@pytest.mark.parametrize(("ratios", "prompts"), [((), 3), ((1.2,), 3), ((1.2, 1.1, 1.3), 1)])
def test_fewer_than_two_prompts_have_no_interval(ratios, prompts):
    assert speedup_interval(pairs(*ratios), prompts) is None
