"""Keys and values between the body and a cache of transformers: nothing is run again, nothing is lost."""

import pytest
import torch
from lossless.families import SUPPORTED, WINDOW
from lossless.reference import PROMPT
from transformers import DynamicCache, StaticCache

from conflayers.body.handover import adopt, check_cache, hand_back
from conflayers.body.portable import PortableBody
from conflayers.errors import InputError

NEXT = [8, 41, 3]
KINDS = ("llama", "mistral", "gpt_oss")


@pytest.fixture(scope="module", params=KINDS)
def body(request):
    return PortableBody(next(family for family in SUPPORTED if family.name == request.param).build())


@pytest.fixture
def llama():
    return PortableBody(next(family for family in SUPPORTED if family.name == "llama").build())


@torch.no_grad()
def filled(model, tokens, cache=None, mask=None):
    """The cache after plain decoding has run `tokens` in two passes."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    for part, visible in ((tokens[:5], 5), (tokens[5:], len(tokens))):
        seen = None if mask is None else torch.tensor([mask[:visible]])
        positions = (
            None
            if mask is None
            else (torch.tensor([mask]).cumsum(-1) - 1).clamp(min=0)[:, visible - len(part) : visible]
        )
        model(torch.tensor([part]), past_key_values=cache, attention_mask=seen, position_ids=positions)
    return cache


def logits_after(body, tokens):
    body.reserve(64)
    body.forward(tokens)
    return body.forward(NEXT).logits


@pytest.mark.parametrize("configured", [True, False])
def test_going_on_is_as_if_the_body_had_run_it_all(body, configured):
    expected = logits_after(body, PROMPT)
    cache = filled(body.model, PROMPT, DynamicCache(config=body.model.config) if configured else DynamicCache())
    assert check_cache(body, cache) == len(PROMPT)
    # A cache that was never used has no rows yet, one that was has others.
    for release in (body.release, lambda: None):
        release()
        body.reserve(64)
        adopt(body, cache)
        assert body.length == len(PROMPT)
        torch.testing.assert_close(body.forward(NEXT).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("held", [0, 6, len(PROMPT)])
def test_handed_back_is_what_plain_decoding_leaves(body, configured, held):
    def fresh():
        return DynamicCache(config=body.model.config) if configured else DynamicCache()

    expected = filled(body.model, [*PROMPT, *NEXT], fresh())
    cache = filled(body.model, PROMPT[:held], fresh()) if held else fresh()
    body.reserve(64)
    if held:
        adopt(body, cache)
    body.forward([*PROMPT[held:], *NEXT])
    hand_back(body, cache)

    assert cache.get_seq_length() == expected.get_seq_length()
    for ours, theirs in zip(cache.layers, expected.layers, strict=True):
        assert type(ours) is type(theirs)
        torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.values, theirs.values, atol=1e-4, rtol=1e-4)


def test_nothing_is_shared_with_what_was_handed_back(body):
    cache = DynamicCache(config=body.model.config)
    body.reserve(64)
    body.forward(PROMPT)
    hand_back(body, cache)
    before = [layer.keys.clone() for layer in cache.layers]
    body.rollback(0)
    body.forward(PROMPT[::-1])

    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


@pytest.mark.parametrize("padding", [1, 4, 11])
def test_padding_stays_outside(body, padding):
    expected = logits_after(body, PROMPT)
    tokens, mask = [0] * padding + PROMPT, [0] * padding + [1] * len(PROMPT)
    cache = filled(body.model, tokens, mask=mask)
    body.reserve(64)
    adopt(body, cache, padding)
    torch.testing.assert_close(body.forward(NEXT).logits, expected, atol=1e-4, rtol=1e-4)
    hand_back(body, cache, padding)
    assert cache.get_seq_length() == padding + len(PROMPT) + len(NEXT)

    fresh = DynamicCache(config=body.model.config)
    hand_back(body, fresh, padding)
    assert fresh.get_seq_length() == cache.get_seq_length()
    for ours, theirs in zip(fresh.layers, cache.layers, strict=True):
        assert ours.keys.shape == theirs.keys.shape
        torch.testing.assert_close(ours.keys[:, :, -1:], theirs.keys[:, :, -1:], atol=1e-4, rtol=1e-4)


def test_other_kinds_of_cache_are_refused(llama):
    config = llama.model.config
    with pytest.raises(InputError, match="a StaticCache"):
        check_cache(llama, StaticCache(config=config, max_cache_len=9))
    with pytest.raises(InputError, match="an offloaded cache"):
        check_cache(llama, DynamicCache(config=config, offloading=True))
    with pytest.raises(InputError, match="past_key_values is a list"):
        check_cache(llama, [])


def test_a_cache_of_another_model_is_refused(llama):
    other = PortableBody(next(family for family in SUPPORTED if family.name == "mistral").build())
    with pytest.raises(InputError, match=f"keeps {WINDOW} tokens.*sees all"):
        check_cache(llama, DynamicCache(config=other.model.config))
    shorter = filled(llama.model, PROMPT)
    shorter.layers.pop()
    with pytest.raises(InputError, match="5 layers and the model 6"):
        check_cache(llama, shorter)


def test_a_cache_with_less_than_the_model_sees_is_refused(llama):
    cache = filled(llama.model, PROMPT)
    cache.layers[2].crop(-3)
    with pytest.raises(InputError, match="layer 2 of past_key_values holds 9 tokens, others 12"):
        check_cache(llama, cache)
    with pytest.raises(InputError, match="all of them padding"):
        check_cache(llama, filled(llama.model, PROMPT), padding=len(PROMPT))


def test_a_cache_of_several_texts_is_refused(llama):
    cache = filled(llama.model, PROMPT)
    cache.batch_repeat_interleave(2)
    with pytest.raises(InputError, match="2 texts at once"):
        check_cache(llama, cache)
