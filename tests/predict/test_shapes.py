import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from conflayers.errors import InputError
from conflayers.predict.config import shape_of
from conflayers.predict.shapes import SHAPES, Shape, named_shape

ZOO = "tests/zoo"
TINY = {
    "vocab_size": 70, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


# As the models' cards have it.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6.738e9),
        ("llama-2-13b", 13.016e9),
        ("llama-2-70b", 68.977e9),
        ("llama-3-8b", 8.030e9),
        ("llama-3-70b", 70.554e9),
        ("llama-3-405b", 405.9e9),
        ("codellama-34b", 33.744e9),
        ("mistral-7b", 7.248e9),
        ("qwen2.5-7b", 7.616e9),
        ("qwen2.5-32b", 32.764e9),
        ("qwen2.5-72b", 72.706e9),
        ("qwen2.5-math-1.5b", 1.544e9),
        ("qwen3-8b", 8.191e9),
        ("smollm2-135m", 134.515e6),
        ("smollm2-1.7b", 1.711e9),
    ],
)
def test_shapes_have_the_known_numbers_of_parameters(name, parameters):
    assert SHAPES[name].parameters == pytest.approx(parameters, rel=0.0005)


def test_parts_by_hand():
    shape = Shape("small", 2, hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=3, vocab=10)
    # q 8x12, k and v 8x6, o 12x8; gate, up, down 8x16; a norm of 8 for each; embedding, head and the last norm.
    assert shape.attention_parameters == 96 + 2 * 48 + 96 + 8
    assert shape.mlp_parameters == 3 * 128 + 8
    assert shape.parameters == 2 * (296 + 392) + 80 + 80 + 8


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        # 2 x layers x KV heads x 128 x 2 bytes
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),
        ("llama-2-70b", 2 * 80 * 8 * 128 * 2),
        ("llama-3-405b", 516_096),
        ("qwen2.5-7b", 57_344),
    ],
)
def test_keys_and_values_are_those_of_the_grouped_heads(name, bytes_per_token):
    assert SHAPES[name].kv_bytes_per_token() == bytes_per_token
    assert SHAPES[name].kv_bytes_per_token(1) == bytes_per_token / 2


@pytest.mark.parametrize("model", ["dropout-16", "dropout-24", "control-16"])
def test_a_folder_gives_the_models_own_number_of_parameters(model, request):
    folder = request.config.rootpath / ZOO / model
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    shape = shape_of(str(folder))
    assert (shape.name, shape.parameters) == (model, built.num_parameters())


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**TINY),
        LlamaConfig(**TINY, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=10),
        LlamaConfig(**TINY | {"num_key_value_heads": None}),
        MistralConfig(**TINY),
        Qwen2Config(**TINY, tie_word_embeddings=True),
        Qwen3Config(**TINY, head_dim=8),
        Qwen3Config(**TINY, head_dim=8, attention_bias=True),
    ],
)
def test_every_family_is_counted_as_transformers_builds_it(config, tmp_path):
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    assert shape_of(str(tmp_path)).parameters == built.num_parameters()


def test_names_have_no_case_and_later_releases_of_a_shape():
    assert named_shape(" LLaMA-2-13B ").name == "llama-2-13b"
    assert shape_of("Llama-3.1-405B") is SHAPES["llama-3-405b"]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"'llama-3-7b'.*llama-3-70b"):
        shape_of("llama-3-7b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "cannot read"),
        ('{"model_type": "no-such"}', "cannot read"),
        (json.dumps({"model_type": "gpt2"}), "'gpt2'"),
        (json.dumps({"model_type": "mixtral"}), "'mixtral'"),
    ],
)
def test_a_configuration_that_says_no_shape_is_an_error(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        shape_of(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_an_error(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no way to the hub\nmore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(InputError, match=r"configuration of somebody/model: no way to the hub$"):
        shape_of("somebody/model")


def test_a_size_that_is_none_is_an_error():
    with pytest.raises(InputError, match="kv_heads"):
        Shape("none", 2, 8, 16, 4, 0, 2, 10)
