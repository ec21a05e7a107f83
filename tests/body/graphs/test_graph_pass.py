"""Passes as one graph of an accelerator's kernels, against torch's operators.

On a CUDA device they run there; else only under Triton's interpreter, which has no bfloat16 and takes its time:
`TRITON_INTERPRET=1 CONFLAYERS_INTERPRETER=1`, as `tests/body/test_graphs.py` sets them.
"""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from conflayers import Llm
from conflayers.body.fast import FastBody
from conflayers.body.graphs import launches, products
from conflayers.body.graphs.graph_pass import CAPACITY, LARGE, GraphPass
from conflayers.body.linears import Linear
from conflayers.body.operators import rms_norm
from conflayers.plan import FULL, Plan

INTERPRETED = launches.interpreted()
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("neither a CUDA device nor Triton's interpreter", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
KINDS = (torch.float16,) if INTERPRETED else (torch.float16, torch.bfloat16)
# How far what a product or a pass puts out may be off, by its norm.
PRODUCT_OFF = {torch.float16: 1e-3, torch.bfloat16: 5e-3}
PASS_OFF = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
VIEW_OFF = {"int8": 0.02, "int4": 0.16}
VOCABULARY = 64
TEXT = [(7 * i + i * i) % VOCABULARY for i in range(600)]
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 24, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "wide": (LlamaForCausalLM, LlamaConfig, {"head_dim": 96, "hidden_size": 96, "num_key_value_heads": 1}),
}


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def drawn(*shape: int, kind: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, kind)


def build(name: str, kind: torch.dtype) -> PreTrainedModel:
    kind_of_model, config, options = MODELS[name]
    torch.manual_seed(0)
    return kind_of_model(config(**{**BASE, **options})).to(DEVICE, kind).eval()


# By name and kind: under the interpreter it takes a minute to have one.
_BODIES: dict[tuple[str, torch.dtype], FastBody] = {}


@pytest.fixture(params=[(name, kind) for name in (["llama"] if INTERPRETED else MODELS) for kind in KINDS])
def body(request: pytest.FixtureRequest) -> Iterator[FastBody]:
    if request.param not in _BODIES:
        _BODIES[request.param] = FastBody(build(*request.param))
    found = _BODIES[request.param]
    assert isinstance(found._whole, GraphPass)
    found.trees = True
    found.reserve(200)
    yield found
    found.put_back()


