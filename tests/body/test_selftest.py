"""Faults planted in a sound model, each of which would make speculation say something else, are found at the start."""

from typing import Any

import pytest
import torch
from lossless.families import SUPPORTED
from lossless.reference import assert_untouched
from torch import nn
from transformers import PreTrainedModel

from conflayers.body.portable import PortableBody
from conflayers.body.selftest import LOGIT_CHECKS, RESIDUAL_CHECK, TREE_CHECK, self_test
from conflayers.errors import UnsupportedModelError

LLAMA = next(family for family in SUPPORTED if family.name == "llama")


class Wrapped(nn.Module):
    """An MLP that also holds the one it stands for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Remembers(Wrapped):
    """Adds what it put out for the token before: state that no rollback reaches."""

    last: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(hidden)
        before = torch.zeros_like(out[:, :1]) if self.last is None else self.last
        shifted = torch.cat([before, out[:, :-1]], 1)
        self.last = out[:, -1:]
        return out + shifted


class LooksAhead(Wrapped):
    """Mixes in the mean over all tokens of the pass."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(hidden)
        return out + out.mean(1, keepdim=True)


class SumsUp(nn.Module):
    """A layer that gives its residual stream over to its sublayers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp = AddsTheResidual(inner.self_attn), inner.mlp
        self.attention_type = "full_attention"

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        return hidden_states + self.mlp(hidden_states)


class AddsTheResidual(Wrapped):
    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        out, _ = self.inner(hidden_states=hidden_states, **kwargs)
        return hidden_states + out, None


def refusal(model: PreTrainedModel) -> str:
    body = PortableBody(model.eval())
    with pytest.raises(UnsupportedModelError) as caught:
        self_test(body)
    assert_untouched(model)
    assert body.length == 0
    return str(caught.value)


def test_a_sound_model_passes_every_check() -> None:
    body = PortableBody(LLAMA.build())
    found = self_test(body)
    assert list(found) == [*LOGIT_CHECKS, TREE_CHECK, RESIDUAL_CHECK]
    assert all(0 <= difference < 1e-4 for difference in found.values())
    assert body.length == 0
    assert_untouched(body.model)


def test_state_that_one_text_leaves_to_the_next() -> None:
    model = LLAMA.build()
    model.model.layers[2].mlp = Remembers(model.model.layers[2].mlp)
    assert "LlamaForCausalLM failed the self-test 'a prefix does not see" in refusal(model)


def test_state_that_is_reset_where_a_text_begins_but_does_not_roll_back() -> None:
    """Continuing is right, so only the draft and the rollback in between can show it."""
    model = LLAMA.build()
    remembers = Remembers(model.model.layers[2].mlp)
    model.model.layers[2].mlp = remembers

    def reset(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["position_ids"][0, 0] == 0:
            remembers.last = None

    handle = model.model.layers[0].register_forward_pre_hook(reset, with_kwargs=True)
    body = PortableBody(model.eval())
    with pytest.raises(UnsupportedModelError, match=f"LlamaForCausalLM failed the self-test '{LOGIT_CHECKS[2]}'"):
        self_test(body)
    handle.remove()
    assert_untouched(model)


def test_tokens_that_see_what_follows() -> None:
    model = LLAMA.build()
    model.model.layers[2].mlp = LooksAhead(model.model.layers[2].mlp)
    assert f"failed the self-test '{LOGIT_CHECKS[0]}': logits are off by" in refusal(model)


def test_sublayers_that_add_the_residual_stream_themselves() -> None:
    model = LLAMA.build()
    model.model.layers[3] = SumsUp(model.model.layers[3])
    assert f"failed the self-test '{RESIDUAL_CHECK}'" in refusal(model)


def test_an_error_during_a_check_names_the_check() -> None:
    model = LLAMA.build()
    inner = model.model.layers[3].mlp.forward

    def only_short(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] == 1:
            raise RuntimeError("planted")
        output: torch.Tensor = inner(hidden)
        return output

    model.model.layers[3].mlp.forward = only_short
    body = PortableBody(model)
    with pytest.raises(UnsupportedModelError, match=rf"'{LOGIT_CHECKS[2]}' \(RuntimeError: planted\)"):
        self_test(body)
    assert model.model.layers[3].mlp.__dict__.pop("forward") is only_short
    assert_untouched(model)
