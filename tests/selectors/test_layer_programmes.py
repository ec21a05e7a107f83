"""CLaSp and KnapSpec: the programmes against a slow reading of their papers, and on a model with layers to spare."""

import math

import pytest
import torch
from lossless.families import SUPPORTED
from planted import planted_model
from transformers import LogitsProcessorList

from conflayers import FULL, InputError, Llm, Plan
from conflayers.body.contract import ATTENTION, LAYER, MLP
from conflayers.round import State
from conflayers.sampling import Greedy
from conflayers.selectors.clasp import skip_exactly
from conflayers.selectors.cosine import attention_cosines
from conflayers.selectors.knapspec import Knapsack, Times, solve, tokens_per_time

IDLE = [2, 4, 7]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.fixture(scope="module")
def planted() -> Llm:
    return Llm(planted_model(IDLE))


@pytest.fixture(scope="module")
def tiny() -> Llm:
    return Llm(next(family for family in SUPPORTED if family.name == "mistral").build())


def state_of(llm: Llm) -> State:
    """A request whose prompt is cached but for its last token."""
    llm.body.reserve(len(PROMPT) + 8)
    llm.body.forward(PROMPT[:-1])
    return State(llm.body, Greedy(LogitsProcessorList()), list(PROMPT), len(PROMPT), 8, frozenset())


def layer_by_layer(state: State, tokens: int):
    """`run(layer, states, part)` for states [tokens, hidden] of one branch at a time, and the embeddings."""
    runs, embeddings = {}, []
    length = state.body.length

    def run(index: int, states: torch.Tensor, part: str) -> torch.Tensor:
        result = []

        def step(i, given, run_part):
            if i == 0:
                embeddings.append(given[0])
            if i == index:
                result.append(run_part(states[None], part)[0])
            return run_part(given, LAYER)

        state.body.walk(state.tokens[length - tokens : length], 1, step)
        return result[0]

    runs["run"] = run
    run(0, torch.zeros(tokens, state.body.anatomy.hidden_size), LAYER)
    return run, embeddings[0]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=-1).mean())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_clasp_is_its_papers_programme(tiny, count):
    state = state_of(tiny)
    layers = tiny.body.layers
    run, x = layer_by_layer(state, 1)
    # g[j]: the state after the layers so far with j of them skipped, and which ones.
    g = {0: (x, frozenset())}
    for i in range(layers):
        x_next = run(i, g[0][0], LAYER)
        new = {0: (x_next, frozenset())}
        for j in range(1, min(i + 1, count) + 1):
            options = []
            if j in g:
                options.append((run(i, g[j][0], LAYER), g[j][1]))
            options.append((g[j - 1][0], g[j - 1][1] | {i}))
            new[j] = max(options, key=lambda option: cosine(option[0], x_next))
        g = new

    assert skip_exactly(count, layers, state) == Plan.layers(g[count][1])


def test_clasp_finds_the_layers_that_do_nothing(planted):
    state = state_of(planted)
    length = state.body.length

    assert skip_exactly(len(IDLE), planted.body.layers, state) == Plan.layers(IDLE)
    assert skip_exactly(0, planted.body.layers, state) == FULL
    assert len(skip_exactly(planted.body.layers, planted.body.layers, state).whole_layers) == planted.body.layers
    assert state.body.length == length


