import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflayers.errors import InputError
from conflayers.predict.accelerators import ACCELERATORS, Accelerator
from conflayers.predict.assumptions import assumptions
from conflayers.predict.prediction import Given, Roofline, predict, table
from conflayers.predict.roofline import Machine
from conflayers.predict.shapes import SHAPES
from conflayers.predict.speedup import expected_tokens

H100 = Machine(ACCELERATORS["h100-sxm"])
MEASURED = Given(10e-3, 6e-3, 11e-3)


def test_a_row_by_hand():
    # Drafts of 2 at 0.5 bring 1.75 tokens in 2 x (6 + 1) + 11 ms; as fast as plain where they bring 2.5.
    row = predict(MEASURED, 0.4, 2, expected_tokens(0.5, 2), 1e-3)
    assert (row.plain_ms, row.draft_step_ms, row.verification_ms, row.round_ms) == pytest.approx((10, 7, 11, 25))
    assert row.speedup == pytest.approx(1.75 * 10 / 25)
    assert row.tokens_per_second == pytest.approx(70)
    assert 1 + row.break_even + row.break_even**2 == pytest.approx(2.5)


def test_no_draft_is_plain_decoding():
    row = predict(Roofline(SHAPES["llama-3-8b"], H100), 0.4, 0, 1.0)
    assert (row.speedup, row.break_even) == (1, 0)


def test_what_no_acceptance_can_mend():
    assert predict(Given(10e-3, 12e-3, 11e-3), 0.1, 2, 3).break_even is None


def test_half_the_layers_of_a_large_model_cost_about_half():
    # At the bandwidth, and with half of the layers left but the whole head, certain drafts of 4 bring 5 tokens.
    row = predict(Roofline(SHAPES["llama-3-70b"], H100, 0), 0.5, 4, 5)
    head = 128256 * 8192 / 69.5e9
    assert row.draft_step_ms / row.plain_ms == pytest.approx(0.5 + head / 2, rel=1e-3)
    assert row.speedup == pytest.approx(5 / (4 * (0.5 + head / 2) + 1), rel=1e-3)


def test_a_large_vocabulary_lessens_what_skipping_spares():
    machine = Machine(Accelerator("no launches", 1000, 100, launch=0))
    shares = [
        (row := predict(Roofline(SHAPES[name], machine), 0.5, 1, 2)).draft_step_ms / row.plain_ms
        for name in ("llama-2-7b", "llama-3-8b", "qwen2.5-1.5b")
    ]
    assert 0.5 < shares[0] < shares[1] < shares[2]


def test_the_table_marks_the_best_length_of_each_skip_ratio():
    passes = Roofline(SHAPES["llama-3-70b"], H100)
    rows = table(passes, [0.3, 0.6], [8, 1, 4, 4], 0.9)
    assert [(row.skip_ratio, row.draft_length) for row in rows] == [(r, g) for r in (0.3, 0.6) for g in (1, 4, 8)]
    for ratio in (0.3, 0.6):
        mine = [row for row in rows if row.skip_ratio == ratio]
        assert [row.best for row in mine] == [row.speedup == max(r.speedup for r in mine) for row in mine]


def test_the_length_follows_from_the_mean_accepted_tokens():
    (row,) = table(MEASURED, [0.4], [], 0.8, mean_accepted=3)
    assert (row.draft_length, row.tokens, row.best) == (2.5, 3, False)
    assert row.speedup == pytest.approx(30 / (2.5 * 6 + 11))


@given(st.sampled_from(sorted(SHAPES)), st.floats(0, 1), st.integers(1, 12), st.floats(0, 1))
def test_the_break_even_is_where_the_speedup_is_one(model, skip_ratio, length, acceptance):
    row = predict(Roofline(SHAPES[model], H100), skip_ratio, length, expected_tokens(acceptance, length))
    if row.break_even is None:
        assert row.speedup < 1
    else:
        assert (row.speedup > 1 - 1e-9) if acceptance >= row.break_even else (row.speedup < 1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: predict(MEASURED, 1.2, 2, 1), "skip ratio"),
        (lambda: table(MEASURED, [0.4], [], 0.9), "either"),
        (lambda: table(MEASURED, [0.4], [2], 0.9, mean_accepted=3), "either"),
        (lambda: table(MEASURED, [], [2], 0.9), "skip ratio"),
        (lambda: table(MEASURED, [0.4], [2], 1.9), "acceptance"),
        (lambda: table(Given(0.0, 1.0, 1.0), [0.4], [2], 0.9), "take time"),
    ],
)
def test_what_is_out_of_range_is_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_assumptions_name_what_was_assumed():
    four = Roofline(SHAPES["llama-3-70b"], Machine(ACCELERATORS["l4"], devices=4, all_reduce=7))
    said = " ".join(assumptions(four, 0.9, None, 0.5))
    for part in ("prediction, not a measurement", "0.9", "0.5 ms", "4 devices", "7 us", "do not fit", "512 tokens"):
        assert part in said
    fitting = " ".join(assumptions(Roofline(SHAPES["llama-3-8b"], H100), 0.9, 3.0, 0))
    assert "do not fit" not in fitting
    assert "devices share" not in fitting
    assert "imply" in fitting
    assert Roofline(SHAPES["llama-3-8b"], Machine(Accelerator("own", 1, 1))).fits() is None
