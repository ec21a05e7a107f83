"""The weights of a model of the Llama family, read for the fast body; and whether a model is exactly that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conflayers.body.linears import joined, listened_to, owned, plain, single
from conflayers.body.operators import RmsNorm, rms_norm
from conflayers.body.views import Product

FAMILY = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
}
# Rotations whose angle depends on the position alone, so that a table of them can be made once.
ROTATIONS = {"default", "linear", "llama3", "yarn"}
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
# What such a model is made of.
TORCHS, OURS = {nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU}, ("transformers.models.", "transformers.activations")


@dataclass(frozen=True, slots=True)
class FastLayer:
    """The weights of one decoder layer.

    Attributes:
        norm, mlp_norm: of what goes into the attention and into the MLP.
        qkv, out: attention; queries, keys and values one after the other.
        gate_up, down: MLP; gate and up one after the other.
        head_norms: of every head of queries and of keys, where the model has them.
        rotated: whether queries and keys are rotated by position.
    """

    norm: RmsNorm
    qkv: Product
    out: Product
    mlp_norm: RmsNorm
    gate_up: Product
    down: Product
    head_norms: tuple[RmsNorm, RmsNorm] | None
    rotated: bool

    def with_products(self, qkv: Product, out: Product, gate_up: Product, down: Product) -> "FastLayer":
        """The same with other products."""
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model, as it is now, cannot be driven by the fast body, in words; None if it can."""
    config: Any = model.config
    name = type(model).__name__
    if model.dtype not in PRECISIONS:
        # Transformers itself takes norms in float32.
        return f"its weights are {model.dtype}"
    if name not in FAMILY or not type(model).__module__.startswith(OURS):
        return f"{name} is not of the Llama family"
    if config.hidden_act != "silu":
        return f"its MLP is gated by {config.hidden_act}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ROTATIONS:
        return f"its rotation is of type {rope.get('rope_type')}"
    strange = next((module for module in model.modules() if not _ordinary(module)), None)
    if strange is not None:
        return f"a {type(strange).__name__} inside it is adapted, quantised or listened to"
    if {(weight.dtype, weight.device) for weight in model.parameters()} != {(model.dtype, model.device)}:
        return "its weights have several precisions or devices"
    biases = [[part.bias is None for part in parts] for layer in _layers(model) for parts in _products(layer)]
    if any(len(set(one)) > 1 for one in biases):
        return "some of its products that belong together have a bias and others do not"
    return None


def _ordinary(module: nn.Module) -> bool:
    known = type(module) in TORCHS or type(module).__module__.startswith(OURS)
    return known and not listened_to(module) and (type(module) is not nn.Linear or plain(module))


def _layers(model: Any) -> Sequence[Any]:
    found: Sequence[Any] = model.model.layers
    return found


def _products(layer: nn.Module) -> tuple[Sequence[Any], Sequence[Any]]:
    attention, mlp = layer.self_attn, layer.mlp
    return (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)  # type: ignore[union-attr]


def read_layer(layer: Any, eps: float) -> FastLayer:
    """The weights of one of the model's layers. Products that belong together come to lie beside each other.

    Args:
        eps: of every norm.
    """
    attention, (qkv, gate_up) = layer.self_attn, _products(layer)
    normed = getattr(attention, "q_norm", None) is not None
    return FastLayer(
        norm=rms_norm(owned(layer.input_layernorm.weight), eps),
        qkv=joined(qkv),
        out=single(attention.o_proj),
        mlp_norm=rms_norm(owned(layer.post_attention_layernorm.weight), eps),
        gate_up=joined(gate_up),
        down=single(layer.mlp.down_proj),
        head_norms=(rms_norm(owned(attention.q_norm.weight), eps), rms_norm(owned(attention.k_norm.weight), eps))
        if normed
        else None,
        rotated=bool(getattr(attention, "use_rope", True)),
    )
