"""Tiny randomly initialised models: one for every decoder family that is supported, and those that must be refused.

Each is built from its configuration alone, in milliseconds. Sliding windows are far shorter than what the tests
generate. Weights are spread widely, so that logits lie far apart and a wrong mask, position or row changes the text.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

VOCABULARY = 120
LAYERS = 6
WINDOW = 8

_SPECIAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.4,
    # Tied embeddings make an untrained model repeat the last token for ever.
    "tie_word_embeddings": False,
}
_BASE = {
    **_SPECIAL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_HEADS = {**_BASE, "head_dim": 8}
# One name for each of these in every mixture of experts; configurations leave alone what they do not know.
_EXPERTS = {
    **_HEADS,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "n_group": 1,
    "topk_group": 1,
}
# Keys and values compressed to a latent; the part of a head that is rotated and the rest have their own widths.
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 4,
}
_WINDOWED = {"sliding_window": WINDOW}
_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
_PER_LAYER_INPUT = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
_GPT = {**_SPECIAL, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 256}
_MHA = {
    **_SPECIAL,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}


@dataclass(frozen=True)
class Family:
    """A tiny model: `model_type` of transformers and its configuration.

    Attributes:
        name: of the case; a type may have several.
        seed: of its weights, chosen so that it has something to say.
    """

    name: str
    model_type: str
    config: dict[str, Any] = field(hash=False)
    seed: int = 0

    def build(self) -> PreTrainedModel:
        config = CONFIG_MAPPING[self.model_type](**self.config)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = auto.from_config(config, dtype=torch.float32).eval()
            disturb(model)
        return model


@torch.no_grad()
def disturb(model: PreTrainedModel) -> None:
    """Give norms and biases, which start as ones and zeros, values that show if one is left out or added."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))


def _family(model_type: str, base: dict[str, Any] = _HEADS, *, name: str = "", seed: int = 0, **config: Any) -> Family:
    return Family(name or model_type, model_type, {**base, **config}, seed)


