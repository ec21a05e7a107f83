"""Passes as one call of the compiled kernels, against the same operator by operator."""

import copy
import signal
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from conflayers import Llm
from conflayers.body import products
from conflayers.body.contract import Pass, one_by_one
from conflayers.body.fast import FastBody
from conflayers.body.handover import adopt, check_cache
from conflayers.errors import InputError
from conflayers.plan import FULL, Plan

LAYERS, VOCABULARY = 4, 160
TEXT = [(7 * i + i * i) % VOCABULARY for i in range(700)]
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 144 + 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
# Tied and not, biases, norms of heads, layers without rotation, all widths of heads, groups of one and of many.
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "wide heads": (LlamaForCausalLM, LlamaConfig, {"head_dim": 128, "num_key_value_heads": 6}),
    "heads of 96": (LlamaForCausalLM, LlamaConfig, {"head_dim": 96, "num_key_value_heads": 3}),
    "one for all": (LlamaForCausalLM, LlamaConfig, {"head_dim": 32, "num_key_value_heads": 1}),
    "biased": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config, {"no_rope_layer_interval": 2}),
}
# Of the logits' norm: operators round in other places.
CLOSE = 0.05
KINDS = (torch.bfloat16, torch.float32)


def build(name: str, kind: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    torch.manual_seed(0)
    family, config, special = MODELS[name]
    model = family(config(**(BASE | special)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().to(kind)


@pytest.fixture(autouse=True)
def _there_are_some_here() -> None:
    if why := products.why_not(torch.zeros(16, 32)):
        pytest.skip(why)


@pytest.fixture(params=[(name, kind) for name in MODELS for kind in KINDS], ids=lambda one: f"{one[0]}, {one[1]}")
def both(request: pytest.FixtureRequest) -> Iterator[tuple[FastBody, FastBody]]:
    """The same model with whole passes and operator by operator."""
    whole, parts = (FastBody(copy.deepcopy(build(*request.param))) for _ in range(2))
    assert whole._whole is not None
    parts._whole = None
    for body in (whole, parts):
        body.trees = True
        body.reserve(len(TEXT) + 64)
    yield whole, parts
    assert whole._whole is not None


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def begin(body: FastBody, length: int) -> None:
    body.rollback(0)
    if length:
        body.forward(TEXT[:length], rows=1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_pass_names_the_likeliest_token_of_every_row(both, threads):
    whole, parts = both
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count, rows in ((1, 1), (5, 5), (32, 7)):
            begin(whole, 31)
            found = whole.forward(TEXT[31 : 31 + count], rows=rows)
            assert found.best is not None
            tokens, probabilities = zip(*found.best, strict=True)
            # The first of the highest: in bfloat16 there are often several.
            assert list(tokens) == found.logits.float().argmax(-1).tolist()
            expected = found.logits.double().softmax(-1).amax(-1)
            assert torch.allclose(torch.tensor(probabilities, dtype=torch.float64), expected, rtol=1e-4)
        begin(whole, 0)
        assert whole.forward(TEXT[:60], rows=3).best == whole_rows(whole, TEXT[:60], 3)
    finally:
        torch.set_num_threads(before)
    begin(parts, 31)
    assert parts.forward(TEXT[31:33]).best is None


def whole_rows(body: FastBody, text: list[int], rows: int) -> list[tuple[int, float]]:
    """What one pass after the other names after each of the last tokens of a text."""
    begin(body, len(text) - rows)
    return [row for token in text[-rows:] for row in body.forward([token]).best or ()]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_no_token_is_named_where_a_logit_is_no_number(wrong):
    for row in (0, VOCABULARY - 1):
        model = build("qwen2")
        with torch.no_grad():
            model.lm_head.weight[row, 0] = wrong
        body = FastBody(model)
        body.reserve(64)
        assert body.forward(TEXT[:3]).best is None


@pytest.mark.parametrize("length", [0, 1, 31, 100, 600])
def test_passes_are_those_of_the_operators(both, length):
    for count in (1, 2, 17, 32):
        found = []
        for body in both:
            begin(body, length)
            found.append(body.forward(TEXT[length : length + count], record=2))
            assert body.length == length + count
        assert off(found[0].logits, found[1].logits) < CLOSE
        kept = min(count, 2)
        for ours, theirs in zip(
            (found[0].trace.attention, found[0].trace.mlp), (found[1].trace.attention, found[1].trace.mlp), strict=True
        ):
            assert len(ours) == LAYERS
            for one, other in zip(ours, theirs, strict=True):
                assert one.shape == (kept, BASE["hidden_size"])
                assert off(one, other) < CLOSE
        for ours, theirs in zip(*(body.cache.layers for body in both), strict=True):
            assert off(ours.keys[:, :, : length + count], theirs.keys[:, :, : length + count]) < CLOSE
            assert off(ours.values[:, :, : length + count], theirs.values[:, :, : length + count]) < CLOSE


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("plan", [FULL, Plan.layers([1, 2])], ids=["whole", "draft"])
def test_a_chain_is_one_pass_after_the_other(both, plan, tokens):
    body = both[0]
    names, most = [31, 7, None, 5], 6

    def drafted(run) -> tuple[list[torch.Tensor], list[tuple[int, float]], list[torch.Tensor]]:
        begin(body, 20)
        logits, best, left = [], [], iter(names)

        def following(step: Pass) -> int | None:
            logits.append(step.logits.clone())
            best.append(step.best[0])
            return next(left)

        with body.running(plan):
            run(TEXT[20 : 20 + tokens], most, following)
        assert body.length == 20 + tokens + 2
        return logits, best, [layer.keys[:, :, : body.length].clone() for layer in body.cache.layers]

    ours, slow = drafted(body.chain), drafted(partial(one_by_one, body.forward))
    assert len(ours[0]) == 3
    assert ours[1] == slow[1]
    for one, other in zip((*ours[0], *ours[2]), (*slow[0], *slow[2]), strict=True):
        assert torch.equal(one, other)


def test_a_chain_ends_at_the_most_passes(both):
    body = both[0]
    begin(body, 20)
    body.chain(TEXT[20:22], 4, lambda step: 9)
    assert body.length == 20 + 2 + 3


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt()])
def test_what_is_raised_between_the_passes_of_a_chain_is_heard(both, error):
    body = both[0]
    begin(body, 20)

    def following(step: Pass) -> int | None:
        raise error

    with pytest.raises(type(error)):
        body.chain(TEXT[20:21], 4, following)
    assert body.length == 20
    with pytest.raises(IndexError, match=str(VOCABULARY)):
        body.chain(TEXT[20:21], 4, lambda step: VOCABULARY)
    with pytest.raises(IndexError, match="cache"):
        body.chain(TEXT[20:21], 10_000, lambda step: 1)


def test_an_interrupt_inside_a_chain_is_heard(both):
    body, heard = both[0], 0

    class InterruptError(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        for attempt in range(30):
            begin(body, 20)
            signal.setitimer(signal.ITIMER_REAL, 0.004 + 0.0001 * attempt)
            try:
                while True:
                    body.chain([5], 600, lambda step: 7)
                    body.rollback(20)
            except InterruptError:
                heard += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard == 30


@pytest.mark.parametrize("count", [33, 64, 100, 129, 400])
@pytest.mark.parametrize("length", [0, 20])
def test_a_text_in_pieces(both, length, count):
    text = TEXT[length : length + count]
    for rows, record in ((1, 0), (40, 3), (None, 40), (2, count)):
        found = []
        for body in both:
            begin(body, length)
            found.append(body.forward(text, rows=rows, record=record))
            assert body.length == length + count
        assert found[0].logits.shape == found[1].logits.shape
        assert off(found[0].logits, found[1].logits) < CLOSE
        if record:
            assert found[0].trace.tokens == found[1].trace.tokens == min(record, count)
            for ours, theirs in zip(found[0].trace.attention, found[1].trace.attention, strict=True):
                assert off(ours, theirs) < CLOSE
            for ours, theirs in zip(found[0].trace.mlp, found[1].trace.mlp, strict=True):
                assert off(ours, theirs) < CLOSE
        else:
            assert found[0].trace is None


def test_a_text_in_pieces_has_the_bits_that_it_has_one_by_one(both):
    body = both[0]
    begin(body, 3)
    alone = torch.cat([body.forward([token]).logits for token in TEXT[3:63]])
    body.rollback(3)
    assert torch.equal(body.forward(TEXT[3:63]).logits, alone)
    body.release()
    body.reserve(64)
    with pytest.raises(IndexError):
        body.forward(TEXT[:100])
    assert body.length == 0


def test_every_token_has_the_bits_that_it_has_alone(both):
    body = both[0]
    assert body.steady
    for length in (1, 40, 130, 600):
        begin(body, length)
        alone = torch.cat([body.forward([token]).logits for token in TEXT[length : length + 32]])
        for count in (2, 3, 11, 16, 17, 32):
            body.rollback(length)
            assert torch.equal(body.forward(TEXT[length : length + count]).logits, alone[:count])
            body.rollback(length)
            assert torch.equal(body.forward(TEXT[length : length + count], rows=1).logits, alone[count - 1 : count])


def test_the_number_of_threads_changes_no_bit(both):
    body, found = both[0], []
    before = torch.get_num_threads()
    begin(body, 50)
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for count in (1, 6):
                found.append(body.forward(TEXT[50 : 50 + count]).logits[0])
                body.rollback(50)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("precision", ["whole", "int8", "int4"])
def test_what_a_plan_leaves_out_is_left_out(both, precision):
    plans = (
        FULL,
        Plan.layers([1]),
        Plan(attention=frozenset({0, 2}), mlp=frozenset({2, 3})),
        Plan.layers(range(LAYERS)),
    )
    for plan in (one.at(precision) for one in plans):
        found = []
        for body in both:
            begin(body, 40)
            with body.running(plan):
                body.forward(TEXT[40:43])
                found.append(body.forward(TEXT[43:44]).logits)
            # A draft's rows are overwritten.
            body.rollback(40)
            found.append(body.forward(TEXT[40:44]).logits)
        # Views round what goes into each product, wherever whole passes and operators differ.
        assert off(found[0], found[2]) < (CLOSE if precision == "whole" else 3 * CLOSE)
        assert off(found[1], found[3]) < CLOSE


def test_a_view_is_close_to_the_whole(both):
    body = both[0]
    for precision, most in (("int8", 0.1), ("int4", 0.6)):
        begin(body, 40)
        exact = body.forward(TEXT[40:44]).logits
        body.rollback(40)
        with body.running(FULL.at(precision)):
            assert 0 < off(body.forward(TEXT[40:44]).logits, exact) < most


@pytest.mark.parametrize("length", [3, 60, 400])
def test_the_chain_of_a_tree_has_the_bits_of_the_chain_alone(both, length):
    body = both[0]
    begin(body, length)
    alone = torch.cat([body.forward([token]).logits for token in TEXT[length : length + 5]])
    body.rollback(length)
    tree = body.forward([*TEXT[length : length + 5], 9, 8], parents=[-1, 0, 1, 2, 3, 0, 2])
    assert torch.equal(tree.logits[:5], alone)
    body.rollback(length)
    body.forward(TEXT[length : length + 1])
    sibling = body.forward([9]).logits
    # Which stands behind tokens that it does not see, and so is summed in another order.
    assert off(tree.logits[5:6], sibling) < torch.finfo(body.model.dtype).eps * 8


def test_a_path_of_a_tree_is_kept(both):
    for body in both:
        begin(body, 20)
        body.forward([5, 6, 7, 8], parents=[-1, 0, 0, 2])
        body.keep(20, [0, 2, 3])
    ours, theirs = (body.forward([9]).logits for body in both)
    assert off(ours, theirs) < CLOSE
    body = both[0]
    begin(body, 20)
    for token in (5, 7, 8):
        body.forward([token])
    # A sibling stands behind tokens that it does not see, and so is summed in another order.
    assert off(body.forward([9]).logits, ours) < CLOSE


def test_the_last_tokens_once_more(both):
    found = []
    for body in both:
        begin(body, 40)
        found.append(body.replay(TEXT[35:40]).logits)
        assert body.length == 40
    assert off(*found) < CLOSE


def test_what_lies_behind_the_text_is_not_read(both):
    body = both[0]
    begin(body, 37)
    clean = body.forward(TEXT[37:40]).logits
    body.rollback(37)
    for layer in body.cache.layers:
        layer.keys[:, :, 37:] = float("nan")
        layer.values[:, :, 37:] = float("nan")
    assert torch.equal(body.forward(TEXT[37:40]).logits, clean)


def test_a_cache_of_another_precision_is_taken_over(both):
    whole, parts = both
    theirs, other = DynamicCache(config=whole.model.config), {torch.float32: torch.bfloat16}
    with torch.no_grad():
        whole.model(torch.tensor([TEXT[:20]]), past_key_values=theirs)
    for layer in theirs.layers:
        kind = other.get(layer.keys.dtype, torch.float32)
        layer.keys, layer.values = layer.keys.to(kind), layer.values.to(kind)
    found = []
    for body in (whole, parts):
        body.release()
        body.reserve(64)
        adopt(body, theirs)
        try:
            found.append(body.forward(TEXT[20:21]).logits)
        except RuntimeError as error:
            found.append(str(error))
    assert torch.equal(found[0], found[1]) if isinstance(found[0], torch.Tensor) else found[0] == found[1]


def test_weights_that_change_are_seen(both):
    for body in both:
        with torch.no_grad():
            body.model.model.layers[1].mlp.down_proj.weight.mul_(-2)
            body.model.model.layers[2].self_attn.q_proj.weight = torch.nn.Parameter(
                body.model.model.layers[2].self_attn.q_proj.weight * 2
            )
        body.reserve(64)
    both[1]._whole = None
    found = [body.forward(TEXT[:9]).logits for body in both]
    assert off(*found) < CLOSE


def test_a_copy_goes_on_by_itself(both):
    body = both[0]
    begin(body, 10)
    expected = body.forward(TEXT[10:12]).logits
    other = copy.deepcopy(body)
    for one in (other, body):
        one.reserve(64)
        one.forward(TEXT[:10])
        assert torch.equal(one.forward(TEXT[10:12]).logits, expected)
    assert other._whole is not None
    assert other.model.model.embed_tokens.weight.data_ptr() != body.model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    "special", [{"vocab_size": 161}, {"head_dim": 16}, {"hidden_size": 84}, {"intermediate_size": 48}]
)
def test_other_shapes_are_run_operator_by_operator(special):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(BASE | special))).eval().bfloat16()
    llm = Llm(model)
    assert llm.body._whole is None
    plain, drafted = (
        llm.generate(TEXT[:20], method=method, max_new_tokens=24).token_ids for method in ("vanilla", "auto")
    )
    assert plain == drafted


