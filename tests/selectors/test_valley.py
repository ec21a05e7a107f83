"""The published rule against a reference written out from the formulas, one scalar at a time."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conflayers.selectors.valley import adapt_lambda, leading_run, normalise, standardise, survey


def reference(c: list[float], layers: int, lam: float) -> tuple[list[bool], list[int]]:
    """Which of layers 1 .. layers-2 the rule skips, and the windows; the formulas of the paper, no arrays."""
    n = len(c)
    mean = sum(c) / n
    std = math.sqrt(sum((x - mean) ** 2 for x in c) / (n - 1)) if n > 1 else 0.0
    z = [(x - mean) / (std + 1e-6) for x in c]

    def slope(v: list[float]) -> list[float]:
        inner = [(v[i + 1] - v[i - 1]) / 2 for i in range(1, len(v) - 1)]
        return [v[1] - v[0], *inner, v[-1] - v[-2]]

    g = slope(slope(z)) if n > 1 else [0.0]
    count = 0
    while count < n and g[count] == g[0]:
        count += 1
    low, high = min(g), max(g)
    if high == low:
        g = [0.5] * n
    else:
        g = [(x - low) / (high - low + 1e-8) for x in g]
        mu = sum(g) / n
        a = min(0.5 / (max(g) - mu), 0.5 / (mu - min(g)))
        g = [min(max(a * x + 0.5 - a * mu, 0.0), 1.0) for x in g]
    skip, windows = [], []
    for i in range(n):
        w = 2 + int(5 * count * g[i] * (i + 1) / layers)
        h = w // 2
        around = z[max(0, i - h) : i] + z[i + 1 : i + h + 1]
        windows.append(w)
        if not around:
            skip.append(False)
            continue
        m = sum(around) / len(around)
        s = math.sqrt(sum((x - m) ** 2 for x in around) / len(around))
        skip.append(z[i] < m - lam * s)
    return skip, windows


def close_calls(c: np.ndarray, layers: int, lam: float) -> np.ndarray:
    """Candidates whose score is within rounding of the threshold, where either answer is right."""
    seen = survey(c, layers).valleys(lam)
    return np.abs(seen.scores - seen.thresholds) < 1e-8


@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40),
    st.floats(-1, 1),
)
def test_equals_the_reference(confidences, lam):
    c = np.array(confidences)
    layers = len(c) + 2
    if 0 < np.ptp(c) < 1e-3:
        c = np.round(c, 2)

    seen = survey(c, layers).valleys(lam)
    wanted, windows = reference(c.tolist(), layers, lam)

    doubtful = close_calls(c, layers, lam)
    # A window may differ by one neighbour where 5 * count * g * depth lies on a whole number.
    if seen.windows.tolist() == windows:
        assert (seen.skipped | doubtful).tolist() == (np.array(wanted) | doubtful).tolist()
    else:
        assert np.abs(seen.windows - windows).max() <= 1 or leading_run(np.array(confidences), 0.0) > 1


@pytest.mark.parametrize("lam", [-0.4, 0.0, 0.4])
def test_equals_the_reference_on_confidences_that_fall_with_depth(lam):
    c = np.array([651, 924, 593, 463, 222, 308, 194, 45, 26, 20, 29, 12, 10, 4.0]) * 1e-4

    seen = survey(c, 16).valleys(lam)

    wanted, windows = reference(c.tolist(), 16, lam)
    assert seen.windows.tolist() == windows
    assert seen.skipped.tolist() == wanted
    assert any(wanted)


def test_a_hand_computed_valley():
    c = np.array([3.0, 3.0, 0.0, 3.0, 3.0, 0.0])

    seen = survey(c, 8, window=2)

    assert seen.valleys(0.0).skipped.tolist() == [False, False, True, False, False, True]
    # Beside a valley the neighbours are 3 and 0: mean 1.5, deviation 1.5, so 3 lies under 1.5 + lambda * 1.5 from 1 on.
    assert seen.valleys(-0.9).skipped.tolist() == [False, False, True, False, False, True]
    assert seen.valleys(-1.1).skipped.tolist() == [False, True, True, True, True, True]


def test_flat_confidences_skip_nothing_at_any_lambda():
    for lam in (-2.0, 0.0, 2.0):
        seen = survey(np.full(10, 0.3), 12).valleys(lam)
        assert not seen.skipped.any()
        assert np.isfinite(seen.scores).all()


def test_flat_confidences_have_the_widest_window_and_the_middle_curvature():
    seen = survey(np.full(10, 0.3), 12)

    # count = 10, so the widest window is 50; g = 0.5; depth (i + 1) / 12.
    assert seen.windows.tolist() == [2 + int(50 * 0.5 * (i + 1) / 12) for i in range(10)]


def test_one_dominating_layer_is_kept_and_pulls_its_neighbours_under_the_mean():
    c = np.full(12, 0.1)
    c[5] = 9.0

    seen = survey(c, 14, window=4)

    assert not seen.valleys(0.0).skipped[5]
    assert seen.valleys(0.0).skipped[[3, 4, 6, 7]].all()
    assert not seen.valleys(0.0).skipped[[0, 1, 10, 11]].any()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_models_with_hardly_any_layers(count):
    seen = survey(np.arange(count, dtype=float), count + 2).valleys(0.0)

    # One candidate has no neighbours; of two, the lower lies under the other.
    assert seen.skipped.tolist() == [[], [False], [True, False]][count]


def test_half_precision_scores_stay_half_precision():
    z = standardise(np.array([0.1, 0.2, 0.4], dtype=np.float16))

    assert z.dtype == np.float16
    assert z == pytest.approx([-0.873, -0.218, 1.091], abs=2e-3)


def test_leading_run_is_exact_at_tolerance_zero_and_forgiving_above():
    curve = np.array([1.0, 1.0, 1.0 + 1e-9, 3.0, 1.0])

    assert leading_run(curve, 0.0) == 2
    assert leading_run(curve, 0.05) == 3
    assert leading_run(np.ones(4), 0.0) == 4


@example([0.0, 5e-324])
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_normalised_curvature_lies_in_0_to_1_about_a_half(values):
    g = normalise(np.array(values))

    assert ((g >= 0) & (g <= 1)).all()
    if np.ptp(values) > 1e-3:
        assert g.mean() == pytest.approx(0.5, abs=1e-6)


def test_lambda_moves_by_a_twentieth_towards_the_band():
    assert adapt_lambda(0.0, 0.3, 0.4) == -0.05
    assert adapt_lambda(0.0, 0.4, 0.4) == 0.0
    assert adapt_lambda(0.0, 0.65, 0.4) == 0.0
    assert adapt_lambda(0.0, 0.66, 0.4) == 0.05
