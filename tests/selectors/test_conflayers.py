"""The automatic search: on a body whose drafts and prices are known, and on a model with idle layers planted."""

import itertools

import pytest
from doubles import FakeBody, Ticks, expected, run
from planted import planted_model

from conflayers.api import Llm
from conflayers.costs import Costs
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.plan import FULL, Plan
from conflayers.round import Method
from conflayers.selectors.conflayers import LOOK_SHARE, LOOK_STEPS, MORE_STEPS, ConfLayers
from conflayers.selectors.rule import every_second_layer

IDLE = frozenset([2, 4, 6, 8, 10])
IDLE_OF_FAKE = frozenset([2, 4, 5])


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model(IDLE))


class PricedBody(FakeBody):
    """A fake body on a clock: a full pass costs 16, each sublayer left out spares 1."""

    def forward(self, tokens, *, parents=None, rows=None, record=0):
        output = super().forward(tokens, parents=parents, rows=rows, record=record)
        self.clock.now += 16.0 - self.plan.skipped
        return output


def only_idle(plan: Plan, position: int) -> bool:
    return plan.attention | plan.mlp <= IDLE_OF_FAKE


def priced(agrees) -> PricedBody:
    body = PricedBody(agrees=agrees)
    body.clock = Ticks()
    return body


def search(body: PricedBody, **settings) -> ConfLayers:
    return ConfLayers(body.layers, **{"interval": 4, "context_window": 8, "clock": body.clock, **settings})


def decode(body: PricedBody, selector: ConfLayers, new_tokens: int):
    method = Method("conflayers", Subnetwork(ConfidenceStop(3, 0.0)), selector, selector.costs)
    return run(body, method, new_tokens, clock=body.clock)


def test_a_given_plan_that_pays_is_used_and_nothing_is_searched():
    body = priced(lambda plan, position: True)
    selector = search(body)
    plan = Plan.layers([1, 2, 3, 4, 5, 6])
    selector.keep(plan)

    tokens, stats = decode(body, selector, 60)

    assert tokens == expected(60)
    assert selector.plan == plan
    assert body.recorded == 0
    assert stats.mean_acceptance_length > 2


def test_a_given_plan_that_does_not_pay_gives_way_to_plain_decoding():
    body = priced(lambda plan, position: False)
    selector = search(body)
    selector.keep(Plan.layers([2, 4]))

    tokens, stats = decode(body, selector, 200)

    assert tokens == expected(200)
    assert selector.plan is None
    assert body.clock.now / (200 * 16) < 1.06
    assert stats.num_plain_steps > 180


def test_without_fallback_a_given_plan_is_used_from_the_first_round():
    body = priced(lambda plan, position: False)
    selector = search(body, fallback=False)
    selector.keep(Plan.layers([2, 4]))

    _, stats = decode(body, selector, 30)

    assert selector.plan == Plan.layers([2, 4])
    assert stats.num_plain_steps == 1


def test_looks_tell_the_layers_that_do_nothing_from_the_others(llm):
    task = llm.task("conflayers", fallback=False, interval=4)
    task.selector.clock = lambda: 0.0  # looks are not cut short on a slow machine
    llm.generate([1, 2, 3, 5, 8], task=task, max_new_tokens=200)

    shortlist = task.selector.shortlist
    looked_at = [plan for plan in shortlist.plans if shortlist.seen(plan)]
    assert Plan.layers(IDLE) in looked_at
    for plan in looked_at:
        assert (shortlist.acceptance(plan) > 0.9) == (plan.attention | plan.mlp <= IDLE)


def test_a_plan_that_agrees_and_is_cheap_is_adopted_by_what_was_seen_of_it():
    body = priced(lambda plan, position: True)
    selector = search(body)

    tokens, stats = decode(body, selector, 400)

    assert tokens == expected(400)
    # All of the 12 inner sublayers could go, and three drafted tokens are always accepted.
    assert selector.plan.skipped >= 9
    assert 400 * 16 / body.clock.now > 1.5
    assert stats.mean_acceptance_length > 2.5


