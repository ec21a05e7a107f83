"""A small model with layers planted that do almost nothing: skipping them is right, and any other layer is wrong."""

from collections.abc import Collection

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def planted_model(idle: Collection[int], *, layers: int = 12, hidden: int = 32, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for index in idle:
            model.model.layers[index].self_attn.o_proj.weight.mul_(1e-3)
            model.model.layers[index].mlp.down_proj.weight.mul_(1e-3)
    return model
