from itertools import pairwise

import pytest
import torch
from doubles import FakeBody, Ticks, expected, run
from planted import planted_model

from conflayers.api import Llm
from conflayers.costs import Costs
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.round import Method
from conflayers.selectors.conflayers import (
    ConfLayers,
    Settings,
    Status,
    every_second_layer,
    landscapes,
    skip_set,
)
from conflayers.selectors.conflayers_published import PublishedConfLayers

IDLE = frozenset([2, 4, 6, 8, 10])
SHORT = Settings(interval=4, context_window=8)


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model(IDLE))


def confidences(*low: int, layers: int = 10) -> torch.Tensor:
    rows = torch.full((2, layers), 0.3)
    rows[:, list(low)] = 0.01
    return rows


@pytest.mark.parametrize("published", [True, False])
def test_layers_of_low_confidence_between_others_are_skipped(published):
    plan = skip_set(landscapes(confidences(3, 6), SHORT, published=published), 0.0)

    assert plan == Plan.layers([3, 6])


@pytest.mark.parametrize("published", [True, False])
def test_the_first_and_the_last_layer_always_run(published):
    for lam in (-2.0, 0.0):
        plan = skip_set(landscapes(confidences(0, 4, 9), SHORT, published=published), lam)
        assert plan.skipped
        assert not {0, 9} & (plan.attention | plan.mlp)


def test_sublayers_are_judged_each_among_their_kind():
    rows = confidences()
    rows[0, 3] = rows[1, 5] = 0.01

    plan = skip_set(landscapes(rows, Settings(unit="sublayer"), published=False), 0.0)

    assert plan == Plan(attention=frozenset([3]), mlp=frozenset([5]))


def test_higher_lambda_never_skips_more():
    rows = torch.rand(2, 20, generator=torch.Generator().manual_seed(3))
    seen = landscapes(rows, SHORT, published=False)
    counts = [skip_set(seen, lam / 10).skipped for lam in range(-10, 11)]

    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_published_scores_are_rounded_to_half_precision_and_ours_are_not():
    rows = torch.full((2, 8), 0.25)
    rows[:, 3] -= 1e-6

    assert not skip_set(landscapes(rows, SHORT, published=True), 0.0).skipped
    assert skip_set(landscapes(rows, SHORT, published=False), 0.0) == Plan.layers([3])


