"""Lower precision for drafts, other layouts for the target: what they change and what they do not."""

import copy

import pytest
import torch
from planted import planted_model
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers import InputError, Llm, Plan, PlanError
from conflayers.body.choose import choose_body
from conflayers.body.fast import FastBody
from conflayers.body.linears import Linear
from conflayers.body.portable import PortableBody
from conflayers.body.steady import Doubled, attention_steady, same, steady
from conflayers.body.views import pack, view, why_not_view
from conflayers.plan import FULL, LOOKUP

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
# Of drafts on a model with weights that mean nothing.
LEAST = {"int8": 0.5, "int4": 0.1}
ERROR = {"int8": 0.01, "int4": 0.15}


def matrix(out: int = 96, width: int = 64, dtype: torch.dtype = torch.float32) -> Linear:
    torch.manual_seed(0)
    return Linear(torch.randn(out, width).to(dtype), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ERROR)
def test_a_view_puts_out_nearly_what_its_matrix_does_and_leaves_it_alone(precision, dtype):
    linear = matrix(dtype=dtype)
    before = linear.weight.clone()
    made = view(linear, precision)
    states = torch.randn(3, 64).to(dtype)

    found, wanted = made(states), linear(states)

    assert found.dtype == dtype
    assert float((found - wanted).float().norm() / wanted.float().norm()) < ERROR[precision]
    assert torch.equal(linear.weight, before)
    assert made.bytes < before.numel() * (1.2 if precision == "int8" else 0.8)


@pytest.mark.parametrize("precision", ERROR)
def test_a_bias_is_added(precision):
    bias = torch.randn(96)
    plain, biased = (view(Linear(matrix().weight, b), precision) for b in (None, bias))
    states = torch.randn(2, 64)

    torch.testing.assert_close(biased(states), plain(states) + bias)


def test_weights_that_are_all_the_same_or_zero_have_views():
    for value in (0.0, 3.0):
        linear = Linear(torch.full((16, 32), value), None)
        for precision in ERROR:
            assert torch.isfinite(view(linear, precision)(torch.ones(1, 32))).all()


def test_a_shape_that_int4_does_not_take_is_told():
    assert why_not_view(matrix(), "int4") is None
    assert "groups of 32" in str(why_not_view(matrix(width=48), "int4"))
    assert why_not_view(matrix(width=48), "int8") is None


def test_packed_is_plain_to_the_bit():
    linear = matrix(dtype=torch.bfloat16)
    states = torch.randn(5, 64).bfloat16()

    assert torch.equal(pack(linear)(states), functional.linear(states, linear.weight))


def test_a_product_is_steady_by_itself_or_doubled_or_not_at_all():
    class Odd:
        """Rows differ by their company: one alone, or all."""

        def __init__(self, alone: bool) -> None:
            self.alone = alone

        def __call__(self, states: torch.Tensor) -> torch.Tensor:
            odd = len(states) == 1 if self.alone else len(states) % 2
            return states + 1 if odd else states

    def known(product):
        return steady(product, 128, torch.float32, torch.device("cpu"))

    assert known(lambda states: states) is same
    assert known(Odd(alone=True)) is Doubled
    assert known(Odd(alone=False)) is None
    narrow = torch.randn(8, 8)
    assert steady(lambda states: states @ narrow, 8, torch.float32, torch.device("cpu")) is None
    row = torch.randn(1, 128)
    assert torch.equal(Doubled(Odd(alone=True))(row), row)


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model([2, 4, 7]))


@pytest.mark.parametrize("precision", ERROR)
def test_drafts_in_lower_precision_never_change_a_word(llm, precision):
    plain = llm.generate(PROMPT, method="vanilla", max_new_tokens=80).token_ids
    result = llm.generate(PROMPT, method="view", precision=precision, draft_length=4, max_new_tokens=80)

    assert result.token_ids == plain
    assert result.stats.draft_acceptance_rate > LEAST[precision]
    assert result.plan == Plan(precision=precision)
    skipping = Plan.layers([2, 4]).at(precision)
    skipped = llm.generate(PROMPT, method="fixed", plan=skipping, draft_length=4, max_new_tokens=80)
    assert skipped.token_ids == plain
    assert skipped.stats.skip_ratio == pytest.approx(skipping.skip_ratio(12))
    assert skipped.stats.num_accepted_draft_tokens > 0


