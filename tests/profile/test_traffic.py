from pathlib import Path

import pytest
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import conflayers
from conflayers.body.portable import PortableBody
from conflayers.profile.traffic import Traffic, traffic

ZOO = Path(__file__).parents[1] / "zoo"
FLOAT = 4
SMALL = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
}  # fmt: skip
# Queries and output, keys and values: of one layer of SMALL.
ATTENTION = 2 * 16 * 16 + 2 * 16 * 8
HEAD = 50 * 16


def after(model: PreTrainedModel, tokens: int) -> Traffic:
    body = PortableBody(model.eval())
    body.reserve(tokens + 1)
    body.forward(list(range(tokens)), rows=1)
    return traffic(body)


@pytest.mark.parametrize("kind", ["fast", "portable"])
def test_a_zoo_model_by_hand(kind):
    llm = conflayers.load(ZOO / "dropout-16", dtype="float32", body=kind)
    llm.body.reserve(101)
    llm.body.forward(list(range(100)), rows=1)
    # 128 wide, MLP 256, 4 heads and 2 of keys and values of 32, 2,048 tokens; the head is the embedding.
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256
    found = traffic(llm.body)
    assert found == Traffic(
        matrices=(16 * layer + 2048 * 128) * FLOAT,
        norms=(2 * 16 + 1) * 128 * FLOAT,
        embedding=0,
        cache=101 * 16 * 2 * 2 * 32 * FLOAT,
    )
    assert found.total == found.as_dict()["total"] == 11_330_048


def test_of_an_embedding_of_its_own_one_row_is_read_and_biases_go_with_their_products():
    plain = after(LlamaForCausalLM(LlamaConfig(**SMALL)), 5)
    biased = after(LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)), 5)
    assert plain.embedding == 16 * FLOAT
    assert plain.matrices == (2 * (ATTENTION + 3 * 16 * 24) + HEAD) * FLOAT
    assert biased.matrices - plain.matrices == 2 * (16 + 8 + 8 + 16) * FLOAT
    assert biased.norms == plain.norms == 5 * 16 * FLOAT


def test_half_the_precision_is_half_the_bytes():
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    whole = after(model, 5).total
    assert after(model.bfloat16(), 5).total * 2 == whole


def test_a_sliding_window_reads_no_more_than_it_sees():
    model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8))
    row = 2 * 2 * 2 * 4 * FLOAT
    assert [after(model, tokens).cache for tokens in (3, 7, 20)] == [4 * row, 8 * row, 8 * row]


def test_of_stacked_experts_those_that_are_asked_are_read():
    config = MixtralConfig(**SMALL, num_local_experts=8, num_experts_per_tok=2, sliding_window=None)
    found = after(MixtralForCausalLM(config), 5)
    router, expert = 8 * 16, 3 * 16 * 24
    assert found.matrices == (2 * (ATTENTION + router + 2 * expert) + HEAD) * FLOAT
