"""A drafter that proposes nonsense is named, and nothing it says reaches the text or the cache."""

import pytest
import torch
from faults.helpers import PLAN, PROMPT, assert_as_new, scripted

from conflayers.draft import MOST_SIBLINGS, ROOT, Draft
from conflayers.errors import DraftError
from conflayers.round import Method
from conflayers.selectors.fixed import Fixed

NEW_TOKENS = 10
# What `small_model` says is below 128; node 0 is always a token.
ILLEGAL = {
    "a negative token": (Draft.of([-1]), "has token -1; the model's ids are 0 to 127"),
    "a token past the vocabulary": (Draft.of([3, 128]), "has token 128"),
    "a token far past it": (Draft.of([2**70]), "has token 1180591620717411303424"),
    "no whole number": (Draft.of([1.5]), "has token 1.5"),
    "a tensor": (Draft.of([torch.tensor(3)]), r"has token tensor\(3\)"),
    "nothing": (Draft.of([None]), "has token None"),
    "longer than the budget": (Draft.of([1] * NEW_TOKENS), "a chain of 10 tokens where 8 are of use"),
    "far longer than the cache": (Draft.of([1] * 5000), "a chain of 5000 tokens"),
    "parents missing": (Draft([1, 2], [-1], 2, [1.0] * 2), "2 tokens, 1 parents and a chain of 2"),
    "a chain of more than there is": (Draft([1], [-1], 2, [1.0]), "1 tokens, 1 parents and a chain of 2"),
    "a chain of less than nothing": (Draft([1], [-1], -1, []), "a chain of -1"),
    "a chain that is none": (Draft([1, 2, 3], [-1, 0, 0], 3, [1.0] * 3), "main chain are no chain"),
    "a token that follows itself": (Draft([1, 2], [-1, 1], 1, [1.0]), "node 1 of the draft follows node 1"),
    "a token that follows a later one": (Draft([1, 2, 3], [-1, 2, 0], 1, [1.0]), "node 1 of the draft follows node 2"),
    "a token that follows nothing there is": (Draft([1, 2], [-1, -2], 1, [1.0]), "follows node -2"),
    "a token that follows nothing at all": (Draft([1, 2], [-1, None], 1, [1.0]), "follows node None"),
    "too many siblings": (
        Draft([1] * (MOST_SIBLINGS + 2), [ROOT] * (MOST_SIBLINGS + 2), 1, [1.0]),
        f"{MOST_SIBLINGS + 1} siblings, and {MOST_SIBLINGS} are the most",
    ),
    "siblings deeper than the budget": (
        Draft([1] * (NEW_TOKENS + 1), [ROOT, *range(NEW_TOKENS)], 1, [1.0]),
        "the draft goes 9 tokens deep where 8 are of use",
    ),
}


class Proposing:
    """A drafter that always proposes the same."""

    def __init__(self, draft):
        self.proposed = draft

    def draft(self, state, plan):
        return self.proposed

    def learn(self, done):
        pass


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}], ids=str)
@pytest.mark.parametrize("case", ILLEGAL)
def test_an_illegal_draft_is_refused_by_what_is_wrong_with_it(llm, fresh, case, sampling):
    draft, complaint = ILLEGAL[case]
    task = Method("mine", Proposing(draft), Fixed(PLAN))

    with pytest.raises(DraftError, match=complaint):
        llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS, **sampling)

    # Nothing but the prompt had been run.
    assert llm.body.length == len(PROMPT)
    if not sampling:
        assert_as_new(llm, fresh)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 1}], ids=str)
def test_a_drafter_that_never_proposes_decodes_plainly(llm, sampling):
    plain = llm.generate(PROMPT, method="vanilla", max_new_tokens=NEW_TOKENS, **sampling)

    result = llm.generate(
        PROMPT, task=Method("mine", Proposing(Draft()), Fixed(PLAN)), max_new_tokens=NEW_TOKENS, **sampling
    )

    assert result.token_ids == plain.token_ids
    assert result.stats.num_plain_steps == NEW_TOKENS - 1


class Repeating(Proposing):
    """Proposes the same tokens over and over, siblings that repeat the main chain among them, within the budget."""

    def draft(self, state, plan):
        depth = min(state.left - 1, 3)
        draft = Draft.of([self.proposed] * depth)
        for node in range(depth):
            draft.add_sibling(node, self.proposed)
            draft.add_sibling(node, (self.proposed + 1) % 128)
        return draft


@pytest.mark.parametrize("token", [0, 49, 127])
def test_a_drafter_that_repeats_itself_changes_nothing(llm, fresh, token):
    result = llm.generate(
        PROMPT, task=Method("mine", Repeating(token), Fixed(PLAN)), max_new_tokens=NEW_TOKENS, temperature=0
    )
    assert result.token_ids == fresh
    assert result.stats.num_sibling_tokens > 0


def test_a_tree_for_a_model_that_verifies_chains_only_is_refused(llm):
    chains_only = scripted(llm, [1, 2, 3], prompt=len(PROMPT))

    with pytest.raises(DraftError, match="a tree, which this model cannot verify exactly"):
        chains_only.generate(PROMPT, task=Method("mine", Repeating(1), Fixed(PLAN)), max_new_tokens=5)


def test_tokens_drawn_from_nobody_knows_what_are_refused(llm, fresh):
    task = Method("mine", Repeating(1), Fixed(PLAN))

    with pytest.raises(DraftError, match="does not say which probabilities the tokens after node -1 were drawn from"):
        llm.generate(PROMPT, task=task, max_new_tokens=NEW_TOKENS, temperature=1.0)

    assert_as_new(llm, fresh)
