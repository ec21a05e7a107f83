"""Whatever is the caller's own may raise anywhere: that exception arrives, and the model is as before."""

import pytest
import torch
from faults.helpers import CHAIN, PLAN, PROMPT, TREE, VANILLA, assert_as_new, assert_clean, byte_tokenizer, small_model
from transformers import LogitsProcessor, LogitsProcessorList

from conflayers import InputError, Llm
from conflayers.drafters.length import FixedLength
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.round import Method
from conflayers.selectors.fixed import Fixed


class MistakeError(Exception):
    """What no library raises."""


class Failing(LogitsProcessor):
    """Raises at the call of a number, the first being 1."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise MistakeError
        return scores


# The prefill is one call; then come four draft steps and the verification.
@pytest.mark.parametrize("at", [1, 3, 6, 9], ids=lambda at: f"call {at}")
@pytest.mark.parametrize("method", [VANILLA, CHAIN, TREE], ids=["vanilla", "chain", "tree"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 3}], ids=str)
def test_a_logits_processor_that_raises(llm, fresh, method, sampling, at):
    processors = LogitsProcessorList([Failing(at)])

    with pytest.raises(MistakeError):
        llm.generate(PROMPT, max_new_tokens=12, logits_processor=processors, **method, **sampling)

    assert processors[0].calls == at
    assert_as_new(llm, fresh)


def _raising(name: str, at: int):
    """A selector one of whose functions raises at its call of a number."""
    calls = 0

    def fail(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == at:
            raise MistakeError
        return getattr(Fixed, name)(self, *arguments)

    return type("Raising", (Fixed,), {name: fail})(PLAN)


@pytest.mark.parametrize(
    ("name", "at"), [("start", 1), ("choose", 1), ("choose", 3), ("wants", 1), ("learn", 1), ("learn", 3)]
)
def test_a_selector_that_raises(llm, fresh, name, at):
    task = Method("mine", Subnetwork(FixedLength(3)), _raising(name, at))

    with pytest.raises(MistakeError):
        llm.generate(PROMPT, task=task, max_new_tokens=12)

    assert_as_new(llm, fresh)


class FailingLength(FixedLength):
    """A rule for the draft's length that raises while the draft's layers are switched off, or when it learns."""

    __slots__ = ()

    def rule(self, plan):
        def more(confidence, drafted):
            if self.tokens == drafted:
                raise MistakeError
            return True

        return more

    def learn(self, done):
        raise MistakeError


@pytest.mark.parametrize("tokens", [1, 3, 9], ids=["first step", "third step", "learning"])
def test_a_drafter_that_raises(llm, fresh, tokens):
    drafter = Subnetwork(FailingLength(tokens))

    with pytest.raises(MistakeError):
        llm.generate(PROMPT, task=Method("mine", drafter, Fixed(PLAN)), max_new_tokens=8)

    assert_as_new(llm, fresh)


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_a_tokenizer_that_raises_while_the_text_is_read(fresh, at):
    tokenizer = byte_tokenizer()
    llm = Llm(small_model(), tokenizer)
    calls, decode = 0, tokenizer.decode

    def fail(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == at:
            raise MistakeError
        return decode(*arguments, **keywords)

    tokenizer.decode = fail
    with pytest.raises(MistakeError):
        llm.generate(PROMPT, max_new_tokens=12, stop_strings="never in the text", **CHAIN)

    assert_as_new(llm, fresh)


def test_generating_while_the_model_generates_is_refused_and_does_no_harm(llm, fresh):
    refused = []

    class Inside(LogitsProcessor):
        def __call__(self, input_ids, scores):
            with pytest.raises(InputError, match="already generating"):
                llm.generate(PROMPT, max_new_tokens=4)
            refused.append(True)
            return scores

    result = llm.generate(PROMPT, max_new_tokens=10, logits_processor=LogitsProcessorList([Inside()]), **CHAIN)

    assert result.token_ids == fresh
    assert len(refused) > 10
    assert_clean(llm)


def test_generating_while_a_stream_is_read_is_refused_and_does_no_harm(reading, fresh):
    refused = 0
    stream = reading.stream(PROMPT, max_new_tokens=10, **CHAIN)
    for _ in stream:
        with pytest.raises(InputError, match="already generating"):
            reading.generate(PROMPT, max_new_tokens=4)
        refused += 1

    assert refused > 1
    assert stream.result.token_ids == fresh
    assert_as_new(reading, fresh)


def test_another_model_may_generate_meanwhile(reading, llm, fresh):
    with reading.stream(PROMPT, max_new_tokens=10, **CHAIN) as stream:
        next(stream)
        assert llm.generate(PROMPT, max_new_tokens=10, **CHAIN).token_ids == fresh
        assert len("".join(stream)) == 9
    assert stream.result.token_ids == fresh
