"""Products of the compiled kernels: of matrices as they lie in memory, and of views of 8 and 4 bits."""

import copy
import pickle
import re

import pytest
import torch
from torch.nn import functional

from conflayers.body import kernels, products
from conflayers.body.linears import Linear

SHAPES = [(16, 32), (48, 96), (80, 1536), (976, 576)]


@pytest.fixture(autouse=True)
def _there_are_some_here() -> None:
    if why := products.why_not(torch.zeros(16, 32)):
        pytest.skip(why)


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def kind(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def whole(*shape: int, low: int, high: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers from low to high, both of them in every group of 32."""
    found = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))
    found[..., ::32], found[..., 1::32] = low, high
    return found.bfloat16()


def linear(shape: tuple[int, int], biased: bool, kind: torch.dtype = torch.bfloat16) -> Linear:
    return Linear(drawn(*shape, seed=1).to(kind), drawn(shape[0], seed=2).to(kind) if biased else None)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 32, 33])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_the_exact_one_rounded(shape, biased, tokens, kind):
    one = linear(shape, biased, kind)
    states = drawn(tokens, shape[1], seed=3).to(kind)
    found = products.plain(one)(states)
    exact = functional.linear(states.double(), one.weight.double(), None if one.bias is None else one.bias.double())
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(kind).eps, atol=2e-5 * shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_any_company_and_with_any_number_of_threads(shape, threads, kind):
    one = products.plain(linear(shape, True, kind))
    states = drawn(32, shape[1]).to(kind)
    alone = torch.cat([one(row) for row in states.split(1)])
    for count in (2, 3, 15, 16, 17, 31, 32):
        assert torch.equal(torch.cat([one(rows) for rows in states.split(count)]), alone)
    torch.set_num_threads(1)
    assert torch.equal(torch.cat([one(row) for row in states.split(1)]), alone)


@pytest.mark.parametrize("tokens", [1, 2, 32, 33, 70])
@pytest.mark.parametrize("shape", SHAPES)
def test_views_of_what_they_can_hold_lose_nothing(shape, tokens, threads, kind):
    states = whole(tokens, shape[1], low=-127, high=127).to(kind)
    for view, low, high in ((products.int8, -127, 127), (products.int4, 0, 15)):
        weight = whole(*shape, low=low, high=high, seed=1).to(kind)
        one = Linear(weight, torch.arange(shape[0]).to(kind))
        exact = functional.linear(states.double(), weight.double(), one.bias.double())
        torch.testing.assert_close(view(one)(states).double(), exact, rtol=2 * torch.finfo(kind).eps, atol=0)


@pytest.mark.parametrize(("view", "close"), [(products.int8, 0.9999), (products.int4, 0.99)])
def test_views_of_a_matrix_are_close_to_it_and_small(view, close, kind):
    one = linear((960, 576), True, kind)
    made = view(one)
    for dtype in (torch.bfloat16, torch.float32):
        states = drawn(5, 576).to(dtype)
        found, exact = made(states), functional.linear(states.float(), one.weight.float(), one.bias.float())
        assert found.dtype == dtype
        assert functional.cosine_similarity(found.float(), exact).min() > close
    bits = {products.int8: 8, products.int4: 4 + 2 * 16 / 32}[view]
    assert made.bytes == pytest.approx(one.weight.numel() * bits / 8, rel=0.01)


def test_states_of_zeros_and_outliers(kind):
    one = linear((16, 64), False, kind)
    for view in (products.plain, products.int8, products.int4):
        assert not view(one)(torch.zeros(2, 64).to(kind)).any()
        states = drawn(2, 64).to(kind)
        states[0, 3] = 3e4
        exact = functional.linear(states.double(), one.weight.double())
        assert functional.cosine_similarity(view(one)(states).double(), exact).min() > 0.98


def test_torchs_own_products_go_on_as_before():
    one = linear((96, 64), False)
    ours, states = products.plain(one), [drawn(tokens, 64) for tokens in (1, 5, 16, 40)]
    before = [functional.linear(some, one.weight) for some in states]
    for some, expected in zip(states, before, strict=True):
        for tokens in (1, 7, 32):
            ours(drawn(tokens, 64))
            assert torch.equal(functional.linear(some, one.weight), expected)


def test_rows_that_lie_apart():
    one = products.plain(linear((16, 32), False))
    states = drawn(8, 64)
    assert torch.equal(one(states[::2, :32]), one(states[::2, :32].contiguous()))


def test_what_comes_in_another_precision_is_torchs():
    one = linear((16, 32), False)
    with pytest.raises(RuntimeError, match="dtype"):
        products.plain(one)(torch.ones(1, 32))


def test_a_copy_and_what_was_pickled_go_on(kind):
    states = drawn(3, 64).to(kind)
    for view in (products.plain, products.int8, products.int4):
        one = view(linear((32, 64), True, kind))
        for made in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert type(made) is type(one)
            assert made.weight.data_ptr() != one.weight.data_ptr()
            assert torch.equal(made(states), one(states))


def test_what_was_pickled_goes_on_where_there_are_none(monkeypatch):
    one = linear((32, 64), True)
    pickled = pickle.dumps(products.plain(one))
    monkeypatch.setattr(kernels, "library", lambda: "a test wants torch's")
    made = pickle.loads(pickled)
    assert isinstance(made, Linear)
    assert torch.equal(made.weight, one.weight)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (torch.zeros(16, 32).half(), "float16"),
        (torch.zeros(16, 32, dtype=torch.bfloat16, device="meta"), "meta"),
        (torch.zeros(17, 32).bfloat16(), r"16 outputs.*\(17, 32\)"),
        (torch.zeros(16, 48).bfloat16(), r"32 inputs.*\(16, 48\)"),
        (torch.zeros(32, 16).bfloat16().t(), "row by row"),
    ],
)
def test_what_there_are_none_for(what, why):
    assert re.search(why, products.why_not(what))
