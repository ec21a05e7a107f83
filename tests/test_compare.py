import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers import InputError, Llm, Plan
from conflayers import compare as comparison
from conflayers.compare import compare, first_difference, single_row

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def llm() -> Llm:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        eos_token_id=None,
    )
    return Llm(LlamaForCausalLM(config).eval())


def test_rows_of_all_three_over_all_repeats(llm):
    told = []
    rows = compare(llm, PROMPT, max_new_tokens=16, repeat=2, tell=told.append)
    assert [row.method for row in rows] == ["vanilla", "hf", "auto"]
    assert all(row.identical and row.first_difference is None for row in rows)
    assert all(row.new_tokens == 32 and row.seconds > 0 for row in rows)
    assert rows[0].speedup == 1
    assert rows[1].speedup == pytest.approx(rows[1].tokens_per_second / rows[0].tokens_per_second)
    assert [what.split(",")[0] for what in told] == [
        "warming up",
        *("auto", "vanilla", "hf"),
        *("hf", "vanilla", "auto"),
    ]


def test_counts_of_the_runs_are_added(llm):
    plan = Plan.layers([1])
    arguments = {"max_new_tokens": 16, "confidence_stop": 0.0, "max_draft_tokens": 3}
    once = llm.generate(PROMPT, method="fixed", plan=plan, **arguments).stats
    row = compare(llm, PROMPT, "fixed", plan=plan, repeat=3, **arguments)[-1]
    assert row.mean_accepted_tokens == pytest.approx(once.mean_acceptance_length)
    assert row.acceptance_rate == pytest.approx(once.draft_acceptance_rate)
    assert row.skip_ratio == pytest.approx(0.25)


def test_a_first_run_counts_as_one(llm):
    first = llm.generate(PROMPT, max_new_tokens=16)
    first.stats.total_seconds = 1000.0
    told = []
    row = compare(llm, PROMPT, max_new_tokens=16, first=first, tell=told.append)[-1]
    assert row.seconds == 1000.0
    assert [what.split(",")[0] for what in told] == ["vanilla", "hf"]


def test_the_context_bounds_the_length(llm):
    assert [row.new_tokens for row in compare(llm, PROMPT, "vanilla")] == [60, 60]


def test_a_difference_is_found_and_placed(llm, monkeypatch):
    exact = comparison.transformers_greedy

    def altered(llm, ids, count):
        tokens = exact(llm, ids, count)
        return [*tokens[:3], *(token + 1 for token in tokens[3:])]

    monkeypatch.setattr(comparison, "transformers_greedy", altered)
    plain, hf, ours = compare(llm, PROMPT, max_new_tokens=8)
    assert (hf.identical, hf.first_difference) == (False, 3)
    assert plain.identical
    assert ours.identical


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repeat": 0}, "repeat"),
        ({"max_new_tokens": 0}, "at least one"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 61}, "context"),
        ({"skip_ratio": 7}, "skip_ratio"),
        ({"method": "nothing"}, "no method"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(llm, arguments, message):
    told = []
    with pytest.raises(InputError, match=message):
        compare(llm, PROMPT, tell=told.append, **arguments)
    assert not told


def test_a_single_row_is_compared_with_nothing(llm):
    row = single_row("vanilla", llm.generate(PROMPT, method="vanilla", max_new_tokens=4))
    assert (row.speedup, row.identical, row.first_difference) == (None, None, None)
    assert row.new_tokens == 4


@pytest.mark.parametrize(
    ("tokens", "reference", "position"),
    [([], [], None), ([1, 2], [1, 2], None), ([1, 3], [1, 2], 1), ([1], [1, 2], 1), ([1, 2, 3], [1, 2], 2)],
)
def test_first_difference(tokens, reference, position):
    assert first_difference(tokens, reference) == position


def test_methods_beside_have_rows_of_their_own(llm):
    rows = compare(llm, PROMPT, "auto", max_new_tokens=16, beside=("conflayers",))
    assert [row.method for row in rows] == ["vanilla", "hf", "conflayers", "auto"]
    assert all(row.identical for row in rows)
