"""Texts end exactly where `generate` ends them, and the model's own logits processors act on drafts too."""

import re
from typing import Any

import pytest
import torch
from lossless.families import SUPPORTED
from lossless.reference import PROMPT, greedy
from transformers import PreTrainedModel

from conflayers import InputError, Llm
from conflayers.plan import FULL, Plan

# Full attention, and layers with a sliding window among those with full attention.
FAMILIES = {family.name: family for family in SUPPORTED if family.name in ("llama", "gemma2")}
AGREES = {"method": "fixed", "plan": FULL, "confidence_stop": 0.0, "max_draft_tokens": 4}
DISAGREES = {**AGREES, "plan": Plan.layers([1, 3])}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return FAMILIES[request.param].build()


def first_seen(tokens: list[int]) -> list[int]:
    """The positions of tokens that did not occur before: where an end-of-sequence token can stand."""
    return [index for index, token in enumerate(tokens) if token not in tokens[:index]]


@pytest.mark.parametrize("arguments", [{"method": "vanilla"}, AGREES, DISAGREES], ids=["plain", "agrees", "disagrees"])
def test_the_text_ends_with_the_end_token_wherever_it_falls(model: PreTrainedModel, arguments: dict[str, Any]) -> None:
    llm = Llm(model)
    text = greedy(model, 12)
    places = first_seen(text)
    # With drafts that are accepted whole, rounds end after 1, 6, 11 ... tokens: every offset within a round occurs.
    assert {(place - 1) % 5 for place in places} == set(range(5))
    for place in places:
        model.generation_config.eos_token_id = text[place]
        result = llm.generate(PROMPT, max_new_tokens=12, **arguments)
        assert result.token_ids == text[: place + 1] == greedy(model, 12)
        assert result.stats.new_tokens == place + 1


def test_any_of_several_end_tokens_ends_the_text(model: PreTrainedModel) -> None:
    text = greedy(model, 24)
    early, late = text[first_seen(text)[6]], text[first_seen(text)[9]]
    model.generation_config.eos_token_id = [late, early]
    result = Llm(model).generate(PROMPT, max_new_tokens=24, **AGREES)
    assert result.token_ids == greedy(model, 24)
    assert result.token_ids[-1] == early


@pytest.mark.parametrize("tokens", range(1, 12))
def test_the_limit_cuts_within_a_round(model: PreTrainedModel, tokens: int) -> None:
    result = Llm(model).generate(PROMPT, max_new_tokens=tokens, **AGREES)
    assert result.token_ids == greedy(model, tokens)
    assert result.stats.new_tokens == tokens


def test_an_end_token_cleared_from_the_generation_settings_ends_nothing(model: PreTrainedModel) -> None:
    model.config.get_text_config(decoder=True).eos_token_id = greedy(model, 8)[4]
    model.generation_config.eos_token_id = None
    assert Llm(model).generate(PROMPT, max_new_tokens=24, **AGREES).token_ids == greedy(model, 24)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"begin_suppress_tokens": [88, 7]},
        {"bad_words_ids": [[63, 41], [10]]},
        {"min_new_tokens": 20, "eos_token_id": [3, 97, 22]},
        {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_generation_settings_of_the_model(settings: dict[str, Any]) -> None:
    model = FAMILIES["llama"].build()
    without = greedy(model, 32)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    reference = greedy(model, 32)
    # Sampling settings mean nothing to greedy decoding; everything else here changes the text.
    assert (reference == without) == ("do_sample" in settings)
    llm = Llm(model)
    assert llm.generate(PROMPT, max_new_tokens=32, **DISAGREES).token_ids == reference
    agreed = llm.generate(PROMPT, max_new_tokens=32, **AGREES)
    assert agreed.token_ids == reference
    # The draft goes through the same processors.
    assert agreed.stats.draft_acceptance_rate == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 4), ("max_time", 1.0), ("stop_strings", ["x"]), ("guidance_scale", 1.5), ("forced_eos_token_id", 3)],
)
def test_generation_settings_that_cannot_be_honoured_are_named(name: str, value: Any) -> None:
    model = FAMILIES["llama"].build()
    llm = Llm(model)
    setattr(model.generation_config, name, value)
    with pytest.raises(InputError, match=f"{name}={re.escape(repr(value))}"):
        llm.generate(PROMPT, max_new_tokens=4)


@pytest.mark.parametrize("kind", [torch.tensor, tuple, list])
def test_end_tokens_may_come_in_any_shape(kind: Any) -> None:
    model = FAMILIES["llama"].build()
    end = greedy(model, 8)[4]
    model.generation_config.eos_token_id = kind([end])
    result = Llm(model).generate(PROMPT, max_new_tokens=24, **AGREES)
    assert result.token_ids == result.token_ids[:5]
    assert result.token_ids[-1] == end


def test_no_end_token_at_all_may_be_an_empty_list() -> None:
    model = FAMILIES["llama"].build()
    model.generation_config.eos_token_id = []
    assert len(Llm(model).generate(PROMPT, max_new_tokens=24, **AGREES).token_ids) == 24