def test_where_nothing_agrees_no_plan_is_tried_and_looks_are_few():
    body = priced(lambda plan, position: False)
    selector = search(body)

    _, stats = decode(body, selector, 400)

    assert selector.plan is None
    assert selector.decisions == []
    assert stats.num_spec_steps == 0
    assert body.clock.now / (400 * 16) < 1 + LOOK_SHARE + (LOOK_STEPS + 2) / 400


def test_looks_take_no_more_than_their_share_of_the_time():
    body = priced(lambda plan, position: position % 3 != 0)
    selector = search(body)

    _, stats = decode(body, selector, 1500)

    looks = stats.select_seconds / 16
    assert 0 < looks < 1.25 * MORE_STEPS + LOOK_SHARE * stats.total_seconds / 16


def test_asking_whether_to_look_takes_nothing_from_the_time_for_looks():
    def looked_at(tick: float) -> float:
        body = priced(lambda plan, position: position % 3 != 0)
        selector, readings = search(body), itertools.count()
        selector.clock = lambda: body.clock.now + tick * next(readings)
        decode(body, selector, 1500)
        return float(selector.shortlist.tried.sum())

    # A round takes a few times 16.
    assert looked_at(4.0) > 0.3 * looked_at(0.0) > 80


def test_when_the_text_changes_the_search_goes_on():
    body = priced(lambda plan, position: position < 400 or only_idle(plan, position))
    selector = search(body)

    tokens, _ = decode(body, selector, 3000)

    assert tokens == expected(3000)
    assert selector.plan != Plan.layers(range(1, 7))
    assert len(selector.decisions) > 1


def test_a_model_of_two_layers_has_nothing_to_skip():
    body = priced(lambda plan, position: True)
    body.layers = 2
    selector = search(body)

    _, stats = decode(body, selector, 60)

    assert (stats.num_spec_steps, body.recorded) == (0, 0)


def test_without_fallback_every_second_layer_is_skipped_until_a_better_plan_is_found():
    body = priced(lambda plan, position: False)
    selector = search(body, fallback=False)
    assert selector.plan == every_second_layer(8)

    tokens, stats = decode(body, selector, 100)

    assert tokens == expected(100)
    assert selector.plan not in (None, FULL)
    assert stats.num_plain_steps <= 1


def test_only_passes_that_are_looks_come_on_top(llm):
    # Before it is counted: what steps take is measured here.
    task = llm.task("conflayers")
    looks, passes = 0, 0
    forward, replay = llm.body.forward, llm.body.replay

    def counted(tokens, *, parents=None, rows=None, record=0):
        nonlocal passes
        passes += 1
        return forward(tokens, parents=parents, rows=rows, record=record)

    def looked(tokens):
        nonlocal looks
        looks += 1
        return replay(tokens)

    llm.body.forward, llm.body.replay = counted, looked
    try:
        task.selector.clock = lambda: 0.0
        result = llm.generate([1, 2, 3], task=task, max_new_tokens=100)
    finally:
        del llm.body.forward, llm.body.replay

    stats = result.stats
    assert looks > 0
    assert passes == 1 + stats.num_spec_steps + stats.num_plain_steps + stats.num_draft_tokens


def test_tasks_do_not_share_what_they_learn(llm):
    first = llm.task("conflayers", fallback=False, interval=4)
    llm.generate([1, 2, 3], task=first, max_new_tokens=120)

    assert first.selector.shortlist is not None
    assert llm.task("conflayers").selector.shortlist is None


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"context_window": 1.5}, {"fallback": "yes"}])
def test_settings_out_of_range_name_themselves(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ConfLayers(8, costs=Costs(), **wrong)


def test_the_end_of_a_first_text_is_not_looked_at():
    body = priced(lambda plan, position: True)
    selector = search(body)
    decode(body, selector, 30)
    assert selector.shortlist is None

    # The next one may be.
    decode(body, selector, 30)
    assert selector.shortlist is not None
