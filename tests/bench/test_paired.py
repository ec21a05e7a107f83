import numpy as np
import pytest

from conflayers.bench.paired import change, excludes_nothing_changed, student, widening


def speed(sums):
    return sums[..., 1] / sums[..., 0]


def timed(*seconds: float) -> np.ndarray:
    return np.array([[one, 100.0] for one in seconds])


def test_student_is_that_of_the_tables():
    # Two-sided, from any table of Student's t.
    for outside, degrees, expected in ((0.05, 1, 12.706), (0.05, 2, 4.303), (0.01, 5, 4.032), (0.001, 30, 3.646)):
        assert student(outside, degrees) == pytest.approx(expected, abs=6e-4)
    assert student(0.05, 1000) == pytest.approx(1.962, abs=6e-4)


def test_the_change_is_of_totals():
    # 300 tokens in 6 seconds, then in 5: 50 and 60 tokens a second.
    found, interval = change(timed(1, 2, 3), timed(1, 1, 3), speed)
    assert found == pytest.approx(0.2)
    assert interval is not None
    assert interval[0] < 0.2 < interval[1]


def test_a_change_that_is_the_same_everywhere_is_certain():
    found, interval = change(timed(1, 2, 3), timed(2, 4, 6), speed)
    assert found == pytest.approx(-0.5)
    assert interval == pytest.approx((-0.5, -0.5))
    assert excludes_nothing_changed(found, interval, 3, 1000)


def test_pairs_take_out_what_makes_samples_differ():
    # Samples differ by a factor of 100, and the change by a few thousandths.
    before = timed(0.1, 1, 10, 0.3, 3, 6)
    _, interval = change(
        before, before * np.array([[1.10, 1], [1.101, 1], [1.099, 1], [1.1, 1], [1.102, 1], [1.1, 1]]), speed
    )
    assert interval is not None
    assert -0.095 < interval[0] < interval[1] < -0.088


def test_what_goes_up_and_down_is_noise():
    found, interval = change(timed(1, 1, 1, 1), timed(1.2, 0.8, 1.25, 0.85), speed)
    assert interval[0] < 0 < interval[1]
    assert not excludes_nothing_changed(found, interval, 4, 1)


def test_the_more_is_looked_at_the_more_a_change_must_show():
    found, interval = change(timed(1, 1, 1, 1), timed(1.1, 1.14, 1.1, 1.12), speed)
    assert excludes_nothing_changed(found, interval, 4, 1)
    assert not excludes_nothing_changed(found, interval, 4, 100_000)


def test_few_samples_widen():
    # t of 1 degree of freedom over the normal's, and the root of 2.
    assert widening(2) == pytest.approx(12.7062 / 1.95996 * 2**0.5, rel=1e-4)
    assert 1 < widening(1000) < 1.01


def test_no_interval_from_one_sample_and_no_change_from_nothing():
    assert change(timed(2), timed(1), speed) == (pytest.approx(1.0), None)
    nothing = np.zeros((3, 2))
    with np.errstate(invalid="ignore"):
        assert change(nothing, timed(1, 2, 3), speed) == (None, None)


def test_a_share_is_compared_by_its_difference():
    def tenth(sums):
        return sums[..., 0] / sums[..., 1]

    found, _ = change(timed(1, 3), timed(4, 6), tenth, share=True)
    # 4 of 200, then 10 of 200.
    assert found == pytest.approx(0.03)
