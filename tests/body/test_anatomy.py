"""What the probe finds in models whose structure is known."""

import pytest
import torch
from lossless.families import LAYERS, RARE, SUPPORTED, WINDOW, Family
from lossless.reference import PROMPT, assert_untouched, greedy
from torch import nn
from transformers import AutoModelForCausalLM, Phi3Config, PreTrainedModel

from conflayers import Llm
from conflayers.body.anatomy import examine, probe_tokens
from conflayers.errors import InputError, UnsupportedModelError
from conflayers.plan import Plan

FAMILIES: dict[str, Family] = {family.name: family for family in (*SUPPORTED, *RARE)}


def llama() -> PreTrainedModel:
    return FAMILIES["llama"].build()


def test_layers_attention_and_mlp_of_a_llama() -> None:
    model = llama()
    anatomy = examine(model)
    assert anatomy.name == "LlamaForCausalLM"
    assert (anatomy.hidden_size, anatomy.vocab_size, anatomy.context) == (32, 120, 256)
    assert anatomy.windows == (None,) * LAYERS
    assert len(anatomy.layers) == LAYERS
    for parts, layer in zip(anatomy.layers, model.model.layers, strict=True):
        assert parts.layer.module is layer
        assert parts.layer.returns == 0
        assert parts.attention.module is layer.self_attn
        assert parts.attention.returns == 2
        assert [part.module for part in parts.mlp] == [layer.mlp]
        assert parts.mlp[0].returns == 0


@pytest.mark.parametrize(
    ("family", "layers", "attention", "mlp"),
    [
        ("gpt2", "transformer.h", "attn", ["mlp"]),
        ("gpt_neox", "gpt_neox.layers", "attention", ["mlp"]),
        ("mixtral", "model.layers", "self_attn", ["mlp"]),
        ("gpt_oss", "model.layers", "self_attn", ["mlp"]),
        ("granitemoehybrid of attention only", "model.layers", "self_attn", ["block_sparse_moe", "shared_mlp"]),
        # Its second matrix is what puts out hidden states.
        ("opt", "model.decoder.layers", "self_attn", ["fc2"]),
        ("gemma4 with an input per layer", "model.layers", "self_attn", ["mlp", "per_layer_projection"]),
        # `get_decoder` of this one is its output head.
        ("modernbert-decoder", "model.layers", "attn", ["mlp"]),
        # The vision tower has as many layers.
        ("gemma3 with a vision tower", "model.language_model.layers", "self_attn", ["mlp"]),
    ],
)
def test_parts_by_what_they_do_and_not_by_name(family: str, layers: str, attention: str, mlp: list[str]) -> None:
    model = FAMILIES[family].build()
    blocks = model.get_submodule(layers)
    for parts, block in zip(examine(model).layers, blocks, strict=True):
        assert parts.layer.module is block
        assert parts.attention.module is getattr(block, attention)
        assert {part.module for part in parts.mlp} == {getattr(block, name) for name in mlp}


def test_windows_are_those_of_each_layer() -> None:
    assert examine(FAMILIES["gemma2"].build()).windows == (WINDOW, None) * (LAYERS // 2)
    assert examine(FAMILIES["mistral"].build()).windows == (WINDOW,) * LAYERS


def test_probe_tokens_have_no_special_meaning_and_are_the_same_every_time() -> None:
    model = llama()
    drawn = probe_tokens(model, 20)
    assert len(drawn) == 20
    assert drawn == probe_tokens(model, 20)
    # Checkpoints give one end token or a list of them.
    model.config.eos_token_id = drawn[:3]
    model.config.pad_token_id = drawn[4]
    assert not set(probe_tokens(model, 20)) & {*drawn[:3], drawn[4]}
    assert Llm(model).body.layers == LAYERS


class Broken(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("planted")


def test_a_model_that_does_not_run_is_refused_and_left_alone() -> None:
    model = llama()
    model.model.layers[3].mlp = Broken().eval()
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM does not run .*RuntimeError: planted"):
        examine(model)
    assert_untouched(model)


def test_a_layer_that_runs_twice_is_refused() -> None:
    model = llama()
    model.model.layers[3] = model.model.layers[2]
    with pytest.raises(UnsupportedModelError, match="does not run its 6 decoder layers once each, in order"):
        examine(model)
    assert_untouched(model)


class NoMatrices(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.tanh()


def test_a_layer_without_an_mlp_is_refused() -> None:
    model = llama()
    model.model.layers[3].mlp = NoMatrices().eval()
    with pytest.raises(UnsupportedModelError, match="layer 3 has no MLP module that puts out hidden states"):
        examine(model)


def test_text_that_outgrows_what_longrope_was_trained_for_is_out_of_reach() -> None:
    """Past that length every position is rotated by other factors, also those that are cached already."""
    trained = 32
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": trained,
    }
    base = FAMILIES["phi3"].config | {
        "sliding_window": None,
        "rope_parameters": rope,
        "original_max_position_embeddings": trained,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(Phi3Config(**base)).eval()
    llm = Llm(model)
    assert llm.body.context == trained
    room = trained - len(PROMPT)
    plan = Plan.layers([1, 3])
    text = llm.generate(
        PROMPT, method="fixed", plan=plan, max_new_tokens=room, confidence_stop=0.0, max_draft_tokens=4
    ).token_ids
    assert text == greedy(model, room)
    with pytest.raises(InputError, match=f"at most {room} fit"):
        llm.generate(PROMPT, max_new_tokens=room + 1)