@pytest.mark.parametrize("width", [320, 16384])
def test_layers_of_another_width_are_run_operator_by_operator(width):
    model = build("llama")
    mlp, torch_linear = model.model.layers[2].mlp, torch.nn.Linear
    hidden = BASE["hidden_size"]
    mlp.gate_proj, mlp.up_proj = (torch_linear(hidden, width, bias=False).bfloat16() for _ in range(2))
    mlp.down_proj = torch_linear(width, hidden, bias=False).bfloat16()
    body = FastBody(model)
    assert body._whole is None
    body.reserve(16)
    with torch.no_grad():
        exact = copy.deepcopy(model).float()(torch.tensor([TEXT[:9]])).logits[0]
    assert off(body.forward(TEXT[:9]).logits, exact) < CLOSE


@pytest.mark.parametrize("special", [{"num_key_value_heads": 1}, {"num_key_value_heads": 6}, {"head_dim": 32}])
def test_a_cache_of_a_model_of_another_shape_is_refused(special):
    llm = Llm(build("llama"))
    other = LlamaForCausalLM(LlamaConfig(**(BASE | special))).eval().bfloat16()
    cache = DynamicCache(config=other.config)
    with torch.no_grad():
        other(torch.tensor([TEXT[:20]]), past_key_values=cache)
    with pytest.raises(InputError, match="made for another model"):
        check_cache(llm.body, cache)


