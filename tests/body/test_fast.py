"""The fast body against the portable one, on every model of its family; every other model keeps the portable one."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lossless.families import RARE, SUPPORTED
from lossless.reference import PROMPT
from torch import nn
from transformers import PreTrainedModel

from conflayers import InputError, Llm
from conflayers.body import kernels
from conflayers.body.choose import choose_body
from conflayers.body.contract import ATTENTION, LAYER, MLP
from conflayers.body.fast import FastBody
from conflayers.body.llama import FAMILY, why_not
from conflayers.body.portable import PortableBody
from conflayers.plan import FULL, Plan

EVERY = {family.name: family for family in (*SUPPORTED, *RARE)}
MIXED = Plan(frozenset({1, 3}), frozenset({3, 4}))
ROOM = 128


def build(name: str) -> PreTrainedModel:
    return EVERY[name].build()


FITTING = [name for name in EVERY if type(build(name)).__name__ in FAMILY and why_not(build(name)) is None]


def test_who_is_of_the_family() -> None:
    kinds = {EVERY[name].model_type for name in FITTING}
    assert kinds == {"llama", "mistral", "qwen2", "qwen3", "smollm3"}
    assert all(isinstance(choose_body(build(name))[0], FastBody) for name in FITTING)
    assert type(choose_body(build("gemma2"))[0]) is PortableBody
    assert "not of the Llama family" in str(why_not(build("gemma2")))


@pytest.fixture(params=["compiled", "torch"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "library", lambda: "a test wants torch's")
    elif isinstance(kernels.library(), str):
        pytest.skip(f"nothing compiled here: {kernels.library()}")
    return request.param


@pytest.fixture(params=FITTING)
def both(request: pytest.FixtureRequest, operators: str) -> Iterator[tuple[PortableBody, FastBody]]:
    model = build(request.param)
    portable, fast = PortableBody(model), FastBody(model)
    for body in (portable, fast):
        body.trees = True
        body.reserve(ROOM)
    yield portable, fast
    assert fast.fast


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_pass_is_the_portable_bodys(both: tuple[PortableBody, FastBody]) -> None:
    portable, fast = both

    def same(**how) -> None:
        assert_same(fast.forward(**how).logits, portable.forward(**how).logits)
        assert fast.length == portable.length

    same(tokens=PROMPT)
    same(tokens=[5, 6, 7], rows=2)
    for _ in range(12):
        same(tokens=[9])
    for body in both:
        body.rollback(11)
    same(tokens=[3, 4, 5, 6], parents=[-1, 0, -1, 2])
    for body in both:
        body.keep(11, [2, 3])
    same(tokens=[8])
    assert_same(fast.replay([5, 6, 8]).logits, portable.replay([5, 6, 8]).logits)
    same(tokens=[7])
    with fast.preserve(5), portable.preserve(5):
        same(tokens=[1, 2])
    same(tokens=[4])


def test_plans_and_traces(both: tuple[PortableBody, FastBody]) -> None:
    portable, fast = both
    for body in both:
        body.forward(PROMPT)
    for plan in (MIXED, Plan.layers([1, 2, 4]), FULL):
        with fast.running(plan), portable.running(plan):
            assert_same(fast.forward([5]).logits, portable.forward([5]).logits)
        for body in both:
            body.rollback(len(PROMPT))
    ours, theirs = (body.forward([5, 6, 7, 8], record=3).trace for body in both[::-1])
    assert ours is not None
    assert theirs is not None
    assert ours.tokens == 3
    for mine, other in zip([*ours.attention, *ours.mlp], [*theirs.attention, *theirs.mlp], strict=True):
        assert_same(mine, other)


def test_walks(both: tuple[PortableBody, FastBody]) -> None:
    found = []
    for body in both:
        body.forward(PROMPT)

        def step(index, states, run):
            whole = run(states, LAYER)
            whole[0] = states[0] if index == 2 else whole[0]
            whole[1] = run(states, ATTENTION if index % 2 else MLP)[1]
            return whole

        found.append(body.walk(PROMPT[-3:], 3, step))
        assert body.length == len(PROMPT)
    assert_same(found[1], found[0])


def test_a_failing_pass_leaves_the_plan_as_it_was(both: tuple[PortableBody, FastBody]) -> None:
    fast = both[1]
    wanted = fast.forward(PROMPT).logits
    with pytest.raises(IndexError), fast.running(MIXED):
        fast.forward(PROMPT * ROOM)
    fast.rollback(0)
    assert torch.equal(fast.forward(PROMPT).logits, wanted)


def test_no_weight_exists_twice() -> None:
    model = build("llama")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    FastBody(model)
    again = FastBody(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    attention = model.model.layers[1].self_attn
    storages = {module.weight.untyped_storage().data_ptr() for module in (attention.q_proj, attention.k_proj)}
    assert storages == {again._weights.plain.layers[1].qkv.weight.untyped_storage().data_ptr()}
    # Changed in place, a weight is changed for both.
    again.reserve(ROOM)
    with torch.no_grad():
        attention.k_proj.weight.mul_(2)
    wanted = model(torch.tensor([PROMPT])).logits[0]
    assert_same(again.forward(PROMPT).logits, wanted)


def test_the_model_can_be_saved_copied_and_moved_as_before(tmp_path: Path) -> None:
    model = build("qwen2")
    wanted = model(torch.tensor([PROMPT])).logits
    body = FastBody(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    FastBody(again)
    # Nothing is left of the file that was mapped into memory.
    held = {weights.untyped_storage().data_ptr(): weights.untyped_storage().nbytes() for weights in again.parameters()}
    assert sum(held.values()) == sum(weights.nbytes for weights in again.parameters())
    for one in (model, again, copy.deepcopy(model)):
        assert torch.equal(one(torch.tensor([PROMPT])).logits, wanted)
    model.to(torch.bfloat16).to(torch.float32)
    body.reserve(ROOM)
    assert body.fast
    assert_same(body.forward(PROMPT).logits, model(torch.tensor([PROMPT])).logits[0])


def test_a_model_that_is_changed_later_is_followed() -> None:
    model = build("llama")
    body = FastBody(model)
    layer = model.model.layers[2]
    # Other weights.
    layer.self_attn.q_proj.weight = nn.Parameter(layer.self_attn.q_proj.weight.detach() * 1.5)
    body.reserve(ROOM)
    assert body.fast
    assert_same(body.forward(PROMPT).logits, model(torch.tensor([PROMPT])).logits[0])
    # Somebody who changes what comes out.
    handle = layer.mlp.down_proj.register_forward_hook(lambda module, args, output: output * 2)
    body.reserve(ROOM)
    assert not body.fast
    assert_same(body.forward(PROMPT).logits, model(torch.tensor([PROMPT])).logits[0])
    with body.running(MIXED):
        body.forward([5])
    handle.remove()
    body.reserve(ROOM)
    assert body.fast
    assert_same(body.forward(PROMPT).logits, model(torch.tensor([PROMPT])).logits[0])


class Adapted(nn.Linear):
    def forward(self, states):
        return super().forward(states) + 1


@pytest.mark.parametrize("change", ["adapter", "activation", "rotation", "hook", "norm in float64", "float64"])
def test_whatever_is_not_exactly_the_family_is_left_to_the_portable_body(change: str) -> None:
    model = build("llama")
    layer = model.model.layers[0]
    if change == "adapter":
        layer.mlp.up_proj = Adapted(32, layer.mlp.up_proj.out_features, bias=False)
    if change == "activation":
        model.config.hidden_act = "gelu"
    if change == "rotation":
        model.config.rope_parameters["rope_type"] = "dynamic"
    if change == "hook":
        layer.register_forward_hook(lambda *_: None)
    if change == "norm in float64":
        layer.input_layernorm.double()
    if change == "float64":
        model.double()
    assert why_not(model) is not None
    if change != "norm in float64":
        assert type(choose_body(model)[0]) is PortableBody
        with pytest.raises(InputError, match="the fast body cannot drive this model"):
            choose_body(model, "fast")


def test_one_can_insist() -> None:
    model = build("llama")
    assert type(Llm(model, body="portable").body) is PortableBody
    assert type(Llm(model, body="fast").body) is FastBody
    with pytest.raises(InputError, match="body must be 'auto', 'fast' or 'portable', not 'slow'"):
        Llm(model, body="slow")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_within_their_rounding(dtype: torch.dtype) -> None:
    model = build("qwen3").to(dtype)
    portable, fast = PortableBody(model), FastBody(model)
    found = []
    for body in (portable, fast):
        body.reserve(ROOM)
        found.append(torch.cat([body.forward(PROMPT).logits, body.forward([5]).logits, body.forward([7, 8]).logits]))
    scale = found[0].float().abs().amax()
    tolerance = {torch.bfloat16: 6e-2, torch.float16: 2e-2}[dtype]
    assert float((found[0] - found[1]).float().abs().amax() / scale) < tolerance
    assert all(layer.qkv.weight.dtype == dtype for layer in fast._weights.plain.layers)
