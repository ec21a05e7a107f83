"""Scores that are no numbers: as transformers does where it decides anything, an error where nothing can be drawn."""

import pytest
import torch
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA, assert_as_new, greedy, small_model
from transformers import LogitsProcessor, LogitsProcessorList

from conflayers import Llm
from conflayers.errors import NumericalError

METHODS = {"vanilla": VANILLA, "chain": CHAIN, "tree": TREE}
SAMPLING = [{"do_sample": True}, {"temperature": 0.7, "seed": 5}, {"top_k": 5, "acceptance": "coupled"}]
POISON = [float("nan"), float("inf"), float("-inf")]

each_method = pytest.mark.parametrize("method", METHODS)
each_sampling = pytest.mark.parametrize("sampling", SAMPLING, ids=str)


class Poison(LogitsProcessor):
    """Spoils the scores of one token or of all, from some length of the text on."""

    def __init__(self, value, *, token=slice(None), length=0):
        self.value, self.token, self.length = value, token, length

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        if input_ids.shape[1] >= self.length:
            scores[:, self.token] = self.value
        return scores


@each_method
@pytest.mark.parametrize("poison", POISON, ids=str)
@pytest.mark.parametrize("token", [7, slice(None)], ids=["one token", "every token"])
def test_greedy_decoding_does_what_transformers_does(llm, fresh, method, poison, token):
    processors = LogitsProcessorList([Poison(poison, token=token, length=len(PROMPT) + 4)])
    reference = greedy(llm.model, 10, logits_processor=processors)

    result = llm.generate(PROMPT, max_new_tokens=10, logits_processor=processors, **METHODS[method])

    assert result.token_ids == reference
    assert all(0 <= token < 128 for token in reference)
    assert_as_new(llm, fresh)


@each_method
@each_sampling
@pytest.mark.parametrize("poison", POISON, ids=str)
@pytest.mark.parametrize("length", [0, len(PROMPT) + 3], ids=["from the start", "later"])
def test_where_no_token_can_be_drawn_that_is_an_error(llm, fresh, method, sampling, poison, length):
    processors = LogitsProcessorList([Poison(poison, length=length)])

    with pytest.raises(NumericalError, match="leave no token to choose"):
        llm.generate(PROMPT, max_new_tokens=10, logits_processor=processors, **METHODS[method], **sampling)

    assert_as_new(llm, fresh)


@each_method
@each_sampling
def test_one_score_that_is_no_number_leaves_no_probabilities(llm, method, sampling):
    processors = LogitsProcessorList([Poison(float("nan"), token=7)])

    with pytest.raises(NumericalError, match="check the weights"):
        llm.generate(PROMPT, max_new_tokens=10, logits_processor=processors, **METHODS[method], **sampling)


@each_method
@each_sampling
def test_a_token_ruled_out_is_never_drawn(llm, method, sampling):
    allowed = [3, 50, 90]
    rest = [token for token in range(128) if token not in allowed]
    processors = LogitsProcessorList([Poison(float("-inf"), token=rest)])

    result = llm.generate(PROMPT, max_new_tokens=30, logits_processor=processors, **METHODS[method], **sampling)

    assert set(result.token_ids) <= set(allowed)
    assert len(result.token_ids) == 30


@pytest.mark.parametrize("poison", POISON, ids=str)
@pytest.mark.parametrize("method", ["chain", "tree"])
@pytest.mark.parametrize("sampling", [{}, *SAMPLING[1:]], ids=str)
def test_a_draft_of_no_numbers_harms_nothing(llm, method, sampling, poison):
    """Layer 1 is among those the draft skips: where it is skipped the logits are spoilt, where it runs they are not."""
    plain = llm.generate(PROMPT, max_new_tokens=10, **VANILLA, **{**sampling, **_seeded(sampling)}).token_ids
    spoilt = 0

    def spoil(module, arguments, output):
        nonlocal spoilt
        if "forward" not in llm.model.model.layers[1].__dict__:
            return output
        spoilt += 1
        return torch.full_like(output, poison)

    hook = llm.model.lm_head.register_forward_hook(spoil)
    try:
        drafted = llm.generate(PROMPT, max_new_tokens=10, **METHODS[method], **{**sampling, **_seeded(sampling)})
    finally:
        hook.remove()

    assert drafted.token_ids == plain
    assert spoilt > 0


def _seeded(sampling):
    return {"seed": 5} if sampling else {}


def test_a_draft_of_no_numbers_leaves_rejection_sampling_to_the_target(llm):
    hook = llm.model.lm_head.register_forward_hook(
        lambda module, arguments, output: (
            output * float("nan") if "forward" in llm.model.model.layers[1].__dict__ else None
        )
    )
    try:
        result = llm.generate(PROMPT, max_new_tokens=10, temperature=1.0, **CHAIN)
    finally:
        hook.remove()

    assert len(result.token_ids) == 10
    assert result.stats.num_draft_tokens == 0


@pytest.mark.parametrize("poison", POISON[:2], ids=str)
def test_weights_that_turn_bad_after_loading(poison):
    llm = Llm(small_model())
    with torch.no_grad():
        llm.model.lm_head.weight[11] = poison
    reference = greedy(llm.model, 8)

    for method in METHODS.values():
        result = llm.generate(PROMPT, max_new_tokens=8, **method)
        assert result.token_ids == reference
        assert all(0 <= token < 128 for token in result.token_ids)
        with pytest.raises(NumericalError):
            llm.generate(PROMPT, max_new_tokens=8, temperature=1.0, **method)
