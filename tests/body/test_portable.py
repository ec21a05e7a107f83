"""Driving a model by position: what runs, what is recorded, and that everything is put back."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lossless.families import LAYERS, RARE, SUPPORTED, Family
from lossless.reference import PROMPT, assert_untouched
from torch import nn
from transformers import PreTrainedModel

from conflayers.body.portable import PortableBody
from conflayers.errors import PlanError
from conflayers.plan import FULL, Plan

FAMILIES: dict[str, Family] = {family.name: family for family in (*SUPPORTED, *RARE)}
MIXED = Plan(frozenset({1, 3}), frozenset({3, 4}))


@pytest.fixture
def model() -> PreTrainedModel:
    return FAMILIES["llama"].build()


@pytest.fixture
def body(model: PreTrainedModel) -> PortableBody:
    body = PortableBody(model)
    body.reserve(64)
    return body


@torch.no_grad()
def whole(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """The logits of one pass without a cache."""
    output: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return output


def assert_close(logits: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


class PlantedError(Exception):
    pass


def fail(*args: Any, **kwargs: Any) -> Any:
    raise PlantedError


def broken_off(body: PortableBody, tokens: list[int]) -> None:
    """A pass after which something else goes wrong."""
    body.forward(tokens)
    raise PlantedError


def test_passes_of_any_size_continue_the_text(body: PortableBody, model: PreTrainedModel) -> None:
    wanted = whole(model, PROMPT)
    assert_close(body.forward(PROMPT[:5]).logits, wanted[:5])
    assert_close(body.forward(PROMPT[5:6]).logits, wanted[5:6])
    assert_close(body.forward(PROMPT[6:], rows=2).logits, wanted[-2:])
    assert body.length == len(PROMPT)
    body.rollback(3)
    assert_close(body.forward(PROMPT[3:]).logits, wanted[3:])


@pytest.mark.parametrize("family", ["gpt2", "ctrl", "falcon", "gemma3 with a vision tower", "opt", "xglm"])
def test_only_the_rows_asked_for(family: str) -> None:
    model = FAMILIES[family].build()
    body = PortableBody(model)
    body.reserve(64)
    logits = body.forward(PROMPT, rows=1).logits
    assert logits.shape == (1, body.vocab_size)
    assert_close(logits, whole(model, PROMPT)[-1:])


def calls(model: PreTrainedModel, run: Callable[[], Any]) -> Counter[str]:
    """How often the last matrix of every attention and MLP ran."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counted[name] += 1

        return count

    handles = [
        module.register_forward_hook(counting(f"{name.split('.')[2]} {name.rsplit('.', 1)[1]}"))
        for name, module in model.named_modules()
        if name.endswith(("o_proj", "down_proj", "input_layernorm"))
    ]
    run()
    for handle in handles:
        handle.remove()
    return counted


def test_what_a_plan_skips_is_not_run(body: PortableBody, model: PreTrainedModel) -> None:
    with body.running(MIXED):
        counted = calls(model, lambda: body.forward(PROMPT))
    for layer in range(LAYERS):
        assert counted[f"{layer} o_proj"] == (layer not in MIXED.attention)
        assert counted[f"{layer} down_proj"] == (layer not in MIXED.mlp)
        # Of a layer that is skipped whole, not even the norms run.
        assert counted[f"{layer} input_layernorm"] == (layer not in MIXED.whole_layers)
    body.rollback(0)
    assert set(calls(model, lambda: body.forward(PROMPT)).values()) == {1}


def test_a_skipped_sublayer_adds_nothing(body: PortableBody, model: PreTrainedModel) -> None:
    with body.running(MIXED):
        skipped = body.forward(PROMPT).logits
    with torch.no_grad():
        for layer in MIXED.attention:
            model.model.layers[layer].self_attn.o_proj.weight.zero_()
        for layer in MIXED.mlp:
            model.model.layers[layer].mlp.down_proj.weight.zero_()
    assert_close(skipped, whole(model, PROMPT))


