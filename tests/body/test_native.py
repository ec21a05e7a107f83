"""The compiled operators against torch's, and rows in any company."""

import copy
import pickle

import pytest
import torch
from lossless.families import SUPPORTED
from planted import planted_model

from conflayers import Llm
from conflayers.body import kernels, native
from conflayers.body.cache import PositionedCache
from conflayers.body.kernels import NoKernelsError
from conflayers.body.native import Native
from conflayers.body.operators import SHORT, Operators, Seen, rms_norm
from conflayers.body.trees import depths, text_mask, tree_mask

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
# Rounding of one result: a unit in the last place of what it is close to.
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
llama = next(family for family in SUPPORTED if family.model_type == "llama")


@pytest.fixture(autouse=True)
def _compiled_here() -> None:
    if isinstance(kernels.library(), str):
        pytest.skip(f"nothing compiled here: {kernels.library()}")


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, times: float = 1.01) -> None:
    """Against what is computed in float64."""
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=times * CLOSE[dtype], atol=times * CLOSE[dtype])


@pytest.mark.parametrize("width", [1, 31, 32, 33, 576])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_adds_in_place_and_norms(dtype, width):
    run, norm = Native(2, 1, 64, dtype, CPU), rms_norm(drawn(width, dtype=dtype, seed=2).abs(), 1e-5)
    states, added = drawn(3, width, dtype=dtype), drawn(3, width, dtype=dtype, seed=1)
    whole = states + added
    found = run.norm(states, norm, added)
    assert torch.equal(states, whole)
    exact = torch.nn.functional.rms_norm(whole.double(), (width,), norm.weight.double(), norm.eps)
    assert_close(found, exact, dtype)
    assert torch.equal(run.norm(whole, norm), found)


