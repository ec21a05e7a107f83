import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflayers.errors import InputError
from conflayers.predict.speedup import expected_tokens, mean_length, needed_acceptance, round_seconds, speedup

SHARES = st.floats(0, 1)
LENGTHS = st.floats(0, 40)


@pytest.mark.parametrize(
    ("acceptance", "length", "tokens"),
    [
        (0.0, 5, 1.0),
        (1.0, 5, 6.0),
        (0.7, 0, 1.0),
        (1.0, 0, 1.0),
        (0.5, 1, 1.5),
        (0.5, 2, 1.75),
        (0.8, 3, 1 + 0.8 + 0.64 + 0.512),
        (0.25, 0.5, (1 - 0.125) / 0.75),
    ],
)
def test_tokens_of_a_round_by_hand(acceptance, length, tokens):
    assert expected_tokens(acceptance, length) == pytest.approx(tokens, rel=1e-14)


def test_tokens_of_a_round_next_to_certainty_keep_their_digits():
    # 1 + a + a^2 + a^3 with a = 1 - 2^-50: four, less six times 2^-50.
    assert expected_tokens(1 - 2**-50, 3) == pytest.approx(4 - 6 * 2**-50, rel=1e-15)


@given(SHARES, st.integers(0, 40))
def test_tokens_of_a_round_are_the_sum_of_the_powers(acceptance, length):
    total = math.fsum(acceptance**i for i in range(length + 1))
    assert expected_tokens(acceptance, length) == pytest.approx(total, rel=1e-9)


@given(SHARES, SHARES, LENGTHS, LENGTHS)
def test_more_acceptance_and_longer_drafts_never_bring_less(one, other, short, long):
    low, high = sorted((one, other))
    short, long = sorted((short, long))
    slack = 1 + 1e-9
    assert expected_tokens(low, short) <= expected_tokens(high, short) * slack
    assert expected_tokens(high, short) <= expected_tokens(high, long) * slack
    assert 1 <= expected_tokens(high, long) * slack <= (long + 1) * slack**2


@given(SHARES, st.floats(0.5, 40))
def test_needed_acceptance_undoes_expected_tokens(acceptance, length):
    tokens = expected_tokens(acceptance, length)
    assert expected_tokens(needed_acceptance(tokens, length), length) == pytest.approx(tokens, rel=1e-9)


def test_needed_acceptance_by_hand_and_at_its_ends():
    assert needed_acceptance(1.75, 2) == pytest.approx(0.5)
    assert needed_acceptance(1.6, 1) == pytest.approx(0.6)
    assert needed_acceptance(0.4, 3) == 0
    assert needed_acceptance(1, 3) == 0
    assert needed_acceptance(4, 3) == pytest.approx(1)
    assert needed_acceptance(4.001, 3) is None
    assert needed_acceptance(1.001, 0) is None


def test_the_mean_length_follows_from_two_published_figures():
    # Three rounds with drafts of 4, 2 and 3, of which 4, 0 and 1 are accepted.
    mean_accepted, rate = (5 + 1 + 2) / 3, 5 / 9
    assert mean_length(mean_accepted, rate) == pytest.approx(3)
    assert mean_length(1, 0.5) == 0


def test_a_round_and_its_speedup_by_hand():
    # Four draft steps of 6 ms and 1 ms of overhead each, and a verification of 12 ms.
    seconds = round_seconds(6e-3, 12e-3, 4, 1e-3)
    assert seconds == pytest.approx(40e-3)
    assert speedup(5, 10e-3, seconds) == pytest.approx(1.25)
    assert speedup(1, 10e-3, round_seconds(6e-3, 10e-3, 0)) == 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: expected_tokens(1.1, 2), "acceptance"),
        (lambda: expected_tokens(float("nan"), 2), "acceptance"),
        (lambda: expected_tokens(0.5, -1), "draft length"),
        (lambda: expected_tokens(0.5, float("inf")), "draft length"),
        (lambda: needed_acceptance(float("nan"), 2), "tokens"),
        (lambda: mean_length(0.5, 0.5), "mean accepted"),
        (lambda: mean_length(2, 0), "acceptance rate of 0"),
        (lambda: mean_length(2, 1.5), "acceptance rate"),
        (lambda: round_seconds(-1, 1, 1), "draft step"),
        (lambda: round_seconds(1, 1, 1, -1), "overhead"),
        (lambda: speedup(1, 0, 1), "take time"),
    ],
)
def test_what_is_out_of_range_is_named(call, named):
    with pytest.raises(InputError, match=named):
        call()