def test_the_plan_ends_with_its_context(body: PortableBody, model: PreTrainedModel) -> None:
    wanted = whole(model, PROMPT)
    with pytest.raises(PlantedError), body.running(MIXED):
        broken_off(body, PROMPT[:2])
    assert_untouched(model)
    body.rollback(0)
    assert_close(body.forward(PROMPT).logits, wanted)


def test_plans_within_plans_end_one_after_the_other(body: PortableBody, model: PreTrainedModel) -> None:
    with body.running(MIXED):
        outer = body.forward(PROMPT).logits
        body.rollback(0)
        with pytest.raises(PlantedError), body.running(Plan.layers([0, 3])):
            broken_off(body, PROMPT)
        body.rollback(0)
        assert torch.equal(body.forward(PROMPT).logits, outer)
    assert_untouched(model)


@pytest.mark.parametrize("plan", [FULL, MIXED])
@pytest.mark.parametrize("record", [0, 4])
def test_an_error_within_the_model_leaves_everything_as_it_was(
    body: PortableBody, model: PreTrainedModel, plan: Plan, record: int
) -> None:
    body.forward(PROMPT[:4])
    mlp = model.model.layers[2].mlp
    mlp.forward = fail
    with pytest.raises(PlantedError), body.running(plan):
        body.forward(PROMPT[4:8], record=record)
    # The fault itself was there before, so it is still there.
    assert mlp.__dict__.pop("forward") is fail
    assert_untouched(model)
    assert body.length == 4
    assert_close(body.forward(PROMPT[4:]).logits, whole(model, PROMPT)[4:])


def test_a_forward_that_a_module_carries_itself_is_put_back(body: PortableBody, model: PreTrainedModel) -> None:
    """Offloading libraries set one, which must run where the module runs and survive where it is skipped."""
    attention, own = model.model.layers[3].self_attn, Counter[str]()
    inner = attention.forward

    def offloaded(*args: Any, **kwargs: Any) -> Any:
        own["calls"] += 1
        return inner(*args, **kwargs)

    attention.forward = offloaded
    body.forward(PROMPT[:2])
    assert own["calls"] == 1
    with body.running(Plan(attention=frozenset({3}))):
        body.forward(PROMPT[2:4])
    assert own["calls"] == 1
    assert attention.__dict__["forward"] is offloaded
    body.forward(PROMPT[4:6])
    assert own["calls"] == 2


def test_a_plan_for_a_larger_model_is_an_error_before_anything_changes(
    body: PortableBody, model: PreTrainedModel
) -> None:
    plan = Plan.layers([1, LAYERS])
    with pytest.raises(PlanError, match=f"the plan skips layer {LAYERS}"), body.running(plan):
        pytest.fail("entered")
    assert_untouched(model)


# Sublayers that return bare tensors and tuples, flatten batch and tokens, are added to in place, or are two modules.
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "opt", "falcon", "gemma4 with an input per layer"])
@pytest.mark.parametrize("rows", [3, 7])
def test_the_trace_is_what_the_sublayers_put_out(family: str, rows: int) -> None:
    model = FAMILIES[family].build()
    body = PortableBody(model)
    body.reserve(64)
    body.forward(PROMPT[:5])
    outputs: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        outputs[module] = out.clone().reshape(-1, out.shape[-1])

    parts = [part.module for layer in body.anatomy.layers for part in (layer.attention, *layer.mlp)]
    handles = [module.register_forward_hook(keep) for module in parts]
    trace = body.forward(PROMPT[5:12], record=rows).trace
    for handle in handles:
        handle.remove()
    assert trace is not None
    assert trace.tokens == rows
    for layer, attention, mlp in zip(body.anatomy.layers, trace.attention, trace.mlp, strict=True):
        assert torch.equal(attention, outputs[layer.attention.module][-rows:])
        torch.testing.assert_close(mlp, sum(outputs[part.module] for part in layer.mlp)[-rows:])
    assert_untouched(model)