@pytest.mark.parametrize("width", [1, 31, 32, 96, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_over_all_numbers_there_are(dtype, width):
    gate_up = drawn(4, 2 * width, dtype=dtype) * 4
    gate_up[0, 0], gate_up[1, 0], gate_up[2, 0] = 300.0, -300.0, -80.0
    found = Native(2, 1, 64, dtype, CPU).gated(gate_up)
    gate, up = gate_up.double().chunk(2, -1)
    assert_close(found, torch.nn.functional.silu(gate) * up, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_or_has_no_end_stays_so(dtype):
    run, norm = Native(2, 1, 64, dtype, CPU), rms_norm(torch.ones(64, dtype=dtype), 1e-5)
    states = torch.ones(3, 64, dtype=dtype)
    states[0, 0], states[1, 0] = float("nan"), float("inf")
    out = run.norm(states.clone(), norm)
    assert out[0].isnan().all()
    assert out[1, 0].isnan()
    assert ((out[2] - 1).abs() < 1e-4).all()
    gated = run.gated(torch.tensor([[float("nan"), float("inf"), 1.0, 1.0, 1.0, float("nan")]], dtype=dtype))
    assert gated.isnan().tolist() == [[True, False, True]]
    assert gated[0, 1] == float("inf")


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("width", [8, 32, 64, 80, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_keys_and_values_go_where_torchs_operators_put_them(dtype, width, rotated, normed):
    heads, kv_heads, tokens, length = 6, 2, 5, 7
    norms = tuple(rms_norm(drawn(width, dtype=dtype, seed=s).abs(), 1e-5) for s in (1, 2)) if normed else None
    turn = drawn(tokens, 1, width // 2, dtype=dtype, seed=3)
    angles = (torch.cat([turn.cos()] * 2, -1), torch.cat([-turn.sin(), turn.sin()], -1)) if rotated else None
    mixed = drawn(tokens, (heads + 2 * kv_heads) * width, dtype=dtype)
    found = []
    for run in (Operators(heads, kv_heads, width), Native(heads, kv_heads, width, dtype, CPU)):
        cache = PositionedCache([None], 64)
        before = drawn(1, kv_heads, length, width, dtype=dtype, seed=4)
        cache.layers[0].update(before, before)
        cache.advance(length)
        queries, held = run.turn(mixed, norms, angles, cache.layers[0])
        assert torch.equal(cache.layers[0].keys[:, :, :length], before)
        assert not cache.layers[0].keys[:, :, length + tokens :].any()
        found.append((queries, *(held or cache.layers[0].visible(tokens))))
    for ours, theirs in zip(found[1], found[0], strict=True):
        # Torch rounds once for every operator.
        torch.testing.assert_close(ours, theirs, rtol=4 * CLOSE[dtype], atol=8 * CLOSE[dtype])


def chain(tokens: int, run: Operators, cache: PositionedCache, dtype: torch.dtype) -> Seen:
    def biased(_: int | None) -> torch.Tensor | None:
        return text_mask(tokens, cache.length, None, dtype)[0, 0] if tokens > 1 else None

    nothing = torch.empty(0)
    positions = torch.arange(cache.length, cache.length + tokens)
    return Seen(positions, (nothing, nothing), True, False, biased, run.heads // run.kv_heads, steady=True)


def attended(run: Operators, dtype: torch.dtype, length: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What some tokens behind others attend to, and the same in float64."""
    heads, kv_heads, width = run.heads, run.kv_heads, run.width
    cache = PositionedCache([None], length + tokens + 9)
    held = [drawn(1, kv_heads, length + tokens, width, dtype=dtype, seed=seed) for seed in (1, 2)]
    cache.layers[0].update(*held)
    cache.advance(length)
    queries = drawn(heads, tokens, width, dtype=dtype) * 3
    seen = chain(tokens, run, cache, dtype)
    found = run.attend(queries, None, cache.layers[0], seen)
    mask = text_mask(tokens, length, None, torch.float64)
    exact = torch.nn.functional.scaled_dot_product_attention(
        queries[None].double(), *(one.double() for one in held), attn_mask=mask, enable_gqa=True
    )
    return found, exact[0].transpose(0, 1).reshape(tokens, -1)


@pytest.mark.parametrize("length", [0, 1, 14, 15, 16, 300])
@pytest.mark.parametrize("tokens", [1, 2, 5, SHORT])
@pytest.mark.parametrize(("heads", "width"), [(6, 64), (2, 32), (4, 96), (2, 128), (4, 48)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_of_a_chain(dtype, heads, width, tokens, length):
    found, exact = attended(Native(heads, 2, width, dtype, CPU), dtype, length, tokens)
    assert_close(found, exact, dtype, times=4)


@pytest.mark.parametrize("past", [-1, 0, 1, 2, 7, 8])
def test_a_chain_that_grows_too_long_for_the_kernel_on_its_way(past, monkeypatch):
    monkeypatch.setattr(native, "MOST_WORK", 6 * 64 * 100)
    run = Native(6, 2, 64, torch.bfloat16, CPU)
    theirs = Operators(6, 2, 64)
    tokens = 8
    # The last token sees as many columns as the kernel takes, and `past` more.
    length = 100 - tokens + past
    found, exact = attended(run, torch.bfloat16, length, tokens)
    assert_close(found, exact, torch.bfloat16, times=4)
    others, _ = attended(theirs, torch.bfloat16, length, tokens)
    ours, _ = attended(Native(6, 2, 64, torch.bfloat16, CPU), torch.bfloat16, length, tokens)
    kept = max(min(tokens - past, tokens), 0)
    assert torch.equal(found[kept:], others[kept:])
    assert torch.equal(found[:kept], ours[:kept])


@pytest.mark.parametrize(("columns", "lengths"), [(4000, (3, 16, 31)), (40, range(33, 44))])
def test_the_chain_of_a_tree_has_the_bits_of_the_chain_alone(monkeypatch, columns, lengths):
    monkeypatch.setattr(native, "MOST_WORK", 4 * 32 * columns)
    body = Llm(planted_model([2], hidden=128).bfloat16()).body
    if not body.steady:
        pytest.skip("products on this machine are not steady")
    text = [(5 * i) % 128 for i in range(60)]
    for length in lengths:
        body.reserve(64)
        body.forward(text[:length])
        one_by_one = torch.cat([body.forward([token]).logits for token in text[length : length + 5]])
        body.rollback(length)
        tree = body.forward([*text[length : length + 5], 9, 8], parents=[-1, 0, 1, 2, 3, 0, 2]).logits
        assert torch.equal(tree[:5], one_by_one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_any_company_and_wherever_it_lies(dtype):
    run, norm = Native(2, 1, 64, dtype, CPU), rms_norm(drawn(100, dtype=dtype, seed=2), 1e-5)
    many = drawn(SHORT, 100, dtype=dtype)
    normed, gated = run.norm(many.clone(), norm), run.gated(many)
    for at in range(SHORT):
        row = torch.empty(101 + at, dtype=dtype)[at : at + 100].copy_(many[at])[None]
        assert torch.equal(run.norm(row, norm), normed[at : at + 1])
        assert torch.equal(run.gated(row), gated[at : at + 1])


@pytest.mark.parametrize("heads", [(2, 1, 64), (9, 3, 64), (4, 4, 16), (8, 2, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_text_at_once_has_the_bits_that_it_has_one_by_one(dtype, heads):
    assert Native(*heads, dtype, CPU).steady()


def test_an_operator_that_sums_by_company_is_found(monkeypatch):
    run = Native(2, 1, 64, torch.float32, CPU)
    monkeypatch.setattr(run, "gated", lambda gate_up: Native.gated(run, gate_up) * (1 + 1e-6 * len(gate_up)))
    assert not run.steady()


def test_a_body_uses_them_for_short_passes_and_says_so():
    body = Llm(llama.build()).body
    assert body.why_not_compiled is None
    handle = body.model.model.layers[0].register_forward_hook(lambda *_: None)
    body.reserve(8)
    assert "own modules" in body.why_not_compiled
    handle.remove()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"dtype": torch.float16}, "float16"),
        ({"device": torch.device("meta")}, "meta"),
        ({"width": 2048}, "heads of 2048"),
        ({"width": 7}, "heads of 7"),
    ],
)
def test_what_there_are_none_for(how, why):
    with pytest.raises(NoKernelsError, match=why):
        Native(**{"heads": 2, "kv_heads": 1, "width": 64, "dtype": torch.float32, "device": CPU} | how)


@pytest.mark.parametrize("tokens", [2, 7])
@pytest.mark.parametrize("length", [0, 5, 40])
def test_a_mask_hides_what_it_hides_and_leaves_the_rest_its_bits(tokens, length):
    run, dtype = Native(6, 2, 64, torch.bfloat16, CPU), torch.bfloat16
    cache = PositionedCache([None], 64)
    held = [drawn(1, 2, length + tokens, 64, dtype=dtype, seed=seed) for seed in (1, 2)]
    cache.layers[0].update(*held)
    cache.advance(length)
    queries = drawn(6, tokens, 64, dtype=dtype)
    # A chain of all but the last token, which follows the first.
    parents = [*range(-1, tokens - 2), 0]
    mask = tree_mask(parents, length, None, dtype)
    nothing = torch.empty(0)
    positions = length + torch.tensor(depths(parents))
    seen = Seen(positions, (nothing, nothing), False, False, lambda _: mask[0, 0], 3, steady=True)
    found = run.attend(queries, None, cache.layers[0], seen)
    exact = torch.nn.functional.scaled_dot_product_attention(
        queries[None].double(), *(one.double() for one in held), attn_mask=mask.double(), enable_gqa=True
    )
    assert_close(found, exact[0].transpose(0, 1).reshape(tokens, -1), dtype, times=4)
    chained = run.attend(queries[:, :-1].contiguous(), None, cache.layers[0], chain(tokens - 1, run, cache, dtype))
    assert torch.equal(found[:-1], chained)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        run = Native(9, 3, 64, torch.bfloat16, CPU)
        assert run.steady()
    finally:
        torch.set_default_dtype(before)


def test_what_comes_in_another_precision_is_torchs():
    run, norm = Native(2, 1, 64, torch.float32, CPU), rms_norm(torch.ones(64), 1e-5)
    states = drawn(2, 64, dtype=torch.bfloat16)
    assert torch.equal(run.gated(states), Operators.gated(run, states))
    assert run.norm(torch.ones(2, 64), norm, states).dtype == torch.float32
    cache = PositionedCache([None], 8)
    queries, held = run.turn(drawn(2, 256, dtype=torch.bfloat16), None, None, cache.layers[0])
    assert queries.dtype == torch.bfloat16
    assert held is not None


def test_under_autocast_the_model_runs_itself_and_nothing_of_it_stays():
    prompt = [(7 * i) % 128 for i in range(20)]
    model = planted_model([2], hidden=128)
    llm, portable = Llm(model), Llm(model, body="portable")
    exact = llm.generate(prompt, max_new_tokens=20).token_ids
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not llm.body.fast
        found = [one.generate(prompt, method="vanilla", max_new_tokens=20).token_ids for one in (llm, portable)]
    assert found[0] == found[1]
    assert [one.generate(prompt, max_new_tokens=20).token_ids for one in (llm, portable)] == [exact, exact]


def test_a_copy_and_what_was_pickled_go_on():
    run = Native(9, 3, 64, torch.bfloat16, CPU)
    for made in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert made.steady()
    assert copy.deepcopy(Llm(llama.build())).body.why_not_compiled is None


def test_what_was_pickled_goes_on_where_there_are_none(monkeypatch):
    pickled = pickle.dumps(Native(9, 3, 64, torch.bfloat16, CPU))
    monkeypatch.setattr(kernels, "library", lambda: "a test wants torch's")
    made = pickle.loads(pickled)
    assert type(made) is Operators
    assert (made.heads, made.kv_heads, made.width) == (9, 3, 64)
