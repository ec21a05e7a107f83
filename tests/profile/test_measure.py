import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

import conflayers
from conflayers.body.claim import KEY
from conflayers.errors import InputError
from conflayers.plan import FULL, Plan
from conflayers.profile import bandwidth, operators, passes
from conflayers.profile.measure import lengths, measure
from conflayers.profile.operators import ATTENTION, BETWEEN, GROUPS, PRODUCTS

ZOO = Path(__file__).parents[1] / "zoo"
PROMPT = [5, 9, 31, 7]


@pytest.fixture(scope="module", params=["fast", "portable"])
def llm(request):
    return conflayers.load(ZOO / "dropout-16", dtype="float32", body=request.param)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bandwidth, "BYTES", 1 << 20)
    monkeypatch.setattr(operators, "REPEAT", 2)
    monkeypatch.setattr(operators, "PRICE_REPEAT", 2)
    monkeypatch.setattr(passes, "REPEAT", 3)


def text(llm) -> list[int]:
    return llm.generate(PROMPT, method="vanilla", max_new_tokens=12).token_ids


def test_the_parts_are_the_whole_pass_and_the_gaps_what_it_takes_above_the_limit(llm):
    (found,) = measure(llm, [40])
    best = found.passes.plain.best
    assert found.operators.seconds == pytest.approx(best)
    assert {gap.name for gap in found.gaps} == {*GROUPS, BETWEEN}
    assert sum(gap.seconds for gap in found.gaps) == pytest.approx(best)
    assert sum(gap.size for gap in found.gaps) == found.traffic.total
    assert sum(gap.above for gap in found.gaps) == pytest.approx(best - found.least)
    assert [gap.above for gap in found.gaps] == sorted((gap.above for gap in found.gaps), reverse=True)
    assert found.share(found.least) == pytest.approx(1)
    assert found.rate(2.0) == found.traffic.total / 2


def test_every_layers_products_and_attention_are_seen():
    llm = conflayers.load(ZOO / "dropout-16", dtype="float32", body="portable")
    (found,) = measure(llm, [40])
    calls = {group.name: group.calls for group in found.operators.groups}
    assert calls[PRODUCTS] >= 16 * 7 + 1
    assert calls[ATTENTION] == 16


def test_several_contexts_each_with_its_own_cache(llm):
    short, long = measure(llm, [60, 20, 60])
    assert (short.context, long.context) == (20, 60)
    assert short.traffic.matrices == long.traffic.matrices
    assert long.traffic.cache * 21 == short.traffic.cache * 61


def test_the_model_is_as_before(llm):
    before = text(llm)
    weights = [weight.data_ptr() for weight in llm.model.parameters()]
    measure(llm, [20])
    assert (llm.body.room, llm.body.cache.capacity, llm.body.length) == (0, 0, 0)
    assert [weight.data_ptr() for weight in llm.model.parameters()] == weights
    assert KEY not in llm.model.__dict__
    assert not any("forward" in module.__dict__ for module in llm.model.modules())
    assert text(llm) == before


# The prompt, a pass, the draft step with layers switched off, a pass under the profiler.
@pytest.mark.parametrize("after", [0, 3, 6, 32])
def test_an_interrupt_leaves_nothing_behind(llm, monkeypatch, after):
    before, forward, count = text(llm), type(llm.body).forward, itertools.count()

    def interrupted(body, *arguments, **keywords):
        if next(count) == after:
            raise KeyboardInterrupt
        return forward(body, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(type(llm.body), "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(llm, [20])
    assert llm.body.cache.capacity == 0
    assert KEY not in llm.model.__dict__
    assert not any("forward" in module.__dict__ for module in llm.model.modules())
    assert text(llm) == before


def test_a_model_that_is_generating_is_let_finish(llm):
    whole = text(llm)
    stream = llm.stream(PROMPT, method="vanilla", max_new_tokens=12)
    next(stream)
    with pytest.raises(InputError, match="already generating"):
        measure(llm, [20])
    for _ in stream:
        pass
    assert stream.result.token_ids == whole


def test_every_kind_of_pass_takes_its_turn(llm, monkeypatch):
    forward, running, seen, plans = type(llm.body).forward, type(llm.body).running, Counter(), Counter()

    def counted(body, tokens, **keywords):
        seen[len(tokens)] += 1
        return forward(body, tokens, **keywords)

    def counted_plan(body, plan):
        plans[plan] += 1
        return running(body, plan)

    llm.body.reserve(40)
    llm.body.forward(list(range(20)), rows=1)
    monkeypatch.setattr(type(llm.body), "forward", counted)
    monkeypatch.setattr(type(llm.body), "running", counted_plan)
    found = passes.passes(llm.body, list(range(16)), clock=itertools.count().__next__)
    assert (found.turns, found.inner) == (3, 14)
    assert list(found.sizes) == [1, 2, 4, 8, 16]
    # Each size once a turn, and one token more for the draft step; two turns warm up.
    assert seen == {1: 2 * 5, 2: 5, 4: 5, 8: 5, 16: 5}
    assert plans[Plan.layers(range(1, 15))] == 5
    assert plans[FULL] >= 25
    assert found.plain == passes.Timed(1, 1)
    assert llm.body.length == 20


def test_a_layer_and_what_is_none_by_hand():
    timed = {size: passes.Timed(9.0, 8.0) for size in passes.SIZES}
    found = passes.Passes(3, timed, passes.Timed(4.0, 3.0), 5)
    # Five inner layers take 8 - 3; the two others one each, which leaves one for what is no layer.
    assert (found.layer, found.beside_layers) == (1.0, 1.0)
    two_layers = passes.Passes(3, timed, None, 0)
    assert two_layers.layer is two_layers.beside_layers is None
    assert two_layers.as_dict()["draft_step_without_them"] is None


def test_slow_passes_have_fewer_turns(llm):
    llm.body.reserve(40)
    llm.body.forward([1, 2, 3], rows=1)
    found = passes.passes(llm.body, list(range(16)), clock=itertools.count(step=1000).__next__)
    assert found.turns == 3
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passes, "REPEAT", 30)
        found = passes.passes(llm.body, list(range(16)), clock=itertools.count(step=1000).__next__)
    assert found.turns == passes.LEAST


def test_bandwidth_is_bytes_over_the_best_seconds():
    # Eight tries of 1 s, but for one of 0.25 s.
    readings = iter([*(reading for start in range(7) for reading in (start, start + 1.0)), 10.0, 10.25])
    rate = bandwidth.read_rate(torch.device("cpu"), 4096, clock=lambda: next(readings))
    assert rate == 4096 / 0.25
    better = bandwidth.Bandwidth(10.0, 3.0).best(bandwidth.Bandwidth(8.0, 12.0))
    assert (better.memory, better.again, better.limit) == (10.0, 12.0, 12.0)


@pytest.mark.parametrize(
    ("asked", "most", "found"),
    [
        (None, 1024, [100, 800]), (None, 500, [100]), (None, 64, [48]), ([7], 64, [7]),
        ([48, 1, 48], 64, [1, 48]),
    ],
)  # fmt: skip
def test_lengths_of_context(asked, most, found):
    assert lengths(asked, most) == found


@pytest.mark.parametrize(
    ("asked", "most", "message"),
    [
        ([0], 64, "takes 1 token or more, not 0"),
        ([10, 49], 64, "49 tokens and passes over 16 more exceed the model's context of 64; at most 48 fit"),
        (None, 16, "context of 16 tokens has no room"),
    ],
)
def test_lengths_that_cannot_be_had(asked, most, message):
    with pytest.raises(InputError, match=message):
        lengths(asked, most)
