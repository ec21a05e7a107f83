"""Prompts and limits at, below and beyond what the model can do; requests that outgrow the memory."""

import pytest
import torch
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA, assert_as_new, assert_clean, greedy, small_model

from conflayers import InputError, Llm
from conflayers.errors import OutOfMemoryError
from conflayers.plan import FULL

CONTEXT = 1024
METHODS = {"vanilla": VANILLA, "chain": CHAIN, "tree": TREE, "whole": {**CHAIN, "plan": FULL, "draft_length": 25}}
each_method = pytest.mark.parametrize("method", METHODS)


def prompt_of(tokens: int) -> list[int]:
    return [(7 * i + 3) % 128 for i in range(tokens)]


@pytest.fixture
def passes(llm):
    """How many passes the model has made."""
    count = []
    hook = llm.model.register_forward_pre_hook(lambda *_: count.append(1))
    yield count
    hook.remove()


@each_method
@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_the_context_may_be_used_to_its_end(llm, method, room):
    prompt = prompt_of(CONTEXT - room)
    reference = greedy(llm.model, room, prompt)

    assert llm.generate(prompt, **METHODS[method]).token_ids == reference
    assert llm.generate(prompt, max_new_tokens=room, **METHODS[method]).token_ids == reference


@pytest.mark.parametrize(
    ("tokens", "wanted", "complaint"),
    [
        (CONTEXT, None, "the prompt fills the model's context of 1024 tokens: shorten it"),
        (CONTEXT, 1, "at most 0 fit"),
        (CONTEXT - 1, 2, "at most 1 fit"),
        (CONTEXT + 1, None, "the prompt has 1025 tokens, the model's context is 1024"),
        (CONTEXT + 1, 0, "the prompt has 1025 tokens"),
        (50 * CONTEXT, 1, "the prompt has 51200 tokens"),
        (5, CONTEXT - 4, "at most 1019 fit"),
        (5, 2**63, "at most 1019 fit"),
        (5, -1, "0 or more, not -1"),
        (5, -(2**63), "0 or more"),
        (5, float("inf"), "whole number"),
        (5, "8", "whole number"),
        (0, 5, "the prompt is empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_pass(llm, passes, tokens, wanted, complaint):
    for method in METHODS.values():
        for door in (llm.generate, llm.stream):
            with pytest.raises(InputError, match=complaint):
                door(prompt_of(tokens), max_new_tokens=wanted, **method)
    assert passes == []


def test_no_new_tokens_are_no_pass(llm, passes):
    # The first task on a model measures what passes take.
    llm.task()
    passes.clear()
    for tokens in (1, CONTEXT):
        result = llm.generate(prompt_of(tokens), max_new_tokens=0)
        assert (result.token_ids, result.text, result.stats.new_tokens) == ([], "", 0)
    assert passes == []


@each_method
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_shortest_prompts(llm, method, tokens):
    prompt = prompt_of(tokens)
    assert llm.generate(prompt, max_new_tokens=8, **METHODS[method]).token_ids == greedy(llm.model, 8, prompt)


# What the allocators of CPU and accelerators say.
OUT_OF_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory: you tried to"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {str(error)[-20:]}")
@pytest.mark.parametrize("at", [1, 2, 6], ids=["prefill", "draft", "verification"])
def test_a_request_that_outgrows_the_memory(llm, fresh, error, at):
    calls = 0

    def run_out(*_):
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    hook = llm.model.model.layers[4].register_forward_pre_hook(run_out)
    try:
        with pytest.raises(OutOfMemoryError, match=r"cache for 648 tokens .* lower max_new_tokens") as caught:
            llm.generate(prompt_of(500), max_new_tokens=20, **CHAIN)
    finally:
        hook.remove()

    assert caught.value.__cause__ is error
    # The memory is given back, not kept for the next request to fail for.
    assert llm.body.room == 0
    assert_as_new(llm, fresh)


def test_memory_that_is_not_there_for_the_cache(llm, fresh, monkeypatch):
    """The real thing: a cache larger than any machine's address space."""
    monkeypatch.setattr(llm.body, "context", 2**50)
    with pytest.raises(OutOfMemoryError, match="cache for 1125899906842"):
        llm.generate(PROMPT, max_new_tokens=2**49 * 2 - 100, **CHAIN)
    assert_as_new(llm, fresh)


def test_other_errors_keep_their_kind(llm, fresh):
    def fail(*_):
        raise RuntimeError("a memory of better days")

    hook = llm.model.model.layers[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="better days") as caught:
            llm.generate(PROMPT, max_new_tokens=4)
    finally:
        hook.remove()
    assert type(caught.value) is RuntimeError
    assert_as_new(llm, fresh)


@pytest.mark.parametrize("model", [None, "smollm2", 5, torch.nn.Linear(2, 2), small_model])
def test_only_models_of_transformers_make_an_llm(model):
    with pytest.raises(InputError, match="model must be a model of transformers, not"):
        Llm(model)


def test_a_model_is_clean_after_it_was_examined():
    assert_clean(Llm(small_model()))