_GEMMA3 = _family(
    "gemma3",
    {},
    name="gemma3 with a vision tower",
    text_config={**_HEADS, **_ALTERNATING},
    vision_config={
        "hidden_size": 16,
        "intermediate_size": 16,
        # As many as the decoder has: the probe must still find the decoder's.
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    mm_tokens_per_image=4,
    image_token_index=119,
    boi_token_index=118,
    eoi_token_index=117,
    tie_word_embeddings=False,
    eos_token_id=None,
)

SUPPORTED = (
    _family("llama"),
    _family("mistral", **_WINDOWED),
    _family("ministral3", rope_parameters={**_YARN, "llama_4_scaling_beta": 0.1}),
    _family("mixtral", _EXPERTS, **_WINDOWED),
    _family("qwen2", use_sliding_window=True, max_window_layers=3, **_WINDOWED),
    _family("qwen2_moe", _EXPERTS),
    _family("qwen3"),
    _family("qwen3_moe", _EXPERTS),
    _family("gemma"),
    _family("gemma2", **_ALTERNATING),
    _family("gemma3_text", **_ALTERNATING),
    _GEMMA3,
    _family("gemma4_text", num_kv_shared_layers=0, hidden_size_per_layer_input=0, **_ALTERNATING),
    _family("phi", partial_rotary_factor=0.5, seed=1),
    _family("phi3", _BASE, **_WINDOWED),
    _family("olmo", clip_qkv=1.0, seed=1),
    _family("olmo2", seed=1),
    _family("olmo3", **_ALTERNATING),
    _family("olmoe", _EXPERTS),
    _family("smollm3", no_rope_layer_interval=3, use_sliding_window=True, **_ALTERNATING),
    _family("gpt_oss", _EXPERTS, rope_parameters=_YARN, **_ALTERNATING),
    _family("deepseek_v2", _EXPERTS, **_LATENT),
    _family("deepseek_v3", _EXPERTS, seed=1, **_LATENT),
    _family("gpt2", _GPT),
    _family("gpt_neox", rotary_pct=0.5),
    _family("gptj", _GPT, rotary_dim=4, seed=1),
    _family("falcon", _MHA),
    _family("opt", _MHA, ffn_dim=48, word_embed_proj_dim=32),
    _family("cohere"),
    _family("cohere2", **_ALTERNATING),
    _family("glm"),
    _family("glm4"),
    _family("glm4_moe", _EXPERTS),
    _family("granite", residual_multiplier=0.7, attention_multiplier=0.5, embedding_multiplier=2.0),
    _family("granitemoe", _EXPERTS, residual_multiplier=0.7),
    _family(
        "granitemoehybrid",
        {**_EXPERTS, **_MAMBA},
        name="granitemoehybrid of attention only",
        layer_types=["attention"] * LAYERS,
        seed=1,
    ),
    _family("starcoder2", **_WINDOWED),
    _family("stablelm", use_qkv_bias=True),
    _family("nemotron"),
    _family("exaone4", sliding_window_pattern=3, **_WINDOWED),
    _family("nanochat"),
    _family("ernie4_5"),
    _family("hunyuan_v1_dense"),
    _family("seed_oss"),
    _family("helium"),
    _family("apertus", rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
    _family("arcee"),
    _family("minimax_m2", _EXPERTS),
)

# Variants of the above, and families seldom met.
RARE = (
    _family("llama", name="llama with biases", num_key_value_heads=1, attention_bias=True, mlp_bias=True, seed=1),
    _family("llama", name="llama with yarn", rope_parameters=_YARN),
    _family("ministral", **_ALTERNATING),
    _family("vaultgemma", **_ALTERNATING),
    _family(
        "gemma4_text",
        name="gemma4 with an input per layer",
        num_kv_shared_layers=0,
        **_PER_LAYER_INPUT,
        **_ALTERNATING,
    ),
    _family("phimoe", _EXPERTS),
    _family("flex_olmo", _EXPERTS),
    _family("minicpm3", **_LATENT),
    _family("gpt_neo", _MHA, num_layers=LAYERS, window_size=WINDOW, attention_types=[[["global", "local"], 3]]),
    _family("gpt_neox", name="gpt_neox without parallel residual", use_parallel_residual=False),
    _family("gpt_neox_japanese", rotary_pct=0.5),
    _family("gpt_bigcode", _GPT),
    _family("codegen", _GPT, rotary_dim=4),
    _family("ctrl", _GPT, dff=48, seed=2),
    _family("falcon", _MHA, name="falcon, new architecture", num_kv_heads=2, new_decoder_architecture=True, seed=2),
    _family(
        "falcon",
        _MHA,
        name="falcon with alibi",
        alibi=True,
        initializer_range=0.3,
        multi_query=False,
        parallel_attn=False,
        bias=True,
        seed=5,
    ),
    _family("xglm", _SPECIAL, d_model=32, ffn_dim=48, num_layers=LAYERS, attention_heads=4),
    _family("biogpt", _BASE, seed=2),
    _family("persimmon", _BASE, seed=1),
    _family("modernbert-decoder", local_attention=2 * WINDOW, global_attn_every_n_layers=3, seed=1),
    _family("cohere2_moe", _EXPERTS, **_ALTERNATING),
    _family("glm4_moe_lite", _EXPERTS, **_LATENT),
    _family("granite_swa", seed=3, **_ALTERNATING),
    _family("granitemoe_swa", _EXPERTS, **_ALTERNATING),
    _family("granitemoeshared", _EXPERTS),
    _family("stablelm", name="stablelm with parallel residual", use_parallel_residual=True, qk_layernorm=True),
    _family("exaone_moe", _EXPERTS, **_WINDOWED),
    _family("ernie4_5_moe", _EXPERTS),
    _family("hunyuan_v1_moe", _EXPERTS),
    _family("hy_v3", _EXPERTS),
    _family("afmoe", _EXPERTS, **_ALTERNATING),
    _family("dots1", _EXPERTS, max_window_layers=3, **_WINDOWED),
    _family("bitnet"),
    _family("diffllama", seed=2),
    _family("doge", seed=1),
    _family("jetmoe", _EXPERTS),
    _family("jais2"),
    _family("cwm", **_ALTERNATING),
    _family("hyperclovax"),
    _family("kolibri1", _EXPERTS, **_ALTERNATING),
    _family("laguna", _EXPERTS, seed=2, **_ALTERNATING),
    _family("mellum", _EXPERTS, **_ALTERNATING),
    _family("mimo_v2_flash", _EXPERTS, **_ALTERNATING),
    _family("minimax_m3_vl_text", _EXPERTS),
    _family("solar_open", _EXPERTS),
    _family("youtu", **_LATENT),
    _family("axk1", _EXPERTS, **_LATENT),
)

_RECURRENT = "keeps state in layer {} .* that cannot be rolled back by position"
_TOKEN_SHIFT = "keeps recurrent state, which cannot be rolled back by position"

# Each with what the message must say.
REFUSED = (
    (_family("mamba", **_MAMBA), _RECURRENT.format(0)),
    (_family("mamba2", num_heads=8, expand=2, n_groups=1, state_size=8), _RECURRENT.format(0)),
    (_family("falcon_mamba"), _RECURRENT.format(0)),
    (_family("falcon_h1", **_MAMBA, mamba_d_ssm=64), _RECURRENT.format(0)),
    (_family("bamba", **_MAMBA, attn_layer_indices=[2]), _RECURRENT.format(0)),
    (_family("jamba"), _RECURRENT.format(0)),
    (_family("nemotron_h"), _RECURRENT.format(0)),
    (_family("recurrent_gemma"), _RECURRENT.format(0)),
    (_family("qwen3_next", _EXPERTS), _RECURRENT.format(0)),
    (_family("qwen3_5_text"), _RECURRENT.format(0)),
    (_family("kimi_linear", _EXPERTS, linear_head_dim=8, linear_num_heads=4, **_LATENT), _RECURRENT.format(0)),
    (_family("lfm2", layer_types=["conv", "full_attention"] * 3), _RECURRENT.format(0)),
    (_family("granitemoehybrid", {**_EXPERTS, **_MAMBA}, layer_types=["attention", "mamba"] * 3), _RECURRENT.format(1)),
    (_family("minimax", _EXPERTS), _RECURRENT.format(1)),
    (_family("deepseek_v32", _EXPERTS, **_LATENT), _RECURRENT.format(0)),
    (_family("rwkv", attention_hidden_size=32), _TOKEN_SHIFT),
    (_family("xlstm"), _TOKEN_SHIFT),
    (_family("bloom", _GPT), "its sublayers add the residual stream themselves"),
    (_family("mpt", _SPECIAL, d_model=32, n_layers=LAYERS, n_heads=4), "add the residual stream themselves"),
    (_family("llama4_text", _EXPERTS), "uses chunked attention, which this version cannot roll back exactly"),
    (
        _family("gemma4_text", num_kv_shared_layers=2, **_PER_LAYER_INPUT, **_ALTERNATING),
        "layer 4 keeps no keys and values of its own",
    ),
    (_family("longcat_flash", _EXPERTS, **_LATENT), "no list of 6 decoder layers, one for each layer of its cache"),
    (_family("openai-gpt", _GPT), "layer 0 has no attention module that keeps its own keys and values in the cache"),
    (_family("bert", _MHA, intermediate_size=48), "'a prefix does not see what follows it'"),
    (
        _family("t5", _SPECIAL, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=4, decoder_start_token_id=0),
        "is an encoder-decoder; only decoder-only language models are supported",
    ),
)
