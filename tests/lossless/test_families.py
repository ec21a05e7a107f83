"""The tokens are those of transformers' own `generate`: on every family, with every plan, across rollbacks."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from lossless.families import LAYERS, RARE, SUPPORTED, WINDOW, Family
from lossless.reference import NEW_TOKENS, PROMPT, assert_untouched, greedy, logits

from conflayers import Llm
from conflayers.body.contract import Trace
from conflayers.costs import Costs
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.lookup import Lookup
from conflayers.drafters.siblings import PublishedSiblings
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.plan import FULL, LOOKUP, Plan
from conflayers.round import Method, Round, State

# No confidence stop and short chains: most rounds reject something, at every depth of the chain.
CHAIN = {"confidence_stop": 0.0, "max_draft_tokens": 4}


def _random_plan(seed: int) -> Plan:
    """About half of the sublayers, and always some of the first layer and of the last."""
    draw = random.Random(seed)
    attention, mlp = ({layer for layer in range(LAYERS) if draw.random() < 0.5} for _ in range(2))
    return Plan(frozenset(attention | {0}), frozenset(mlp | {LAYERS - 1}))


PLANS = {
    "attention": Plan(attention=frozenset({2})),
    "mlp": Plan(mlp=frozenset({3})),
    "every second layer": Plan.layers(range(1, LAYERS, 2)),
    **{f"random {seed}": _random_plan(seed) for seed in range(3)},
}
# One of each kind of attention: full, sliding, and both in turn with sinks.
KINDS = ("llama", "mistral", "gpt_oss")

# These see their neighbours by cache row and not by position, so the nodes of a tree would be taken for a text.
CHAINS_ONLY = ("gpt_neo", "falcon with alibi")


@dataclass(frozen=True)
class Subject:
    """A family's model and what transformers says with it."""

    llm: Llm
    reference: list[int]


@cache
def subject(family: Family) -> Subject:
    model = family.build()
    return Subject(Llm(model), greedy(model))


def families(quick: Collection[str]) -> pytest.MarkDecorator:
    """A test for every family; those not named in `quick` are left to the slow run."""
    everyone = [
        pytest.param(family, id=family.name, marks=() if family.name in quick else pytest.mark.slow)
        for family in (*SUPPORTED, *RARE)
    ]
    return pytest.mark.parametrize("family", everyone)


each_family = families(quick=[family.name for family in SUPPORTED])
each_kind = families(quick=KINDS)


@each_family
def test_the_reference_has_something_to_get_wrong(family: Family) -> None:
    llm, reference = subject(family).llm, subject(family).reference
    assert len(reference) == NEW_TOKENS
    with torch.no_grad():
        rows = llm.model(torch.tensor([PROMPT + reference])).logits[0, len(PROMPT) - 1 : -1]
    first, second = rows.topk(2).values.unbind(-1)
    # No near-ties: rounding, which differs by some 1e-6 between passes of one and of several tokens, decides nothing.
    assert float(((first - second) / rows.abs().amax(-1)).min()) > 1e-4
    assert len(set(reference)) >= 8
    assert {window for window in llm.body.anatomy.windows if window is not None} <= {WINDOW, WINDOW + 1}


@each_family
def test_plain_decoding(family: Family) -> None:
    result = subject(family).llm.generate(PROMPT, method="vanilla", max_new_tokens=NEW_TOKENS)
    assert result.token_ids == subject(family).reference
    assert result.stats.num_plain_steps == NEW_TOKENS - 1
    assert result.stats.num_draft_tokens == 0


@each_family
def test_a_draft_that_skips_nothing_is_accepted_whole(family: Family) -> None:
    result = subject(family).llm.generate(PROMPT, method="fixed", plan=FULL, max_new_tokens=NEW_TOKENS, **CHAIN)
    assert result.token_ids == subject(family).reference
    # One token comes from the prefill; twelve rounds of five and one of three make up the rest.
    assert result.stats.num_spec_steps == 13
    assert result.stats.num_draft_tokens == result.stats.num_accepted_draft_tokens == 12 * 4 + 2
    assert result.stats.draft_acceptance_rate == 1.0


@dataclass
class InTurn:
    """A selector that drafts with another plan every round, so that each finds the stale rows of the others."""

    plans: tuple[Plan, ...]
    rounds: int = 0

    def start(self, state: State, prefill: Trace | None) -> None:
        pass

    def choose(self) -> Plan:
        self.rounds += 1
        return self.plans[self.rounds % len(self.plans)]

    def wants(self) -> int:
        return 0

    def learn(self, state: State, done: Round) -> None:
        pass