def test_the_memory_of_views_is_told_and_shared_by_all_plans():
    body = FastBody(planted_model([2]))
    assert body.extra_bytes == 0
    body.prepare(FULL.at("int8"))
    held = body.extra_bytes
    assert held > 0
    body.prepare(Plan.layers([3]).at("int8"))
    assert body.extra_bytes == held
    body.prepare(FULL.at("int4"))
    assert body.extra_bytes > held


def test_the_portable_body_has_no_views_and_says_so():
    model = planted_model([2])
    body = PortableBody(model)
    assert body.quick() == ()
    with pytest.raises(PlanError, match="drafts in int8, which this model cannot here: the portable body"):
        Llm(model, body="portable").generate(PROMPT, method="view", max_new_tokens=4)


def test_exchanged_weights_are_seen_by_views_too():
    model = planted_model([2])
    body = FastBody(model)
    body.reserve(16)
    with body.running(FULL.at("int8")):
        before = body.forward(PROMPT).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.5
    body.reserve(16)
    with body.running(FULL.at("int8")):
        after = body.forward(PROMPT).logits
    assert not torch.allclose(before, after)


def test_a_layout_that_cannot_be_had_is_refused():
    with pytest.raises(InputError, match="packed on the CPU in bfloat16"):
        FastBody(planted_model([2]), layout="packed")
    with pytest.raises(InputError, match="layout must be"):
        FastBody(planted_model([2]), layout="best")


def steady_body(group: int, hidden: int = 64, **how) -> FastBody:
    """Heads of 16, `group` of them to a key-value head."""
    torch.manual_seed(group)
    config = LlamaConfig(
        vocab_size=160,
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4 * group if group in (1, 2) else group,
        num_key_value_heads=4 if group in (1, 2) else 1,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.1,
    )
    return FastBody(LlamaForCausalLM(config).bfloat16().eval(), **how)


@pytest.mark.parametrize(
    ("group", "hidden"), [(1, 64), (1, 80), (1, 128), (2, 64), (2, 112), (3, 96), (7, 224), (8, 64), (8, 128)]
)
def test_no_number_of_heads_and_no_width_breaks_what_is_promised(group, hidden):
    """One query row, and one beyond a block of 32, are where attention sums in another way."""
    body = steady_body(group, hidden)
    if not body.steady:
        pytest.skip("products on this machine are not steady")
    generator = torch.Generator().manual_seed(1)
    body.reserve(640)
    for context in (1, 63, 255, 512, 600):
        body.rollback(0)
        body.forward(torch.randint(0, 160, (context,), generator=generator).tolist(), rows=1)
        for count in (2, 5, 11, 17, 32):
            tokens = torch.randint(0, 160, (count,), generator=generator).tolist()
            together = body.forward(tokens).logits
            body.rollback(context)
            alone = torch.cat([body.forward([token]).logits for token in tokens])
            body.rollback(context)
            assert torch.equal(together, alone), (context, count)


