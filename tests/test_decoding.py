import pytest
from doubles import GREEDY, FakeBody, Ticks, expected, run, said
from hypothesis import given
from hypothesis import strategies as st

from conflayers.decoding import decode
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.methods import build_method
from conflayers.plan import FULL, Plan
from conflayers.round import Method
from conflayers.selectors.fixed import Fixed
from conflayers.stats import Stats

PLAN = Plan.layers([1, 3])


def chain(length: int, stop: float = 0.0) -> Method:
    return Method("fixed", Subnetwork(ConfidenceStop(length, stop)), Fixed(PLAN))


def test_plain_decoding_takes_one_pass_a_token():
    body = FakeBody()

    tokens, stats = run(body, Method("vanilla", Subnetwork(), Fixed(None)), 10)

    assert tokens == expected(10)
    assert (body.passes, body.draft_steps) == (10, 0)
    assert (stats.num_plain_steps, stats.num_spec_steps, stats.mean_acceptance_length) == (9, 0, 1.0)


def test_a_draft_that_always_agrees_yields_its_length_and_one_more_each_pass():
    body = FakeBody(agrees=lambda plan, position: True)

    tokens, stats = run(body, chain(4), 1 + 5 * 6)

    assert tokens == expected(31)
    assert body.passes == 1 + 6
    assert body.draft_steps == 4 * 6
    assert stats.acceptance_histogram == {4: 6}
    assert stats.draft_acceptance_rate == 1.0
    assert stats.mean_acceptance_length == 5.0


def test_a_draft_that_never_agrees_still_yields_a_token_each_pass():
    body = FakeBody(agrees=lambda plan, position: False)

    tokens, stats = run(body, chain(4), 12)

    assert tokens == expected(12)
    assert body.passes == 12
    assert stats.num_accepted_draft_tokens == 0
    assert stats.mean_acceptance_length == 1.0
    # Near the end fewer tokens are left to draft for: 11 rounds, the last four of them of 3, 2, 1 and 0.
    assert body.draft_steps == 4 * 7 + 3 + 2 + 1


def test_an_unsure_draft_ends_after_the_doubtful_token():
    body = FakeBody(sure=0.5)

    tokens, stats = run(body, chain(25, stop=0.8), 21)

    assert tokens == expected(21)
    assert stats.num_draft_tokens == stats.num_spec_steps == 10


def test_a_full_plan_is_drafted_with_the_whole_model():
    body = FakeBody()

    tokens, stats = run(body, Method("fixed", Subnetwork(ConfidenceStop(3, 0.0)), Fixed(FULL)), 9)

    assert tokens == expected(9)
    assert stats.skip_ratio == 0.0
    assert stats.draft_acceptance_rate == 1.0


@given(
    new_tokens=st.integers(1, 40),
    length=st.integers(1, 8),
    pattern=st.lists(st.booleans(), min_size=1, max_size=12),
    end_at=st.none() | st.integers(0, 39),
)
def test_whatever_the_draft_says_the_text_is_the_models_own(new_tokens, length, pattern, end_at):
    body = FakeBody(agrees=lambda plan, position: pattern[position % len(pattern)])
    plain = expected(new_tokens)
    end = frozenset() if end_at is None else frozenset([said(3 + end_at)])
    if any(token in end for token in plain):
        plain = plain[: next(i for i, token in enumerate(plain) if token in end) + 1]

    tokens, stats = run(body, chain(length), new_tokens, end=end)

    assert tokens == plain
    assert stats.new_tokens == len(plain)
    # All but the last token are cached, and nothing else.
    assert body.cached == [1, 2, 3, *plain[:-1]]
    assert sum(stats.acceptance_histogram.values()) == stats.num_spec_steps
    assert body.passes == 1 + stats.num_spec_steps + stats.num_plain_steps


def test_a_draft_does_not_go_on_after_an_end_token():
    body = FakeBody()

    tokens, _ = run(body, chain(20), 30, end=frozenset([said(6)]))

    assert tokens == expected(4)
    assert body.draft_steps == 3


def test_a_confidence_that_is_not_a_number_ends_the_chain():
    body = FakeBody(sure=float("nan"))

    _, stats = run(body, chain(5, stop=0.1), 8)

    assert stats.num_draft_tokens == stats.num_spec_steps


@pytest.mark.parametrize("wrong", [{"max_draft_tokens": 0}, {"confidence_stop": 1.5}, {"confidence_stop": -0.1}])
def test_a_drafter_names_the_option_that_is_out_of_range(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        build_method("fixed", 4, PLAN, **wrong)


def test_what_the_caller_does_with_a_token_is_no_price_of_the_model():
    clock = Ticks()

    class Timed(FakeBody):
        def forward(self, tokens, **arguments):
            clock.now += 1.0
            return super().forward(tokens, **arguments)

    def slow(tokens):
        clock.now += 100.0
        return False

    method = chain(3)
    stats = Stats()
    body = Timed()
    rounds = decode(
        body,
        method,
        [1, 2, 3],
        sampler=GREEDY,
        max_new_tokens=13,
        end=frozenset(),
        stats=stats,
        stop=slow,
        clock=clock,
    )
    assert [token for kept in rounds for token in kept] == expected(13)
    assert (stats.verify_seconds, stats.draft_seconds) == (3.0, 9.0)
    assert method.costs.row_seconds < 1.0


class Slow:
    """Uses some plans in turn. To choose takes 2, to learn 3."""

    def __init__(self, plans: list[Plan], clock: Ticks) -> None:
        self.plans, self.clock = plans, clock

    def start(self, state, prefill):
        """Nothing."""

    def wants(self):
        return 0

    def choose(self):
        self.clock.now += 2.0
        return self.plans.pop(0) if self.plans else None

    def learn(self, state, done):
        self.clock.now += 3.0


class Noting:
    """Drafts two tokens. To learn takes 50."""

    def __init__(self, clock: Ticks) -> None:
        self.inner, self.clock = Subnetwork(ConfidenceStop(2, 0.0)), clock

    def draft(self, state, plan):
        return self.inner.draft(state, plan)

    def learn(self, done):
        self.clock.now += 50.0


def test_selection_is_what_the_selector_takes_and_nothing_else():
    clock = Ticks()

    _, stats = run(FakeBody(), Method("slow", Noting(clock), Slow([PLAN] * 3, clock)), 30, clock=clock)

    rounds = stats.num_spec_steps + stats.num_plain_steps
    assert stats.num_spec_steps == 3
    assert stats.select_seconds == rounds * 5.0
    assert stats.total_seconds == rounds * 55.0


def test_the_body_is_prepared_for_a_plan_when_it_comes_into_use():
    prepared, other = [], Plan.layers([2])

    class Preparing(FakeBody):
        def prepare(self, plan):
            prepared.append(plan)

    run(Preparing(), Method("slow", Subnetwork(ConfidenceStop(2, 0.0)), Slow([PLAN, PLAN, other, PLAN], Ticks())), 30)

    assert prepared == [PLAN, other, PLAN]