def test_a_trace_holds_only_the_rows_asked_for(body: PortableBody) -> None:
    assert body.forward(PROMPT).trace is None
    body.rollback(0)
    trace = body.forward(PROMPT, record=5).trace
    assert trace is not None
    rows = [*trace.attention, *trace.mlp]
    assert {row.shape for row in rows} == {(5, 32)}
    # Nothing of the prompt's other tokens is held in memory.
    assert {row.untyped_storage().nbytes() for row in rows} == {5 * 32 * 4}
    body.rollback(0)
    more = body.forward(PROMPT[:3], record=50).trace
    assert more is not None
    assert more.tokens == 3


@pytest.fixture(params=["llama", "mistral", "gemma2"])
def filled(request: pytest.FixtureRequest) -> PortableBody:
    """A body that has read the prompt, longer than the windows of those that have windows."""
    body = PortableBody(FAMILIES[request.param].build())
    body.reserve(64)
    body.forward(PROMPT)
    return body


@pytest.mark.parametrize("start", [0, 3, len(PROMPT) - 1, len(PROMPT)])
def test_preserved_tokens_are_back_afterwards(filled: PortableBody, start: int) -> None:
    wanted = whole(filled.model, [*PROMPT, 9, 8])[-2:]
    with filled.preserve(start):
        assert filled.length == start
        filled.forward([99] * 20)
    assert filled.length == len(PROMPT)
    assert_close(filled.forward([9, 8]).logits, wanted)
    filled.rollback(len(PROMPT))
    with pytest.raises(PlantedError), filled.preserve(start):
        broken_off(filled, [98])
    assert_close(filled.forward([9, 8]).logits, wanted)


def test_what_a_preserved_stretch_computes_stands_at_its_positions(filled: PortableBody) -> None:
    with filled.preserve(4):
        logits = filled.forward([40, 41, 42]).logits
    assert_close(logits, whole(filled.model, [*PROMPT[:4], 40, 41, 42])[4:])


@pytest.mark.parametrize("length", [-1, len(PROMPT) + 1])
def test_rolling_back_to_where_the_text_is_not_is_an_error(filled: PortableBody, length: int) -> None:
    with pytest.raises(IndexError, match="cannot roll back"):
        filled.rollback(length)
    with pytest.raises(IndexError, match="cannot roll back"), filled.preserve(length):
        pytest.fail("entered")
    assert filled.length == len(PROMPT)


def test_more_tokens_than_reserved_are_an_error_that_costs_nothing(filled: PortableBody) -> None:
    with pytest.raises(IndexError, match="cache of 64 rows cannot hold 65"):
        filled.forward([9] * (65 - len(PROMPT)))
    assert filled.length == len(PROMPT)
    assert_close(filled.forward([9]).logits, whole(filled.model, [*PROMPT, 9])[-1:])


def buffers(body: PortableBody) -> set[int]:
    return {layer.keys.data_ptr() for layer in body._cache.layers if layer.keys is not None}


def test_a_shorter_request_reuses_the_memory_of_a_longer_one(filled: PortableBody) -> None:
    first = buffers(filled)
    assert len(first) == LAYERS
    filled.reserve(20)
    assert filled.length == 0
    filled.forward(PROMPT)
    assert buffers(filled) == first
    filled.reserve(65)
    assert not buffers(filled)
    filled.forward([9] * 65)
    assert {layer.keys.shape[2] for layer in filled._cache.layers} == {96}
    filled.release()
    assert not buffers(filled)
    assert filled.length == 0


def test_a_long_text_does_not_grow_the_memory(filled: PortableBody) -> None:
    first = buffers(filled)
    sizes = {layer.keys.untyped_storage().nbytes() for layer in filled._cache.layers}
    for token in range(64 - len(PROMPT)):
        filled.forward([1 + token])
    assert buffers(filled) == first
    assert {layer.keys.untyped_storage().nbytes() for layer in filled._cache.layers} == sizes


def test_the_model_is_known_again_by_its_weights(model: PreTrainedModel) -> None:
    again, other = FAMILIES["llama"].build(), FAMILIES["llama with biases"].build()
    assert PortableBody(model).identity == PortableBody(again).identity
    assert PortableBody(model).identity == PortableBody(again.double()).identity
    assert PortableBody(model).identity != PortableBody(other).identity