def test_an_attention_that_sums_by_company_is_found(monkeypatch):
    assert attention_steady(6, 2, 16, torch.bfloat16, torch.device("cpu"))
    exact = functional.scaled_dot_product_attention

    def by_company(queries, *rest, **how):
        return exact(queries, *rest, **how) * (1 + queries.shape[2] % 2)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", by_company)
    assert not attention_steady(6, 2, 16, torch.bfloat16, torch.device("cpu"))
    assert not attention_steady(66, 2, 16, torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("through", ["copy_", "data", "load_state_dict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_written_to_are_seen_with_the_next_request(through, dtype):
    model = planted_model([2], hidden=64).to(dtype)
    llm = Llm(model)
    llm.generate(PROMPT, max_new_tokens=8)
    with torch.no_grad():
        if through == "copy_":
            for layer in model.model.layers:
                layer.input_layernorm.weight.copy_(0.5 + torch.rand(64))
        elif through == "data":
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        else:
            model.load_state_dict(planted_model([3], hidden=64, seed=5).to(dtype).state_dict())

    fresh = Llm(copy.deepcopy(model))
    for method in ("vanilla", "view"):
        assert (
            llm.generate(PROMPT, method=method, max_new_tokens=40).token_ids
            == fresh.generate(PROMPT, method="vanilla", max_new_tokens=40).token_ids
        )


def test_a_model_in_another_precision_is_another_model():
    model = planted_model([2], hidden=64)
    llm = Llm(model)
    llm.generate(PROMPT, max_new_tokens=40)
    for dtype in (torch.bfloat16, torch.float32):
        model.to(dtype)
        wanted = Llm(copy.deepcopy(model)).generate(PROMPT, method="vanilla", max_new_tokens=20).token_ids
        assert llm.generate(PROMPT, max_new_tokens=20).token_ids == wanted


def test_who_listens_to_the_model_later_takes_the_views_away_and_nothing_else():
    model = planted_model([2, 4, 7], hidden=64)
    llm = Llm(model)
    plain = llm.generate(PROMPT, method="vanilla", max_new_tokens=60).token_ids
    task = llm.task("view", draft_length=3)
    assert llm.generate(PROMPT, task=task, max_new_tokens=60).token_ids == plain
    hook = model.model.layers[0].register_forward_hook(lambda *_: None)
    try:
        assert llm.body.quick() == ()
        assert llm.generate(PROMPT, task=task, max_new_tokens=60).token_ids == plain
        with pytest.raises(PlanError, match="drafts in int8, which this model cannot here"):
            llm.task("view")
    finally:
        hook.remove()


def test_what_cannot_be_drafted_by_is_refused_before_the_first_piece():
    llm = Llm(planted_model([2]), body="portable")
    for how in ({"method": "view"}, {"plan": Plan(precision="int4")}, {"method": "uniform", "plan": LOOKUP}):
        with pytest.raises(PlanError):
            llm.stream(PROMPT, **how)
    with pytest.raises(PlanError, match="lookups need none"):
        llm.save_plan("nowhere.json", LOOKUP)


@pytest.mark.parametrize("layout", ["plain", "packed"])
def test_verification_in_bfloat16_is_decoding_one_by_one_to_the_bit(layout):
    """Wherever the body says that it is."""
    body = FastBody(planted_model([2], hidden=64).bfloat16(), layout=layout)
    body.trees = True
    if not body.steady:
        pytest.skip("products on this machine are not steady")
    generator = torch.Generator().manual_seed(1)

    def text(count: int) -> list[int]:
        return torch.randint(0, 128, (count,), generator=generator).tolist()

    body.reserve(700)
    for context in (1, 5, 31, 32, 33, 64, 95, 200, 511, 513, 600):
        body.rollback(0)
        body.forward(text(context), rows=1)
        for count in (2, 3, 5, 8, 16, 26, 32):
            tokens = text(count)
            together = body.forward(tokens, record=count)
            body.rollback(context)
            alone = torch.cat([body.forward([token]).logits for token in tokens])
            body.rollback(context)
            assert torch.equal(together.logits, alone), (context, count)


def test_drafts_leave_no_trace_in_what_is_verified_bit_for_bit():
    llm = Llm(planted_model([2, 4, 7], hidden=64).bfloat16())
    if not llm.body.steady:
        pytest.skip("products on this machine are not steady")
    for seed in range(4):
        prompt = [(seed + 7 * i) % 128 for i in range(20 + seed)]
        plain = llm.generate(prompt, method="vanilla", max_new_tokens=200).token_ids
        for how in (
            {"method": "auto"},
            {"method": "view", "draft_length": 5},
            {"method": "fixed", "plan": Plan.layers([2, 4]), "draft_length": 7},
            {"method": "lookup"},
        ):
            assert llm.generate(prompt, max_new_tokens=200, **how).token_ids == plain


def test_siblings_are_drafted_beside_steady_chains_only_where_they_are_asked_for():
    llm = Llm(planted_model([2, 4, 7], hidden=64).bfloat16())
    if not llm.body.steady:
        pytest.skip("products on this machine are not steady")
    how = {"method": "fixed", "plan": Plan.layers([3]), "draft_length": 4, "max_new_tokens": 60}
    assert llm.generate(PROMPT, **how).stats.num_sibling_tokens == 0
    assert llm.generate(PROMPT, tree="paper", **how).stats.num_sibling_tokens > 0


def test_a_copy_of_the_model_is_another_model():
    model = planted_model([2]).bfloat16()
    first, second = choose_body(model)[0], choose_body(copy.deepcopy(model))[0]
    first.reserve(16)
    second.reserve(16)
    assert torch.equal(first.forward(PROMPT).logits, second.forward(PROMPT).logits)


def test_a_plan_that_runs_nothing_is_for_lookups_alone(llm):
    with pytest.raises(PlanError, match="method 'lookup'"):
        llm.generate(PROMPT, method="fixed", plan=LOOKUP, max_new_tokens=8)
