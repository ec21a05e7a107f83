"""SWIFT's search, and the plans that look at nothing."""

from types import SimpleNamespace

import pytest
from planted import planted_model
from transformers import LogitsProcessorList

from conflayers import FULL, InputError, Llm, Plan
from conflayers.round import State
from conflayers.sampling import Greedy
from conflayers.selectors.swift import Settings, Swift
from conflayers.selectors.teacher_forced import matchness
from conflayers.selectors.uniform import random_plan, uniform_plan

IDLE = [2, 4, 7]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model(IDLE))


class Proposer:
    """An optimiser that proposes one set again and again, and remembers what it is told."""

    def __init__(self, layers: int, **settings: object) -> None:
        self.settings, self.told = settings, []
        # Of five attentions and five MLPs the two that are to be skipped: of layers 3 and 5.
        self.values = [0.1, 0.2, 0.9, 0.3, 0.0, 0.3, 0.2, 0.1, 0.2, 0.8]

    def suggest(self) -> dict[str, float]:
        return {f"x{at:04d}": value for at, value in enumerate(self.values)}

    def register(self, *, params: dict[str, float], target: float) -> None:
        self.told.append((params, target))


def test_every_so_many_th_candidate_is_proposed_by_the_optimiser_which_is_told_every_score(monkeypatch):
    scored, made = [], []

    def score(state, plan, begin, end):
        scored.append((plan, begin, end))
        return len(scored) / 100

    monkeypatch.setattr("conflayers.selectors.swift.matchness", score)
    monkeypatch.setattr(
        "conflayers.selectors.swift.optimizer",
        lambda layers, **given: made.append(Proposer(layers, **given)) or made[0],
    )
    swift = Swift(7, Settings(context_window=20, bayes_interval=4, skip_ratio=0.2, max_score=1.0))
    state = SimpleNamespace(left=1, generated=21, prompt=3)
    swift.start(state, None)
    swift.learn(state, None)
    assert scored == []  # 20 tokens and the one that the last of them names
    state.generated = 22
    for _ in range(9):
        swift.learn(state, None)

    (optimiser,) = made
    proposed = Plan(frozenset([3]), frozenset([5]))
    assert [at for at, (plan, _, _) in enumerate(scored, 1) if plan == proposed] == [4, 8]
    assert all(plan.skipped == 2 for plan, _, _ in scored)
    # The whole window behind the prompt.
    assert {span for _, *span in scored for span in [tuple(span)]} == {(3, 23)}
    assert [target for _, target in optimiser.told] == [at / 100 for at in range(1, 10)]
    skipped = [{name for name, value in params.items() if value == 1.0} for params, _ in optimiser.told]
    assert skipped[3] == skipped[7] == {"x0002", "x0009"}
    # As in the released code.
    assert (optimiser.settings["kappa"], optimiser.settings["alpha"]) == (2.5, 1e-2)
    assert Settings() == Settings(0.45, 50, 25, 1000, 300, 0.93)
    # The best so far is in use.
    assert (swift.plan, swift.score) == (scored[-1][0], 0.09)


def test_matchness_is_the_share_of_tokens_the_draft_names_itself(llm):
    text = PROMPT + llm.generate(PROMPT, method="vanilla", max_new_tokens=24).token_ids
    llm.body.reserve(len(text))
    llm.body.forward(text[:-1])
    state = State(llm.body, Greedy(LogitsProcessorList()), list(text), len(PROMPT), 1, frozenset())
    ruinous = Plan.layers([1, 3, 5, 6, 8, 9, 10])

    assert matchness(state, FULL, len(PROMPT), len(PROMPT) + 20) == 1.0
    assert matchness(state, Plan.layers(IDLE), len(PROMPT), len(PROMPT) + 20) == 1.0
    share = matchness(state, ruinous, len(PROMPT), len(PROMPT) + 20)
    # By hand: each next token from the text itself, with the plan's layers off, behind a prompt read by all layers.
    llm.body.rollback(len(PROMPT))
    with llm.body.running(ruinous):
        guessed = [int(llm.body.forward([token]).logits.argmax()) for token in text[len(PROMPT) : len(PROMPT) + 19]]
    right = sum(a == b for a, b in zip(guessed, text[len(PROMPT) + 1 :], strict=False))
    assert share == pytest.approx(right / 19)
    assert share < 0.9


def test_the_search_keeps_the_best(llm):
    settings = {"context_window": 16, "skip_ratio": 0.25, "max_score": 1.0}
    task = llm.task("swift", **settings)
    for first in range(6):
        prompt = [first, *PROMPT]
        plain = llm.generate(prompt, method="vanilla", max_new_tokens=120).token_ids
        assert llm.generate(prompt, task=task, max_new_tokens=120).token_ids == plain

    swift = task.selector
    assert swift.iterations > 30  # past the first proposals of the Bayesian search
    assert swift.plan.skipped == int(2 * 10 * 0.25)
    assert swift.searching
    # Of five sublayers drawn at random few are idle; the best of many draws has more of them than the average of 1.5.
    assert sum(layer in IDLE for part in (swift.plan.attention, swift.plan.mlp) for layer in part) >= 2
    assert swift.score > 0.3


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_iterations": 3, "max_score": 1.0}, "limit of iterations"),
        ({"max_tolerance": 2, "max_score": 1.0, "skip_ratio": 0.9}, "nothing better in"),
        ({"max_score": 0.0, "skip_ratio": 0.1}, "good enough"),
    ],
)
def test_why_a_search_ends(llm, settings, why):
    task = llm.task("swift", context_window=8, bayes_interval=0, **settings)
    llm.generate(PROMPT, task=task, max_new_tokens=100)

    assert not task.selector.searching
    assert why in task.selector.decisions[-1]
    assert task.selector.iterations <= 100


def test_nothing_is_scored_before_there_is_text_and_nothing_with_a_given_plan(llm):
    short = llm.task("swift", context_window=50)
    llm.generate(PROMPT, task=short, max_new_tokens=40)
    given = llm.task("swift", plan=Plan.layers(IDLE))
    llm.generate(PROMPT, task=given, max_new_tokens=90)

    assert (short.selector.iterations, given.selector.iterations) == (0, 0)
    assert given.selector.plan == Plan.layers(IDLE)


@pytest.mark.parametrize("wrong", [{"context_window": 1}, {"max_score": 2}, {"skip_ratio": -1}, {"plan_seed": 1.5}])
def test_a_setting_out_of_range_is_named(llm, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        llm.task("swift", **wrong)


def test_two_searches_do_not_know_of_each_other():
    one, other = Swift(12, Settings(plan_seed=1)), Swift(12, Settings(plan_seed=1))
    one.iterations = 1
    first = one._candidate()

    other.iterations = 1
    assert other._candidate() == first
    assert one._candidate() != first


def test_uniform_plans_are_even_and_leave_the_ends():
    assert uniform_plan(12, 0.5) == Plan.layers([2, 4, 6, 8, 10])
    assert uniform_plan(12, 0.3) == Plan.layers([2, 6, 9])
    assert uniform_plan(12, 1.0) == Plan.layers(range(1, 11))
    assert uniform_plan(12, 0.0) == uniform_plan(2, 0.5) == FULL


def test_random_plans_are_the_seeds():
    assert random_plan(12, 0.5, 1) == random_plan(12, 0.5, 1) != random_plan(12, 0.5, 2)
    assert random_plan(12, 0.5, 1).skipped == 10
    assert not {0, 11} & (random_plan(12, 1.0, 1).attention | random_plan(12, 1.0, 1).mlp)
