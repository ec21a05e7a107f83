"""Every method of the table says what plain decoding says."""

import pytest
from planted import planted_model

from conflayers import Llm, Plan
from conflayers.methods import METHODS

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
GIVEN = {"plan": Plan.layers([2, 3, 6])}
NEEDS = {"fixed": GIVEN, "draft-verify": GIVEN}


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model([2, 4, 7]))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_says_what_plain_decoding_says(llm, method):
    plain = llm.generate(PROMPT, method="vanilla", max_new_tokens=96).token_ids

    assert llm.generate(PROMPT, method=method, max_new_tokens=96, **NEEDS.get(method, {})).token_ids == plain


@pytest.mark.parametrize("lookup", [True, False])
def test_auto_looks_up_unless_it_is_told_not_to(llm, lookup):
    # A text that repeats itself.
    prompt = [*range(40, 60)] * 3
    result = llm.generate(prompt, method="auto", lookup=lookup, max_new_tokens=60)

    assert result.token_ids == llm.generate(prompt, method="vanilla", max_new_tokens=60).token_ids
    assert (result.stats.num_lookup_tokens > 0) == lookup


PAPER = {"variant": "paper", "interval": 3, "context_window": 8}
RULE = {"variant": "rule", "context_window": 8, "confidence_stop": 0.3}


@pytest.mark.parametrize(
    "search",
    [
        {"fallback": False, "interval": 3, "context_window": 8, "confidence_stop": 0.3},
        {"fallback": True, "interval": 3, "context_window": 8, "confidence_stop": 0.3},
        *({**PAPER, "confidence_stop": 0.3, "unit": unit} for unit in ("layer", "sublayer")),
        *({**PAPER, "window": 4, "max_iterations": 4, "unit": unit} for unit in ("layer", "sublayer")),
        *({**RULE, "lam": lam} for lam in (-0.4, 0.4)),
    ],
    ids=str,
)
def test_a_search_over_several_prompts_never_changes_a_word(llm, search):
    task = llm.task("conflayers", **search)
    if "variant" not in search:
        task.selector.clock = lambda: 0.0  # looks are not cut short on a slow machine
    for seed in range(3):
        prompt = [(seed + 7 * i) % 128 for i in range(20 + seed)]
        plain = llm.generate(prompt, method="vanilla", max_new_tokens=96).token_ids
        assert llm.generate(prompt, task=task, max_new_tokens=96).token_ids == plain
    assert task.decisions or task.selector.shortlist.tried.any()
