"""How often a draft would be right about the next token: one pass over text that is verified already.

Every token is looked at by itself, behind the whole model's states of all tokens before it, as the first token of a
draft is. What an earlier mistake in the same draft would spoil does not show; neither is it in the acceptance of a
first token.
"""

from collections.abc import Sequence

import torch

from conflayers.body.contract import Pass
from conflayers.plan import FULL, Plan
from conflayers.round import State
from conflayers.sampling import Greedy, Processed
from conflayers.selectors.teacher_forced import matchness

# Siblings that a token which the draft does not say may be among.
SIBLINGS = 5


def agreement(state: State, plan: Plan, count: int) -> tuple[float, float]:
    """Of the last `count` generated tokens, how many the draft of `plan` says itself, and how many it nearly says.

    Nearly said are those among the few next likely ones, which a tree has as siblings; they are counted for plain
    greedy decoding on bodies whose drafts are trees, and are none elsewhere.

    Where tokens are drawn and draft and target do not share their noise, it is the expected number accepted by
    rejection sampling, the sum of min(p, q), which takes a second pass, by the whole model. A model that cannot verify
    trees reads the tokens as a text instead, each behind the draft's own states of those before it.

    Args:
        state: the request; at least `count` tokens are generated, and all but the last are cached.
        plan: what the draft skips.
        count: 1 or more.

    Returns:
        Two numbers of 0 or more, together at most `count`.
    """
    tokens, length = state.tokens, state.body.length
    if not state.body.trees:
        return matchness(state, plan, length - count, length + 1) * count, 0.0
    asked = tokens[length - count : length]
    with state.body.running(plan):
        said = state.body.replay(asked)
    if isinstance(state.sampler, Greedy):
        return _named(state.sampler, tokens, length - count, said, 0 if state.body.steady else SIBLINGS)
    with state.body.running(FULL):
        target = state.body.replay(asked).logits
    assert isinstance(state.sampler, Processed)
    return _overlap(state.sampler, tokens, length - count, said.logits, target), 0.0


def _named(sampler: Greedy, tokens: Sequence[int], first: int, said: Pass, siblings: int) -> tuple[float, float]:
    """Of the tokens from `first` + 1 on, how many the sampler takes from a pass, and how many are among the next."""
    rows = said.logits
    wanted = tokens[first + 1 : first + 1 + len(rows)]
    if type(sampler) is not Greedy or sampler.processors:
        proposals = (sampler.propose(tokens[: first + 1 + row], logits) for row, logits in enumerate(rows))
        return sum(p is not None and p.token == token for p, token in zip(proposals, wanted, strict=True)), 0.0
    if said.best and not siblings:
        return sum(best == token for (best, _), token in zip(said.best, wanted, strict=True)), 0.0
    likely = rows.float().topk(min(1 + siblings, rows.shape[-1]), -1).indices.tolist()
    places = [row.index(token) if token in row else None for row, token in zip(likely, wanted, strict=True)]
    named = places.count(0)
    return named, len(places) - places.count(None) - named


def _overlap(sampler: Processed, tokens: Sequence[int], first: int, said: torch.Tensor, target: torch.Tensor) -> float:
    shared = 0.0
    for row, logits in enumerate(said):
        prefix = tokens[: first + 1 + row]
        q, p = (sampler.scores(prefix, scores).softmax(-1) for scores in (logits, target[row]))
        shared += float(torch.minimum(p, q).nan_to_num(0.0).sum())  # a draft may be no number
    return shared