def test_every_second_layer_leaves_out_the_first_and_the_last():
    assert every_second_layer(8) == Plan.layers([1, 3, 5])
    assert every_second_layer(7) == Plan.layers([1, 3, 5])
    assert every_second_layer(2) == Plan()


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "head"},
        {"skip_ratio": 1.5},
        {"max_score": -0.1},
        {"interval": 0},
        {"context_window": 0},
        {"max_iterations": 0},
        {"window": 1},
    ],
)
def test_settings_out_of_range_name_themselves(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


# --- the published search -------------------------------------------------------------------------------------------


def published(**settings) -> PublishedConfLayers:
    return PublishedConfLayers(8, Settings(**{"interval": 4, "context_window": 6, "skip_ratio": 0.3, **settings}))


def method(selector, length: int = 3) -> Method:
    drafter = Subnetwork(ConfidenceStop(length, 0.0))
    return Method("conflayers", drafter, selector, getattr(selector, "costs", Costs()))


def test_published_search_starts_at_every_second_layer_and_waits_for_its_window():
    selector = published()
    body = FakeBody(agrees=lambda plan, position: False)

    tokens, _ = run(body, method(selector), 8)

    assert tokens == expected(8)
    assert selector.plan == every_second_layer(8)
    assert (selector.iterations, body.recorded) == (0, 0)


def test_published_search_scores_the_last_generated_tokens_after_the_prompt(llm):
    selector = PublishedConfLayers(12, Settings(interval=4, context_window=16))
    task = method(selector)
    seen = []
    forward = llm.body.forward

    def watched(tokens, *, parents=None, rows=None, record=0):
        if record:
            seen.append((llm.body.length, list(tokens), record))
        return forward(tokens, parents=parents, rows=rows, record=record)

    llm.body.forward = watched
    try:
        result = llm.generate([1, 2, 3, 4], task=task, max_new_tokens=60)
    finally:
        del llm.body.forward

    assert result.token_ids == llm.generate([1, 2, 3, 4], method="vanilla", max_new_tokens=60).token_ids
    assert selector.iterations == len(seen) > 1
    for position, tokens, record in seen:
        assert position == 4
        assert record == len(tokens) == 16
        assert any(result.token_ids[i : i + 16] == tokens for i in range(2, 60))


def test_published_search_stops_at_a_candidate_that_passes_its_scores(llm):
    # A chain of two cannot bring the four accepted tokens a round that the published rule waits for.
    settings = Settings(interval=4, context_window=16, skip_ratio=0.3, min_accepted=1.5)
    selector = PublishedConfLayers(12, settings)

    task = method(selector, 2)
    result = llm.generate([1, 2, 3], task=task, max_new_tokens=300)

    assert selector.status is Status.SETTLED
    assert selector.plan.attention <= IDLE
    assert selector.plan.skipped >= 2 * (int(10 * 0.3) + 1)
    assert "tokens accepted a round" in result.decisions[-1]


def test_published_search_ends_at_its_iteration_limit_with_a_recorded_plan():
    selector = published(max_iterations=3)
    body = FakeBody(agrees=lambda plan, position: False)

    run(body, method(selector), 60)

    assert selector.status is Status.SETTLED
    assert selector.iterations == 3
    # Flat confidences skip nothing, so nothing was ever recorded as best: the start is kept, not an empty set.
    assert selector.plan == every_second_layer(8)


def test_published_search_lowers_lambda_at_every_step_while_too_little_is_skipped():
    selector = published()
    body = FakeBody(agrees=lambda plan, position: True)

    run(body, method(selector), 60)

    assert selector.iterations > 4
    assert selector.lam == pytest.approx(-0.05 * selector.iterations)


def test_published_search_begins_anew_with_each_prompt_until_it_is_settled(llm):
    selector = PublishedConfLayers(12, Settings(interval=50, context_window=8))
    task = method(selector, 2)

    llm.generate([1, 2, 3], task=task, max_new_tokens=30)
    first = selector.iterations
    llm.generate([4, 5, 6], task=task, max_new_tokens=30)

    assert first >= 1
    assert selector.iterations > first


# --- the default search ---------------------------------------------------------------------------------------------


class PricedBody(FakeBody):
    """A fake body on a clock: a full pass costs 10, a draft step 3."""

    def forward(self, tokens, *, parents=None, rows=None, record=0):
        output = super().forward(tokens, parents=parents, rows=rows, record=record)
        self.clock.now += 10.0 if self.plan.skipped == 0 else 3.0
        return output


def priced(agrees) -> PricedBody:
    body = PricedBody(agrees=agrees)
    body.clock = Ticks()
    return body


def test_a_given_plan_that_pays_is_used_and_nothing_is_searched():
    selector = ConfLayers(8, SHORT)
    plan = Plan.layers([2, 4])
    selector.keep(plan)
    body = priced(lambda plan, position: True)

    tokens, stats = run(body, method(selector), 60, clock=body.clock)

    assert tokens == expected(60)
    assert selector.plan == plan
    assert body.recorded == 0
    assert stats.mean_acceptance_length > 2


def test_a_given_plan_that_does_not_pay_gives_way_to_plain_decoding():
    selector = ConfLayers(8, SHORT)
    selector.keep(Plan.layers([2, 4]))
    body = priced(lambda plan, position: False)

    tokens, stats = run(body, method(selector), 200, clock=body.clock)

    assert tokens == expected(200)
    assert selector.plan is None
    assert body.clock.now / (200 * 10) < 1.06
    assert stats.num_plain_steps > 180


def test_without_fallback_a_given_plan_is_used_from_the_first_round():
    selector = ConfLayers(8, SHORT, fallback=False)
    selector.keep(Plan.layers([2, 4]))
    body = priced(lambda plan, position: False)

    _, stats = run(body, method(selector), 30, clock=body.clock)

    assert selector.plan == Plan.layers([2, 4])
    assert stats.num_plain_steps == 1


def test_the_search_finds_the_layers_that_do_nothing(llm):
    task = llm.task("conflayers", fallback=False, interval=4, context_window=16, confidence_stop=0.5)

    result = llm.generate([1, 2, 3, 5, 8], task=task, max_new_tokens=200)

    assert result.plan is not None
    assert result.plan.attention
    assert result.plan.attention <= IDLE
    assert any("adopted" in decision for decision in result.decisions)


def test_confidences_come_from_passes_that_are_made_anyway(llm):
    passes = 0
    forward = llm.body.forward

    def counted(tokens, *, parents=None, rows=None, record=0):
        nonlocal passes
        passes += 1
        return forward(tokens, parents=parents, rows=rows, record=record)

    llm.body.forward = counted
    try:
        result = llm.generate([1, 2, 3], method="conflayers", fallback=False, interval=4, max_new_tokens=100)
    finally:
        del llm.body.forward

    stats = result.stats
    assert passes == 1 + stats.num_spec_steps + stats.num_plain_steps + stats.num_draft_tokens
    assert result.decisions


def test_only_accepted_positions_are_looked_at():
    selector = ConfLayers(8, Settings(interval=4, context_window=6))
    body = priced(lambda plan, position: False)

    run(body, method(selector), 40, clock=body.clock)

    # Flat confidences are proposed again and again, each time on rows of their own: one a plain pass, none twice.
    assert selector.iterations > 1
    assert body.recorded <= 3 + body.passes


def test_a_plan_that_was_just_rejected_is_not_tried_again():
    selector = ConfLayers(30)
    seen = torch.rand(2, 30, generator=torch.Generator().manual_seed(0)) + 0.1
    tried = []
    for _ in range(12):
        tried.append(selector._candidate(seen))
        selector.trials.finished += 1
        selector.trials.rejected = tried[-1]

    assert all(one != other for one, other in pairwise(tried))
    assert len(set(tried)) > 3


def test_flat_confidences_propose_nothing_and_decoding_stays_plain():
    selector = ConfLayers(8, SHORT)
    body = priced(lambda plan, position: True)

    _, stats = run(body, method(selector), 50, clock=body.clock)

    assert stats.num_spec_steps == 0
    assert selector.decisions == []
    assert abs(selector.lam) <= 2


def test_tasks_do_not_share_what_they_learn(llm):
    first = llm.task("conflayers", fallback=False, interval=4)
    before = llm.generate([9, 9], method="conflayers", fallback=False, interval=4, max_new_tokens=60)
    llm.generate([1, 2, 3], task=first, max_new_tokens=120)
    after = llm.generate([9, 9], method="conflayers", fallback=False, interval=4, max_new_tokens=60)

    def tried(result):
        return [decision.split(":")[0] for decision in result.decisions]

    assert tried(before)[:1] == tried(after)[:1] != []
    assert first.selector.iterations > 0
    assert llm.task("conflayers").selector.iterations == 0
