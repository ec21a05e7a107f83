import json

import torch
from transformers import MambaConfig, MambaForCausalLM

from conflayers import compare


def test_a_supported_model_passes(run, model):
    result = run("check", model)
    assert result.exit_code == 0
    assert "LlamaForCausalLM, 6 layers" in result.stdout
    assert "full in 6 layers" in result.stdout
    assert "greedy output in float32: identical to transformers' over 64 tokens" in result.stdout
    assert "greedy output in bfloat16: " in result.stdout


def test_json_has_structure_self_test_and_both_outcomes(run, model):
    document = json.loads(run("check", model, "--json").stdout)
    assert document["structure"]["class"] == "LlamaForCausalLM"
    assert document["structure"]["windows"] == [None] * 6
    assert all(difference < 1e-3 for difference in document["self_test"].values())
    assert document["float32"] == {"identical": True, "tokens": 64, "first_difference": None}
    assert "identical" in document["bfloat16"]


def test_other_precisions_on_request(run, model):
    assert "float16" in json.loads(run("check", model, "--dtype", "float16", "--json").stdout)
    only = json.loads(run("check", model, "--dtype", "float32", "--json").stdout)
    assert "float32" in only
    assert "bfloat16" not in only


def test_a_different_output_in_float32_fails_the_check(run, model, monkeypatch):
    exact = compare.transformers_greedy

    def altered(llm, ids, count):
        tokens = exact(llm, ids, count)
        if llm.model.dtype == torch.float32:
            tokens[5] += 1
        return tokens

    monkeypatch.setattr(compare, "transformers_greedy", altered)
    result = run("check", model)
    assert result.exit_code == 1
    assert "float32: differs from transformers' at new token 5, where the two largest logits are" in result.stdout


def test_an_unsupported_model_is_refused(run, tmp_path):
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    result = run("check", str(tmp_path))
    assert result.exit_code == 2
    assert "error: Mamba" in result.stderr


def test_verification_in_lower_precision_is_looked_at_bit_by_bit(run, model):
    found = json.loads(run("check", model, "--json").stdout)["bfloat16"]["verification"]
    assert found["rows"] == 16
    assert (found["differing"] == 0) == (found["first_difference"] is None) == (found["largest_gap"] == 0)
    assert (found["gap"] is None) == (found["differing"] == 0)
    if found["promised"]:
        assert found["differing"] == 0
    shown = run("check", model).stdout
    assert ("bit for bit decoding one by one" in shown) == (found["differing"] == 0)