def test_knapspec_is_its_papers_programme(tiny):
    state = state_of(tiny)
    layers, tokens, weights, budget = tiny.body.layers, 3, (2, 1), 7
    run, x = layer_by_layer(state, tokens)
    g = {0: (x, frozenset())}
    for index in range(2 * layers):
        part, weight, layer = (ATTENTION, MLP)[index % 2], weights[index % 2], index // 2
        target = run(layer, g[0][0], part)
        new = {}
        for j in range(budget + 1):
            options = []
            if j in g:
                options.append((run(layer, g[j][0], part), g[j][1]))
            if 0 < layer < layers - 1 and j - weight in g:
                options.append((g[j - weight][0], g[j - weight][1] | {index}))
            if options:
                best = max(options, key=lambda option: cosine(option[0], target))
                if cosine(best[0], target) >= 0.5:
                    new[j] = best
        g = new

    knapsack = Knapsack(layers, weights, budget)
    length = state.body.length
    state.body.walk(state.tokens[length - tokens : length], budget + 1, knapsack.step)
    assert {j for j in range(budget + 1) if bool(knapsack.alive[j])} == set(g)
    assert len(g) > 3
    for j, (_, skipped) in g.items():
        expected = Plan(frozenset(i // 2 for i in skipped if i % 2 == 0), frozenset(i // 2 for i in skipped if i % 2))
        assert knapsack.plan(j) == expected


def test_knapspec_skips_what_does_nothing(planted):
    state = state_of(planted)
    plan, acceptance = solve(state, 6, planted.body.layers, 0.5)

    assert acceptance == 1.0
    assert set(IDLE) <= plan.attention & plan.mlp


def test_knapspec_would_rather_skip_nothing_than_what_is_never_accepted(monkeypatch):
    monkeypatch.setattr("conflayers.selectors.knapspec.measure", lambda state: Times(1.0, 1.0))
    monkeypatch.setattr("conflayers.selectors.knapspec.tokens_per_time", lambda acceptance, plan, layers, times: 1.0)
    # Nothing has more tokens per time than plain decoding here.
    assert solve(state_of(Llm(planted_model([]))), 6, 12, 0.5) == (FULL, 1.0)


def test_knapspec_gives_up_states_that_are_less_than_half_like_the_whole_models():
    """Three layers of states [1, 0]: attentions change nothing, the MLP in the middle turns them by some angle."""
    for angle, kept in ((1.0, True), (1.1, False)):
        turned = torch.tensor([math.cos(angle), math.sin(angle)])

        def run(states: torch.Tensor, part: str, turned: torch.Tensor = turned) -> torch.Tensor:
            return turned.expand_as(states) if part == MLP else states

        knapsack = Knapsack(3, (2, 1), 2)
        states = torch.tensor([1.0, 0.0]).expand(3, 1, 2)
        states = knapsack.step(0, states, lambda given, part: given)
        knapsack.step(1, states, run)
        # Cell 1 has skipped the MLP; cell 2 the attention, which loses nothing.
        assert knapsack.alive.tolist() == [True, kept, True]
        assert (math.cos(angle) >= 0.5) == kept


def test_knapspec_searches_on_what_was_accepted_in_five_rounds_of_every_so_many(planted, monkeypatch):
    looked_at, rounds = [], []

    def searched(state, tokens, layers, budget):
        looked_at.append((len(rounds) + 1, tokens))
        return Plan.layers(IDLE), 1.0

    monkeypatch.setattr("conflayers.selectors.knapspec.solve", searched)
    task = planted.task("knapspec", interval=9, draft_length=3)
    learn = type(task.selector).learn

    def noted(selector, state, done):
        learn(selector, state, done)
        rounds.append(done.kept)

    monkeypatch.setattr(type(task.selector), "learn", noted)
    planted.generate(PROMPT, task=task, max_new_tokens=90)

    assert len(rounds) > 23
    assert looked_at == [(at, sum(rounds[at - 5 : at])) for at in range(5, len(rounds), 9)]
    # Drafts by the plan are accepted, so that rounds have several tokens.
    assert looked_at[1][1] == 20
    assert task.selector.searches == len(looked_at)


def test_clasp_searches_after_the_prompt_and_every_so_many_rounds(planted, monkeypatch):
    searched, rounds = [], []

    def search(count, layers, state):
        searched.append((count, layers, len(rounds)))
        return Plan.layers(IDLE)

    monkeypatch.setattr("conflayers.selectors.clasp.skip_exactly", search)
    task = planted.task("clasp", interval=6, draft_length=2)
    learn = type(task.selector).learn

    def noted(selector, state, done):
        rounds.append(done)
        learn(selector, state, done)

    monkeypatch.setattr(type(task.selector), "learn", noted)
    planted.generate(PROMPT, task=task, max_new_tokens=80)

    assert len(rounds) > 18
    assert [at for _, _, at in searched] == list(range(0, len(rounds), 6))
    # Half of the layers.
    assert {(count, layers) for count, layers, _ in searched} == {(planted.body.layers // 2, planted.body.layers)}
    assert task.selector.searches == len(searched)
    assert set(task.decisions) == {f"{Plan.layers(IDLE)}: closest to the whole model on the last token"}


def test_tokens_per_time_of_skipping_nothing_is_that_of_plain_decoding():
    times = Times(attention=2.0, mlp=1.0)

    assert tokens_per_time(0.0, FULL, 4, times) == pytest.approx(1 / 12)
    # Half of the layers, always accepted, 17 tokens drafted: 18 tokens for 17 half passes and a whole one.
    assert tokens_per_time(1.0, Plan.layers([1, 2]), 4, times) == pytest.approx(18 / (17 * 6 + 12))
    # 0.5 accepted: 1 + 0.5 tokens for one half pass and a whole one, and longer drafts are no better.
    assert tokens_per_time(0.5, Plan.layers([1, 2]), 4, times) == pytest.approx(1 / 12)
    assert (times.weights, Times(1.0, 9.0).weights, Times(1.0, 1.2).weights) == ((2, 1), (1, 5), (1, 1))


def test_layers_whose_sublayers_run_side_by_side_are_refused():
    llm = Llm(next(family for family in SUPPORTED if family.name == "cohere").build())
    with pytest.raises(InputError, match="side by side"):
        llm.generate(PROMPT, method="knapspec", max_new_tokens=40)


def test_idle_attentions_turn_nothing(planted):
    cosines = attention_cosines(state_of(planted), 8)

    assert all(cosines[layer] > 0.999 for layer in IDLE)
    result = planted.generate(PROMPT, method="cosine", threshold=0.999, max_new_tokens=40)
    assert result.plan is not None
    assert set(IDLE) <= result.plan.attention
    assert not result.plan.mlp
    nothing = planted.generate(PROMPT, method="cosine", threshold=1.0, max_new_tokens=8)
    assert nothing.plan is None
    assert "no attention above" in nothing.decisions[0]
