"""Models that are not simply in memory, or not made of what they seem: exact, or refused with the reason."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA, greedy, small_model
from torch import nn

from conflayers import Llm, UnsupportedModelError

METHODS = {"vanilla": VANILLA, "chain": CHAIN, "tree": TREE}


def assert_exact(llm: Llm) -> None:
    reference = greedy(llm.model, 12)
    for method in METHODS.values():
        assert llm.generate(PROMPT, max_new_tokens=12, **method).token_ids == reference


def test_weights_without_memory_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"has weights without memory .* offloaded or never loaded"):
        Llm(small_model().to("meta"))


def test_offloaded_weights_are_refused_and_the_model_stays_as_it_was():
    model = cpu_offload(small_model(), execution_device=torch.device("cpu"))
    forwards = {name: module.__dict__.get("forward") for name, module in model.named_modules()}
    assert any(forwards.values())

    with pytest.raises(UnsupportedModelError, match="offloaded"):
        Llm(model)

    assert {name: module.__dict__.get("forward") for name, module in model.named_modules()} == forwards
    assert greedy(model, 4) == greedy(small_model(), 4)


def test_tied_embeddings():
    model = small_model()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    assert_exact(Llm(model))


def test_one_layer_in_two_places_is_refused():
    model = small_model()
    model.model.layers[3] = model.model.layers[1]

    with pytest.raises(UnsupportedModelError, match="layer"):
        Llm(model)


def test_one_mlp_in_two_layers_is_refused():
    model = small_model()
    model.model.layers[3].mlp = model.model.layers[1].mlp

    with pytest.raises(UnsupportedModelError, match="layer 1 is not attention and MLP around one residual stream"):
        Llm(model)


class Int8Linear(nn.Module):
    """A linear layer whose weights are kept in eight bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale)


def test_weights_in_eight_bits():
    model = small_model()
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, Int8Linear(child))
    assert_exact(Llm(model))


def test_double_precision():
    llm = Llm(small_model().to(torch.float64))
    reference = greedy(llm.model, 12)
    for method in (VANILLA, CHAIN):
        assert llm.generate(PROMPT, max_new_tokens=12, **method).token_ids == reference


def test_a_model_and_its_deep_copy_do_not_know_of_each_other():
    first = Llm(small_model())
    second = Llm(copy.deepcopy(first.model))
    with first.stream(PROMPT, max_new_tokens=12, **CHAIN):
        assert_exact(second)
    assert_exact(first)