def test_a_matrix_that_lies_column_by_column_is_torchs():
    model = build("qwen2")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().t().contiguous().t())
    body = Llm(model).body
    assert body._whole is None
    other = FastBody(build("qwen2"))
    for one in (body, other):
        one.reserve(32)
    assert off(*(one.forward(TEXT[:9]).logits for one in (body, other))) < CLOSE


def test_rows_that_are_asked_for_and_tokens_that_there_are_not(both):
    for body in both:
        assert len(body.forward(TEXT[:5], rows=0).logits) == 5
        assert len(body.forward(TEXT[:5], rows=9).logits) == 5
        assert len(body.forward(TEXT[:5], rows=2).logits) == 2
        for token in (-1, VOCABULARY):
            with pytest.raises(IndexError):
                body.forward([3, token])
        assert body.length == 15


def test_texts_by_every_source_are_the_same():
    llm = Llm(build("llama"))
    plain = llm.generate(TEXT[:50], method="vanilla", max_new_tokens=80).token_ids
    for method, options in (
        ("auto", {}),
        ("conflayers", {"fallback": False}),
        ("view", {"precision": "int4"}),
        ("view", {"precision": "int8"}),
    ):
        found = llm.generate(TEXT[:50], method=method, max_new_tokens=80, **options).token_ids
        assert found == plain, method
