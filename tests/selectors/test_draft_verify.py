"""Draft & Verify's search: what it asks for, and that it goes on from what it was told and nothing else."""

import sys

import pytest
from doubles import FakeBody, run

from conflayers import FULL, InputError, Plan, PlanError
from conflayers.methods import build_method
from conflayers.selectors.draft_verify import DraftVerifySearch, Settings, first_probes

LAYERS = 10
IDLE = {2, 4, 7}


def score(plan: Plan) -> float:
    """Idle sublayers save time; any other costs more than it saves."""
    return sum(1.0 if layer in IDLE else -2.0 for part in (plan.attention, plan.mlp) for layer in part)


def advance(search: DraftVerifySearch, candidates: int) -> list[Plan]:
    asked = []
    for _ in range(candidates):
        plan = search.ask()
        assert plan is not None
        search.tell(plan, score(plan))
        asked.append(plan)
    return asked


def test_the_first_probes_are_the_late_attentions_then_more_of_them_with_some_mlps():
    # Of 12 layers 1 to 10 may be skipped: the later half, the last three fifths, the last quarter.
    assert first_probes(12) == [
        Plan(frozenset(range(6, 11))),
        Plan(frozenset(range(5, 11)), frozenset(range(9, 11))),
    ]


def test_candidates_never_repeat_never_skip_nothing_and_leave_the_ends_alone():
    asked = advance(DraftVerifySearch(LAYERS), 12)

    assert len(set(asked)) == len(asked)
    assert FULL not in asked
    assert not {0, LAYERS - 1} & {layer for plan in asked for layer in plan.attention | plan.mlp}
    assert any(plan.attention != plan.mlp for plan in asked)


def test_skipped_is_what_the_optimiser_puts_above_a_half(monkeypatch):
    values = [0.5, 0.50001, 1.0, 0.7, 0.49, 0.9]  # attentions of layers 1 to 3, then their MLPs

    class Optimizer:
        def register(self, **seen):
            pass

        def suggest(self):
            return {f"x{index:04d}": value for index, value in enumerate(values)}

    asked = []
    monkeypatch.setattr(
        "conflayers.selectors.draft_verify.optimizer", lambda layers, **settings: asked.append(settings) or Optimizer()
    )
    search = DraftVerifySearch(5, memory=[(plan, 1.0) for plan in first_probes(5)])

    assert search.ask() == Plan(attention=frozenset([2, 3]), mlp=frozenset([1, 3]))
    # The package's default, and the released code's.
    assert [(one["kappa"], one["alpha"]) for one in asked] == [(2.576, 1e-2)]


def test_a_search_goes_on_from_its_memory_as_if_it_had_not_stopped():
    whole = DraftVerifySearch(LAYERS)
    asked = advance(whole, 8)

    first = DraftVerifySearch(LAYERS)
    advance(first, 5)
    assert advance(DraftVerifySearch(LAYERS, memory=list(first.memory)), 3) == asked[5:]


def test_the_best_is_the_highest_score_and_the_first_of_equals():
    search = DraftVerifySearch(LAYERS)
    assert search.best is None
    for layer, value in ((1, 3.0), (2, 5.0), (3, 5.0), (4, 4.0)):
        search.tell(Plan.layers([layer]), value)
    assert search.best == Plan.layers([2])


def test_the_search_is_over_after_its_iterations_or_when_nothing_is_left():
    search = DraftVerifySearch(LAYERS, Settings(max_iterations=2))
    advance(search, 2)
    assert search.ask() is None

    # One layer may be skipped: its attention, its MLP, or both.
    small = DraftVerifySearch(3)
    assert set(advance(small, 3)) == {
        Plan(frozenset([1])),
        Plan(mlp=frozenset([1])),
        Plan.layers([1]),
    }
    assert small.ask() is None
    assert DraftVerifySearch(2).ask() is None


def test_what_it_is_told_is_checked():
    search = DraftVerifySearch(LAYERS)
    with pytest.raises(PlanError, match="layers 0 to 9"):
        search.tell(Plan.layers([10]), 1.0)
    with pytest.raises(InputError, match="finite"):
        search.tell(Plan.layers([1]), float("nan"))
    assert search.memory == []


@pytest.mark.parametrize("wrong", [{"max_iterations": 0}, {"plan_seed": -1}, {"plan_seed": 1.5}])
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    search = DraftVerifySearch(LAYERS)
    advance(search, 2)
    monkeypatch.setitem(sys.modules, "bayes_opt", None)
    with pytest.raises(InputError, match=r"pip install 'conflayers\[search\]'"):
        search.ask()


def test_without_a_plan_the_method_says_how_to_find_one():
    with pytest.raises(InputError, match="conflayers search MODEL --method draft-verify"):
        build_method("draft-verify", 8)
    with pytest.raises(InputError, match="leave out 'plan_seed'"):
        build_method("draft-verify", 8, Plan.layers([2]), plan_seed=3)


def test_it_drafts_chains_of_eight_at_most_that_end_at_the_moving_threshold():
    body = FakeBody(sure=0.999)
    _, stats = run(body, build_method("draft-verify", 8, Plan.layers([2])), 60)
    assert max(body.rows[1:]) == 9  # eight drafted tokens behind the last committed one
    assert stats.num_sibling_tokens == 0

    # Below the threshold of 0.8 the doubtful token itself is still drafted.
    unsure = FakeBody(sure=0.7)
    run(unsure, build_method("draft-verify", 8, Plan.layers([2])), 20)
    assert set(unsure.rows[1:-1]) == {2}
