"""The compiled kernels as other processors get them: such as can do less than this one, or have tiles."""

import hashlib
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers import Llm
from conflayers.body import kernels, products
from conflayers.body.fast import FastBody
from conflayers.body.linears import Linear
from conflayers.body.views import INT4, INT8

EMULATED = Path(__file__).with_name("emulated_tiles.h")
# Its digest, since compiled libraries are kept.
VERSION = hashlib.sha256(EMULATED.read_bytes()).hexdigest()[:8]
TILES = f"-mamx-tile -mamx-bf16 -DTILE_INSTRUCTIONS='\"{EMULATED}\"' -DVERSION_{VERSION}"
# What the compiler is told, what the processor has to have, and whether there are whole passes then.
OTHERS = {
    "tiles": (TILES, "avx512_vnni", True),
    "no tiles": ("-mno-amx-tile", "avx2", True),
    "no products of whole numbers": ("-mno-avx512vnni", "avx2", True),
    "no vectors of 512 bits": ("-mno-avx512f", "avx2", True),
    "neither": ("-mno-avx512f -mno-avxvnni", "avx2", True),
    "no vectors of 256 bits": ("-mno-avx2", "avx2", False),
}
TEXT = [(11 * i + i * i) % 160 for i in range(400)]
SHAPES = [(16, 32), (80, 1536), (976, 576)]


def flags() -> list[str]:
    known = Path("/proc/cpuinfo")
    return known.read_text().split() if known.exists() else []


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether there are whole passes, and views of the kernels' own."""
    options, needed, passes = OTHERS[request.param]
    if platform.system() != "Linux" or needed not in flags():
        pytest.skip("this processor cannot do as that one does")
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    monkeypatch.setenv("CXX", f"{compiler} {options}")
    kernels.library.cache_clear()
    yield passes
    kernels.library.cache_clear()


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def kind(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def build(kind: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        initializer_range=0.1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().to(kind)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_there_is(other):
    matrix = torch.zeros(16, 32)
    assert (products.why_not(matrix) is None) == other
    assert (products.why_not_rounded(matrix) is None) == other
    body = FastBody(build(torch.bfloat16))
    assert (body._whole is not None) == other
    assert body.why_not_compiled is None


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact_and_rows_have_the_same_bits_in_any_company(other, kind, shape):
    if not other:
        pytest.skip("there are no products then")
    one = Linear(drawn(*shape, seed=1).to(kind), drawn(shape[0], seed=2).to(kind))
    ours, states = products.plain(one), drawn(32, shape[1]).to(kind)
    alone = torch.cat([ours(row) for row in states.split(1)])
    exact = functional.linear(states.double(), one.weight.double(), one.bias.double())
    torch.testing.assert_close(alone.double(), exact, rtol=2 * torch.finfo(kind).eps, atol=2e-5 * shape[1])
    for count in (2, 3, 4, 5, 7, 31, 32):
        assert torch.equal(torch.cat([ours(rows) for rows in states.split(count)]), alone)


@pytest.mark.parametrize(("view", "low", "high"), [(products.int8, -127, 127), (products.int4, 0, 15)])
def test_views_of_what_they_can_hold_lose_nothing(other, kind, view, low, high):
    if not other:
        pytest.skip("there are no products then")
    generator = torch.Generator().manual_seed(0)
    weight, states = (
        torch.randint(*some, generator=generator) for some in ((low, high + 1, (80, 96)), (-127, 128, (5, 96)))
    )
    # Of every group of inputs, so that one means one.
    weight[:, ::32], weight[:, 1::32], states[:, ::32], states[:, 1::32] = low, high, -127, 127
    one = Linear(weight.to(kind), None)
    exact = functional.linear(states.double(), weight.double())
    found = view(one)(states.to(kind)).double()
    torch.testing.assert_close(found, exact, rtol=2 * torch.finfo(kind).eps, atol=0)


def test_tokens_have_the_bits_that_they_have_alone(other, kind):
    body = FastBody(build(kind))
    body.reserve(len(TEXT))
    body.forward(TEXT[:300])
    alone = torch.cat([body.forward([token]).logits for token in TEXT[300:332]])
    with torch.no_grad():
        exact = build(kind).double()(torch.tensor([TEXT[:332]])).logits[0, 300:]
    assert (alone - exact).norm() / exact.norm() < (0.05 if kind == torch.bfloat16 else 1e-5)
    assert body.steady or not other
    for count in (2, 5, 17, 32) if body.steady else ():
        body.rollback(300)
        assert torch.equal(body.forward(TEXT[300 : 300 + count]).logits, alone[:count])


def test_texts_are_the_same(other, kind):
    llm = Llm(build(kind))
    plain = llm.generate(TEXT[:50], method="vanilla", max_new_tokens=60).token_ids
    methods = [("auto", {}), ("conflayers", {"fallback": False}), ("lookup", {})]
    methods += [("view", {"precision": one}) for one in (INT8, INT4) if one in llm.body.precisions]
    for method, options in methods:
        assert llm.generate(TEXT[:50], method=method, max_new_tokens=60, **options).token_ids == plain, method
