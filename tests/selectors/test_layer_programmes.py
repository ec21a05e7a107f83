"""CLaSp and KnapSpec: the programmes against a slow reading of their papers, and on a model with layers to spare."""

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
