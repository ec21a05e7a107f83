import pytest
import torch
from doubles import FakeBody, expected, run
from planted import planted_model

from conflayers.api import Llm
from conflayers.costs import Costs
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.round import Method
from conflayers.selectors.conflayers_published import PublishedConfLayers
from conflayers.selectors.conflayers_rule import RuleOnly
from conflayers.selectors.rule import Settings, every_second_layer, landscapes, skip_set

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
    return Method("conflayers", drafter, selector, Costs())


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

    assert not selector.searching
    assert selector.plan.attention <= IDLE
    assert selector.plan.skipped >= 2 * (int(10 * 0.3) + 1)
    assert "tokens accepted a round" in result.decisions[-1]


def test_published_search_ends_at_its_iteration_limit_with_a_recorded_plan():
    selector = published(max_iterations=3)
    body = FakeBody(agrees=lambda plan, position: False)

    run(body, method(selector), 60)

    assert not selector.searching
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


# --- the rule alone -------------------------------------------------------------------------------------------------


def test_the_rule_alone_takes_lambda_as_given_and_looks_at_the_first_prompt_only(llm):
    task = llm.task("conflayers", variant="rule", lam=-0.4, context_window=8)
    assert task.selector.wants() == 8
    first = llm.generate([1, 2, 3, 5, 8, 13], task=task, max_new_tokens=20)
    assert task.selector.wants() == 0
    again = llm.generate([9, 9, 9], task=task, max_new_tokens=20)

    assert first.plan == again.plan == Plan.layers(IDLE)
    assert (first.decisions, again.decisions) == ([f"{first.plan}: by lambda -0.4"], [])
    assert llm.task("conflayers", variant="rule", lam=100.0).selector.lam == 100


def test_the_rule_alone_decodes_plainly_where_it_skips_nothing():
    selector = RuleOnly(8, Settings(context_window=4))
    tokens, stats = run(FakeBody(), method(selector), 12)

    assert tokens == expected(12)
    assert (selector.plan, stats.num_spec_steps) == (None, 0)
