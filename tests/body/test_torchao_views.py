"""Views by torchao, which are for devices that are not at hand: its modules run on the processor too."""

import importlib.util

import pytest
import torch
from torch.nn import functional

from conflayers.body import torchao_views, weights
from conflayers.body.linears import Linear
from conflayers.body.views import why_not_view

if importlib.util.find_spec("torchao") is None:
    pytest.skip("torchao is an extra", allow_module_level=True)


def linear(kind: torch.dtype) -> Linear:
    generator = torch.Generator().manual_seed(0)
    return Linear(torch.randn(64, 128, generator=generator).to(kind), torch.randn(64, generator=generator).to(kind))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_it_puts_out_is_the_products(kind: torch.dtype) -> None:
    given = linear(kind)
    before = given.weight.clone()
    view = torchao_views.VIEWS["int8"](given)
    states = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(kind)
    with torch.no_grad():
        found = view(states)
    assert given.bias is not None
    wanted = functional.linear(states.float(), given.weight.float(), given.bias.float())
    assert float(functional.cosine_similarity(found.float(), wanted).min()) > 0.999
    assert view.bytes == 64 * 128
    # The model's own is as it was.
    assert torch.equal(given.weight, before)


def test_what_it_cannot_do_here_is_said() -> None:
    for precision in torchao_views.VIEWS:
        why = why_not_view(linear(torch.bfloat16), precision, torchao_views.VIEWS)
        assert why is None or "cannot be multiplied with" in why or "is off" in why
    assert why_not_view(linear(torch.bfloat16), "int8", torchao_views.VIEWS) is None


def test_devices_without_kernels_are_given_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Linear(torch.empty(64, 128, device="meta", dtype=torch.bfloat16), None)
    assert weights._views(given) is torchao_views.VIEWS
    monkeypatch.setattr(torchao_views, "why_not", lambda: "it is gone")
    assert str(weights._views(given)).endswith("it is gone")
