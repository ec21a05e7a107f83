"""Lower precision among the choices: looked at once, drafted in where it pays, and with layers left out inside it."""

from dataclasses import dataclass, field

import pytest
from doubles import FakeBody, Ticks, expected, run

from conflayers.costs import Costs
from conflayers.drafters.lookup import Lookup
from conflayers.plan import FULL, LOOKUP, Plan
from conflayers.round import Method
from conflayers.selectors.conflayers import ConfLayers
from conflayers.selectors.contest import Contest

PRICES = {"whole": 16.0, "int8": 10.0, "int4": 6.0}
RIGHT = {"int8": 0.95, "int4": 0.8}


@dataclass
class Views(FakeBody):
    """A pass of the whole model costs 16 and each row a bit more; views are cheaper, and each sublayer spares 1/32."""

    offered: tuple[str, ...] = ("int4", "int8")
    clock: Ticks = field(default_factory=Ticks)
    prepared: list[str] = field(default_factory=list)
    used: list[Plan] = field(default_factory=list)

    def quick(self) -> tuple[str, ...]:
        return self.offered

    def prepare(self, plan: Plan) -> None:
        self.prepared.append(plan.precision)

    def forward(self, tokens, *, parents=None, rows=None, record=0):
        output = super().forward(tokens, parents=parents, rows=rows, record=record)
        self.clock.now += PRICES[self.plan.precision] * (1 - self.plan.skipped / 32) + 0.2 * (len(tokens) - 1)
        self.used.append(self.plan)
        return output


def right(plan: Plan, position: int) -> bool:
    """Drafts with anything left out are always wrong."""
    return not plan.skipped and (position * 37) % 100 < 100 * RIGHT.get(plan.precision, 1.0)


def auto(body: Views, **settings) -> Method:
    costs = Costs(body.layers)
    selector = ConfLayers(
        body.layers, costs=costs, context_window=8, clock=body.clock, views=True, lookup=True, **settings
    )
    return Method("auto", Lookup(costs), selector, costs)


# What the fake body says repeats itself after 50 tokens: requests that are shorter have nothing to look up.
REQUEST = 45


def requests(body: Views, method: Method, count: int) -> None:
    for number in range(count):
        prompt = [(7 * position + 3) % 50 for position in range(3 + number % 2)]
        tokens, _ = run(body, method, REQUEST, prompt=prompt, clock=body.clock)
        assert tokens == expected(REQUEST, len(prompt))


def test_a_view_that_pays_is_found_and_drafts():
    body = Views(agrees=right)
    method = auto(body)
    requests(body, method, 30)

    assert {"int4", "int8"} <= set(body.prepared)
    assert method.plan in (FULL.at("int4"), FULL.at("int8"))
    before, body.used = body.clock.now, []
    requests(body, method, 10)
    assert (body.clock.now - before) / (10 * REQUEST * 16) < 0.85
    assert FULL.at("int4") in body.used or FULL.at("int8") in body.used


def test_views_are_left_alone_where_none_is_quick_or_they_are_not_asked_for():
    for settings in ({"offered": ()}, {}):
        body = Views(agrees=right, **settings)
        method = auto(body)
        method.selector.views = bool(settings)
        requests(body, method, 6)
        assert not {"int4", "int8"} & set(body.prepared)
        assert {plan.precision for plan in body.used} == {"whole"}


def test_views_that_are_always_wrong_are_given_up_for_little():
    body = Views(agrees=lambda plan, position: False)
    method = auto(body)
    requests(body, method, 30)

    assert method.plan is None
    assert body.clock.now / (30 * REQUEST * 16) < 1.06


def test_layers_are_left_out_inside_the_best_precision():
    body = Views(agrees=lambda plan, position: plan.attention | plan.mlp <= {2, 4, 5})
    method = auto(body)
    requests(body, method, 40)

    assert method.plan is not None
    assert method.plan.precision == "int4"
    assert method.selector.shortlist is not None
    assert {plan.precision for plan in method.selector.shortlist.plans} == {"int4"}


def test_lookups_take_part_from_the_start_and_stay_where_they_cost_nothing():
    contest = Contest(4, True, Costs(8), lookup=True)
    assert contest.current == LOOKUP
    body = Views(agrees=lambda plan, position: False, offered=())
    method = auto(body)
    tokens, stats = run(body, method, 200, clock=body.clock)
    assert tokens == expected(200)
    assert stats.num_lookup_tokens > 80
    assert body.clock.now < 0.7 * 200 * 16
    assert method.plan is None
    assert method.selector.standings[0].plan == LOOKUP


@pytest.mark.parametrize("fallback", [True, False])
def test_without_lookup_they_never_do(fallback):
    body = Views(agrees=lambda plan, position: True, offered=())
    costs = Costs(body.layers)
    selector = ConfLayers(body.layers, fallback, costs, clock=body.clock)
    run(body, Method("conflayers", Lookup(costs), selector, costs), 120, clock=body.clock)
    assert LOOKUP not in [one.plan for one in selector.standings]
