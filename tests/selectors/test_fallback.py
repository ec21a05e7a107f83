"""Plain decoding around a method that loses time, on a body and a clock that are known."""

from dataclasses import dataclass, field

import pytest
from doubles import FakeBody, Ticks, expected, run
from planted import planted_model

from conflayers.api import Llm
from conflayers.costs import Costs
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.methods import METHODS, build_method
from conflayers.plan import Plan
from conflayers.round import Method
from conflayers.selectors.fallback import REVIEW, WARM_UP, Fallback
from conflayers.selectors.losses import SHARE, STEPS
from conflayers.selectors.searching import Searching

PLAN = Plan.layers([2, 4])


class PricedBody(FakeBody):
    """A full pass costs 10, a draft step 5; the first few plain steps of all cost more."""

    slow = 0

    def forward(self, tokens, **arguments):
        output = super().forward(tokens, **arguments)
        self.clock.now += 10.0 if self.plan.skipped == 0 else 5.0
        if self.slow and self.plan.skipped == 0 and len(tokens) == 1:
            self.slow -= 1
            self.clock.now += 10.0
        return output


@dataclass
class Dear(Searching):
    """Takes time for every round it is told of, and counts what it is told."""

    clock: Ticks = field(default_factory=Ticks)
    price: float = 0.0
    starts: int = 0
    rounds: int = 0

    def start(self, state, prefill):
        self.starts += 1

    def learn(self, state, done):
        self.rounds += 1
        self.clock.now += self.price


def decode(agrees, new_tokens: int, price: float = 0.0, requests: int = 1, slow: int = 0):
    body = PricedBody(agrees=agrees)
    body.slow = slow
    body.clock = Ticks()
    costs = Costs(8)
    inner = Dear(8, plan=PLAN, clock=body.clock, price=price)
    method = Method("dear", Subnetwork(ConfidenceStop(3, 0.0)), Fallback(inner, costs, body.clock), costs)
    for _ in range(requests):
        tokens, stats = run(body, method, new_tokens, clock=body.clock)
        assert tokens == expected(new_tokens)
    return body, method.selector, stats


# A round of three drafts that all fail loses 15; it is the most by which the limit can be passed.
OVERSHOOT = 15.0


@pytest.mark.parametrize("new_tokens", [100, 1000, 4000])
def test_a_method_that_is_never_right_loses_little(new_tokens):
    body, selector, stats = decode(lambda plan, position: False, new_tokens)

    plain = 10.0 * new_tokens
    assert body.clock.now - plain <= STEPS * 10 + SHARE * body.clock.now + OVERSHOOT + 1e-6
    assert stats.num_draft_tokens > 0
    assert selector.plan is None or not selector.losses.exceeded
    assert "plain decoding for a while" in selector.decisions[-1]


def test_a_method_that_pays_is_never_stopped():
    body, selector, stats = decode(lambda plan, position: True, 400)

    assert selector.decisions == []
    assert selector.plan == PLAN
    assert stats.num_plain_steps <= WARM_UP * (1 + stats.num_spec_steps // REVIEW) + 1
    assert body.clock.now < 0.7 * 10 * 400


def test_a_slow_moment_when_plain_steps_are_measured_is_found_out():
    # Every second draft is wrong: 1.5 tokens in 25 where plain decoding has 2.5, and 1.25 at the price first measured.
    body, selector, _ = decode(lambda plan, position: position % 2 == 0, 4000, slow=WARM_UP)

    assert selector.decisions
    before = (REVIEW * (1 + WARM_UP)) * 25.0
    assert body.clock.now - 10.0 * 4000 <= STEPS * 10 + SHARE * body.clock.now + OVERSHOOT + before / 2


def test_a_search_that_eats_the_gain_counts_as_a_loss():
    # Four tokens in 25 gain 15 a round, and the search takes 40.
    body, selector, _ = decode(lambda plan, position: True, 2000, price=40.0)

    assert selector.decisions
    assert body.clock.now <= 10 * 2000 * (1 + SHARE) + STEPS * 10 + 40


def test_it_comes_back_when_the_text_changes():
    body, selector, stats = decode(lambda plan, position: position > 500, 3000)

    assert selector.plan == PLAN
    assert stats.num_spec_steps > 300
    assert body.clock.now < 0.9 * 10 * 3000


def test_a_request_that_stays_plain_costs_the_method_nothing():
    _, selector, _ = decode(lambda plan, position: False, 40, requests=6)

    assert selector.inner.starts < 6
    assert selector.inner.rounds < 30


def test_every_method_that_drafts_takes_it_and_no_other():
    for name, entry in METHODS.items():
        options = {"bayes_interval": 0} if name == "swift" else {}
        plan = PLAN if name in ("fixed", "draft-verify") else None
        if not entry.drafts:
            with pytest.raises(InputError, match="no option 'fallback'"):
                build_method(name, 8, plan, fallback=True)
            continue
        made = build_method(name, 8, plan, fallback=True, **options)
        assert isinstance(made.selector, Fallback) == (name not in ("conflayers", "auto"))
        with pytest.raises(InputError, match="fallback must be true or false"):
            build_method(name, 8, plan, fallback="yes", **options)
    assert isinstance(build_method("conflayers", 8, variant="paper", fallback=True).selector, Fallback)
    assert isinstance(build_method(Dear(8), 8, fallback=True).selector, Fallback)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "uniform"},
        {"method": "clasp", "interval": 4},
        {"method": "swift", "context_window": 8, "bayes_interval": 0},
        {"method": "conflayers", "variant": "paper", "interval": 4, "context_window": 8},
    ],
    ids=lambda method: method["method"],
)
def test_the_text_is_that_of_plain_decoding(method):
    llm = Llm(planted_model([2, 4]))
    task = llm.task(**method, fallback=True)
    for seed in range(3):
        prompt = [(seed + 7 * i) % 128 for i in range(12)]
        plain = llm.generate(prompt, method="vanilla", max_new_tokens=80).token_ids
        assert llm.generate(prompt, task=task, max_new_tokens=80).token_ids == plain