def by_torch(body: FastBody, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = body.model(input_ids=torch.tensor([tokens], device=DEVICE), use_cache=False).logits[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("outs", "ins"), [(64, 128), (48, 192), (40, 72), (128, 256)])
def test_products_are_torchs(outs: int, ins: int, gated: bool, kind: torch.dtype) -> None:
    linear = Linear(drawn(outs, ins, kind=kind), drawn(outs, kind=kind, seed=1))
    states = drawn(launches.ROWS, ins, kind=kind, seed=2)
    wanted = functional.linear(states.float(), linear.weight.float(), linear.bias.float())
    if gated:
        gate, up = wanted.chunk(2, -1)
        wanted = functional.silu(gate) * up
    given = torch.tensor([21], dtype=torch.int32, device=DEVICE)
    for name, make in {"whole": products.plain, **products.VIEWS}.items():
        if name != "whole" and products.why_not_rounded(linear.weight):
            continue
        out = torch.full_like(wanted, -7.0, dtype=kind)
        launches.multiply(given, make(linear), states, out, 21, gated)
        most = PRODUCT_OFF[kind] if name == "whole" else VIEW_OFF[name]
        assert off(out[:21], wanted[:21]) < most
        # Rows that nobody asked for are nobody's.
        assert bool((out[21:] == -7).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_in_parts_comes_to_the_whole_by_the_norm_behind_it(kind: torch.dtype) -> None:
    rows, given = launches.ROWS, torch.tensor([5], dtype=torch.int32, device=DEVICE)
    linear = Linear(drawn(64, 512, kind=kind), drawn(64, kind=kind, seed=1))
    inputs, states, norm = drawn(rows, 512, kind=kind, seed=2), drawn(rows, 64, kind=kind), drawn(64, kind=kind, seed=3)
    matrix = products.plain(linear)
    assert launches.parts(matrix) == 2
    parts = torch.zeros(2, rows, 64, device=DEVICE)
    launches.multiply(given, matrix, inputs, parts, 5)
    wanted = functional.linear(inputs.float(), linear.weight.float(), linear.bias.float())
    assert off(parts.sum(0)[:5], wanted[:5]) < PRODUCT_OFF[kind]
    added, out, before = torch.zeros_like(states), torch.zeros_like(states), states.clone()
    launches.norm(given, states, parts, added, rms_norm(norm, 1e-5), out, 5)
    assert off(added[:5], wanted[:5]) < PRODUCT_OFF[kind]
    assert torch.equal(states[:5], before[:5] + added[:5])
    assert torch.equal(states[5:], before[5:])
    assert off(out[:5], functional.rms_norm(states[:5].float(), (64,), norm.float(), 1e-5)) < PRODUCT_OFF[kind]


def test_a_pass_is_torchs(body: FastBody) -> None:
    logits = body.forward(TEXT[:36]).logits
    assert off(logits, by_torch(body, TEXT[:36])) < PASS_OFF[body.model.dtype]
    assert body.length == 36


def test_rows_have_the_same_bits_in_any_company(body: FastBody) -> None:
    assert body.steady
    body.forward(TEXT[:30])
    alone = torch.cat([body.forward(TEXT[i : i + 1]).logits for i in range(30, 40)])
    body.rollback(30)
    assert torch.equal(body.forward(TEXT[30:40]).logits, alone)


def test_a_path_of_a_tree_has_the_bits_of_a_text(body: FastBody) -> None:
    body.forward(TEXT[:20])
    #  0 -> 1 -> 3, and 0 -> 2 beside.
    tree = body.forward([5, 6, 7, 8], parents=[-1, 0, 0, 1]).logits
    for path, tokens in (((0, 1, 3), [5, 6, 8]), ((0, 2), [5, 7])):
        body.rollback(20)
        assert torch.equal(tree[list(path)], body.forward(tokens).logits)
    body.rollback(20)
    body.forward([5, 6, 7, 8], parents=[-1, 0, 0, 1])
    body.keep(20, [0, 1, 3])
    behind = body.forward([9]).logits
    body.rollback(20)
    assert torch.equal(body.forward([5, 6, 8, 9]).logits[-1:], behind)


def test_a_replay_says_what_each_token_said(body: FastBody) -> None:
    said = body.forward(TEXT[:24]).logits
    assert torch.equal(body.replay(TEXT[16:24]).logits, said[16:24])
    assert body.length == 24


def test_plans_leave_sublayers_out_and_traces_have_the_others(body: FastBody) -> None:
    assert body._weights is not None
    body.forward(TEXT[:10])
    plan = Plan(attention=frozenset({1}), mlp=frozenset({0}))
    found = body.forward(TEXT[10:12], record=2)
    assert found.trace is not None
    assert (len(found.trace.attention), len(found.trace.mlp), found.trace.tokens) == (3, 3, 2)
    body.rollback(10)
    with body.running(plan):
        short = body.forward(TEXT[10:11], record=1)
    assert short.trace is not None
    assert (len(short.trace.attention), len(short.trace.mlp)) == (2, 2)
    # By torch's operators from the same cache.
    whole, body._whole = body._whole, None
    try:
        body.rollback(10)
        with body.running(plan):
            wanted = body.forward(TEXT[10:11], record=1)
    finally:
        body._whole = whole
    assert wanted.trace is not None
    assert off(short.logits, wanted.logits) < PASS_OFF[body.model.dtype]
    for one, other in zip(short.trace.mlp, wanted.trace.mlp, strict=True):
        assert off(one, other) < PASS_OFF[body.model.dtype]


def test_what_a_pass_returns_is_the_callers_own(body: FastBody) -> None:
    first = body.forward(TEXT[:3], record=1)
    assert first.trace is not None
    kept = first.logits.clone(), first.trace.attention[0].clone()
    body.forward(TEXT[3:9], record=1)
    assert torch.equal(first.logits, kept[0])
    assert torch.equal(first.trace.attention[0], kept[1])


def test_drafts_of_lower_precision_are_close(body: FastBody) -> None:
    if body.precisions != ("int8", "int4"):
        assert all(body.why_not_precise().values())
        return
    whole = body.forward(TEXT[:1]).logits
    for precision, most in VIEW_OFF.items():
        body.rollback(0)
        with body.running(FULL.at(precision)):
            # Every product adds its own; what has nothing to do with the whole is off by 1 or more.
            assert off(body.forward(TEXT[:1]).logits, whole) < min(8 * most, 0.7)


def test_a_cache_that_grows_is_another_one(body: FastBody) -> None:
    said = body.forward(TEXT[:8]).logits
    before = body.cache
    step = before.capacity
    assert step == (CAPACITY if INTERPRETED else LARGE)
    body.reserve(step)
    assert body.cache is before
    body.reserve(step + 1)
    assert body.cache is not before
    assert torch.equal(body.forward(TEXT[:8]).logits, said)
    body.release()


def test_what_was_made_in_inference_mode_is_used_outside(body: FastBody) -> None:
    body.forward(TEXT[:3])
    body.release()
    with torch.inference_mode():
        body._whole._buffers = None
        body.reserve(50)
        said = body.forward(TEXT[:4]).logits.clone()
    body.reserve(50)
    assert torch.equal(body.forward(TEXT[:4]).logits, said)
    # Rows are moved, which torch refuses with what inference mode has made.
    body.forward([5, 6, 7], parents=[-1, -1, -1])
    body.keep(4, [2])


def test_tokens_the_model_lacks_are_refused(body: FastBody) -> None:
    with pytest.raises(IndexError, match="one is 64"):
        body.forward([VOCABULARY])
    assert body.length == 0


@pytest.mark.parametrize("method", ["conflayers", "auto", "lookup"])
def test_texts_are_those_of_plain_decoding(method: str) -> None:
    if INTERPRETED:
        pytest.skip("takes minutes")
    for name in MODELS:
        llm = Llm(build(name, torch.bfloat16))
        wanted = llm.generate(TEXT[:9], method="vanilla", max_new_tokens=80).token_ids
        task = llm.task(method)
        for _ in range(3):
            assert llm.generate(TEXT[:9], task=task, max_new_tokens=80).token_ids == wanted


def test_contexts_of_many_chunks_are_torchs() -> None:
    if INTERPRETED:
        pytest.skip("takes minutes")
    body = FastBody(build("llama", torch.bfloat16))
    body.reserve(600)
    body.forward(TEXT[:500], rows=1)
    alone = torch.cat([body.forward([token]).logits for token in TEXT[500:530]])
    assert off(alone, by_torch(body, TEXT[:530])[500:]) < PASS_OFF[torch.bfloat16]
    body.rollback(500)
    assert torch.equal(body.forward(TEXT[500:530]).logits, alone)