@each_family
def test_all_plans_in_turn(family: Family) -> None:
    task = Method("in turn", Subnetwork(ConfidenceStop(3, 0.0)), InTurn(tuple(PLANS.values())))
    result = subject(family).llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == subject(family).reference
    stats = result.stats
    assert stats.num_spec_steps >= len(PLANS)
    assert 0 < stats.num_accepted_draft_tokens < stats.num_draft_tokens
    assert 1 + stats.num_plain_steps + stats.num_spec_steps + stats.num_accepted_draft_tokens == NEW_TOKENS


@each_family
def test_tokens_found_in_the_text_between_those_the_model_drafts(family: Family) -> None:
    """A draft then reads several tokens in one pass."""
    costs = Costs(LAYERS)
    task = Method("in turn", Lookup(costs), InTurn((LOOKUP, *PLANS.values())), costs)
    result = subject(family).llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == subject(family).reference
    assert result.stats.num_draft_tokens > 0


@each_family
def test_trees(family: Family) -> None:
    llm = subject(family).llm
    if family.name in CHAINS_ONLY:
        assert not llm.body.trees
        with pytest.raises(InputError, match="cannot verify trees"):
            llm.generate(PROMPT, method="fixed", plan=FULL, tree="paper")
        return
    assert llm.body.trees
    drafter = Subnetwork(ConfidenceStop(3, 0.0), PublishedSiblings())
    task = Method("in turn", drafter, InTurn(tuple(PLANS.values())))
    result = llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == subject(family).reference
    stats = result.stats
    # Some tokens were accepted off the main chain, so that rows moved in the cache, and some on it.
    assert stats.num_accepted_sibling_tokens > 1
    assert stats.num_accepted_draft_tokens > stats.num_accepted_sibling_tokens
    assert 1 + stats.num_plain_steps + stats.num_spec_steps + stats.num_accepted_draft_tokens == NEW_TOKENS


@pytest.mark.parametrize("plan", PLANS)
@each_kind
def test_one_plan_throughout(family: Family, plan: str) -> None:
    result = subject(family).llm.generate(PROMPT, method="fixed", plan=PLANS[plan], max_new_tokens=NEW_TOKENS, **CHAIN)
    assert result.token_ids == subject(family).reference
    assert result.stats.num_draft_tokens > 0
    assert result.stats.skip_ratio == pytest.approx(PLANS[plan].skip_ratio(LAYERS))


def search(family: Family, **options: object) -> Method:
    llm = subject(family).llm
    # Short chains make many rounds, and the search moves on by rounds.
    task = llm.task("conflayers", interval=2, context_window=8, confidence_stop=0.0, max_draft_tokens=2, **options)
    if "variant" not in options:
        task.selector.clock = lambda: 0.0  # looks are not cut short on a slow machine
    result = llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == subject(family).reference
    assert result.stats.num_spec_steps > 0
    return task


@each_family
def test_the_search_while_it_searches(family: Family) -> None:
    assert search(family, fallback=False).selector.shortlist.tried.any()


@each_kind
def test_the_published_search_while_it_searches(family: Family) -> None:
    assert search(family, variant="paper").selector.iterations >= 2


@each_family
def test_tokens_run_once_more_each_for_itself_say_what_they_said(family: Family) -> None:
    body, text = subject(family).llm.body, [*PROMPT, *subject(family).reference]
    if not body.trees:
        pytest.skip("its neighbours are counted by cache row")
    body.reserve(2 * len(text))
    first = body.forward(text).logits
    # More than a sliding window of them, so that the first one's window begins before the last one's.
    count = WINDOW + 5
    again = body.replay(text[-count:]).logits

    assert body.length == len(text)
    torch.testing.assert_close(again, first[-count:], atol=1e-4, rtol=1e-3)
    assert torch.equal(again.argmax(-1), first[-count:].argmax(-1))


@each_family
def test_probing_and_drafting_leave_the_model_as_it_was(family: Family) -> None:
    llm = subject(family).llm
    llm.generate(PROMPT, method="fixed", plan=PLANS["random 0"], max_new_tokens=8, **CHAIN)
    assert_untouched(llm.model)
    assert torch.equal(logits(llm.model), logits(family.build()))
