import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

import conflayers
from conflayers.profile.operators import (
    ATTENTION,
    COPIES,
    ELEMENTWISE,
    GROUPS,
    NORMS,
    OTHER,
    PRODUCTS,
    Seen,
    divide,
    group_of,
    operators,
    profiled,
    sort_events,
)

ZOO = Path(__file__).parents[1] / "zoo"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::linear", PRODUCTS), ("aten::addmm", PRODUCTS), ("aten::_grouped_mm", PRODUCTS), ("own::gemv", PRODUCTS),
        ("aten::_weight_int4pack_mm_for_cpu", PRODUCTS), ("mkldnn::_linear_pointwise", PRODUCTS),
        ("aten::lgamma", None),
        ("aten::scaled_dot_product_attention", ATTENTION), ("aten::_softmax", ATTENTION),
        ("aten::rms_norm", NORMS), ("aten::rsqrt", NORMS), ("aten::native_layer_norm", NORMS),
        ("aten::mul", ELEMENTWISE), ("aten::add_", ELEMENTWISE), ("aten::silu", ELEMENTWISE),
        ("aten::copy_", COPIES), ("aten::cat", COPIES), ("aten::to", COPIES),
        ("aten::slice", None), ("aten::embedding", None),
    ],
)  # fmt: skip
def test_operators_are_told_by_their_names(name, group):
    assert group_of(name) == group


def test_what_an_operator_calls_is_its_own():
    states, weight = torch.randn(1, 2, 3, 8), torch.randn(8, 8)

    def run() -> float:
        functional.linear(states, weight)
        functional.rms_norm(states, (8,))
        # With a scale and a mask of its own, this one takes the way of products and a softmax.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            functional.scaled_dot_product_attention(states, states, states)
        states.view(-1)
        return 1.5

    wall, profiler = profiled(run, "cpu")
    events = [event for event in profiler.events() if "::" in event.name]
    names = {event.name for event in events}
    assert wall == 1.5
    assert {"aten::bmm", "aten::mm"} & names
    seen = sort_events(profiler.events())
    assert (seen.calls[PRODUCTS], seen.calls[ATTENTION], seen.calls[NORMS]) == (1, 1, 1)
    assert seen.calls[ELEMENTWISE] == seen.calls[COPIES] == 0
    assert seen.outermost == 3 + seen.calls[OTHER]
    assert seen.operators == len(events)
    assert sum(seen.seconds.values()) == pytest.approx(sum(event.self_cpu_time_total for event in events) / 1e6)
    assert all(seen.seconds[name] > 0 for name in (PRODUCTS, ATTENTION, NORMS, OTHER))


def event(name, cpu, device=0.0, parent=None, kind="CPU"):
    made = SimpleNamespace(
        name=name, self_cpu_time_total=cpu, self_device_time_total=device, cpu_parent=parent, cpu_children=[],
        device_type=SimpleNamespace(name=kind),
    )  # fmt: skip
    if parent is not None:
        parent.cpu_children.append(made)
    return made


def test_on_an_accelerator_the_time_is_its_kernels():
    outer = event("aten::linear", 40, 0)
    events = [
        outer,
        event("aten::mm", 20, 300, outer),
        event("cudaLaunchKernel", 15, 0, outer),
        event("aten::mul", 10, 50),
        event("sgemm", 0, 300, kind="CUDA"),
    ]
    seen = sort_events(events, "cuda")
    assert seen.seconds[PRODUCTS] == pytest.approx(300e-6)
    assert seen.seconds[ELEMENTWISE] == pytest.approx(50e-6)
    found = divide([(1e-3, seen)], 10e-6, 970e-6, "cuda")
    # Three operators' worth of the profiler and one launch's come off the time between, and off nothing else.
    assert found.profiler == pytest.approx(40e-6)
    assert found.seconds == pytest.approx(970e-6)
    assert found.groups[0].seconds / found.between == pytest.approx(300 / (1000 - 40 - 350))


def test_parts_come_to_the_pass_without_the_profiler():
    seconds, inside = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0)
    seconds |= {PRODUCTS: 50e-6, NORMS: 12e-6, OTHER: 1e-6}
    inside |= {PRODUCTS: 10, NORMS: 2, OTHER: 4}
    calls = dict.fromkeys(GROUPS, 1)
    found = divide([(100e-6, Seen(seconds, calls, inside, 4))], 1e-6, 160e-6, "cpu")
    parts = {group.name: group.seconds for group in found.groups}
    # 20 operators at 1 us are the profiler's. Of the 80 us left, products 40, norms 10, and no group less than none.
    assert found.profiler == pytest.approx(20e-6)
    assert (parts[PRODUCTS], parts[NORMS], parts[OTHER]) == pytest.approx((80e-6, 20e-6, 0))
    assert found.between == pytest.approx(60e-6)
    assert found.seconds == pytest.approx(160e-6)
    assert [group.name for group in found.groups[:2]] == [PRODUCTS, NORMS]
    ordered = [group.seconds for group in found.groups]
    assert all(one >= other for one, other in itertools.pairwise(ordered))


def test_a_pass_without_operators_is_all_between_them():
    found = divide([(2.0, Seen())], 1e-6, 3.0, "cpu")
    assert found.between == found.seconds == 3.0
    assert found.profiler == 0


def test_a_pass_that_was_disturbed_counts_only_where_it_was_not():
    def seen(products: float, norms: float) -> Seen:
        return Seen(dict.fromkeys(GROUPS, 0.0) | {PRODUCTS: products, NORMS: norms})

    found = divide([(13.0, seen(9.0, 1.0)), (12.0, seen(4.0, 7.0))], 0.0, 12.0, "cpu")
    # Products 4, norms 1 and 1 between them, scaled to 12.
    parts = {group.name: group.seconds for group in found.groups}
    assert (parts[PRODUCTS], parts[NORMS], found.between) == (8.0, 2.0, 2.0)


def test_compiled_passes_tell_what_they_spend():
    body = conflayers.load(ZOO / "dropout-16", dtype="bfloat16").body
    if body.why_not_compiled or body._whole is None:
        pytest.skip("passes are not compiled as a whole here")
    body.reserve(32)
    body.forward(list(range(5, 15)))
    found = operators(body, [7], seconds=1.0)
    assert found.seconds == pytest.approx(1.0)
    parts = {group.name: group for group in found.groups}
    assert {name: parts[name].calls for name in (PRODUCTS, ATTENTION, NORMS)} == {
        PRODUCTS: 16 * 4 + 1,
        ATTENTION: 16,
        NORMS: 2 * 16 + 1,
    }
    assert parts[PRODUCTS].seconds > parts[NORMS].seconds > 0
    # Nobody watches any more.
    assert body._whole._watched is None


def test_passes_of_torchs_operators_tell_nothing():
    body = conflayers.load(ZOO / "dropout-16", dtype="bfloat16", body="portable").body
    with body.watched() as stages:
        body.reserve(8)
        body.forward([5])
    assert stages == {}
