"""How often a draft would be right about the next token: one pass over text that is verified already.

Every token is looked at by itself, behind the whole model's states of all tokens before it, as the first token of a
draft is. What an earlier mistake in the same draft would spoil does not show; neither is it in the acceptance of a
first token.
"""

from collections.abc import Sequence

import torch

from conflayers.plan import FULL, Plan
from conflayers.round import State
from conflayers.sampling import Greedy, Processed
from conflayers.selectors.teacher_forced import matchness


def agreement(state: State, plan: Plan, count: int) -> float:
    """Of the last `count` generated tokens, how many the draft of `plan` says itself.

    Where tokens are drawn and draft and target do not share their noise, it is the expected number accepted by
    rejection sampling, the sum of min(p, q), which takes a second pass, by the whole model. A model that cannot verify
    trees reads the tokens as a text instead, each behind the draft's own states of those before it.

    Args:
        state: the request; at least `count` tokens are generated, and all but the last are cached.
        plan: what the draft skips.
        count: 1 or more.

    Returns:
        0 to `count`.
    """
    tokens, length = state.tokens, state.body.length
    if not state.body.trees:
        return matchness(state, plan, length - count, length + 1) * count
    asked = tokens[length - count : length]
    with state.body.running(plan):
        said = state.body.replay(asked)
    if isinstance(state.sampler, Greedy):
        return _named(state.sampler, tokens, length - count, said)
    with state.body.running(FULL):
        target = state.body.replay(asked)
    assert isinstance(state.sampler, Processed)
    return _overlap(state.sampler, tokens, length - count, said, target)


def _named(sampler: Greedy, tokens: Sequence[int], first: int, said: torch.Tensor) -> int:
    """How many of the tokens from `first` + 1 on the sampler takes from these logits [tokens, vocabulary]."""
    wanted = tokens[first + 1 : first + 1 + len(said)]
    if type(sampler) is Greedy and not sampler.processors:
        return sum(a == b for a, b in zip(said.float().argmax(-1).tolist(), wanted, strict=True))
    proposals = (sampler.propose(tokens[: first + 1 + row], logits) for row, logits in enumerate(said))
    return sum(p is not None and p.token == token for p, token in zip(proposals, wanted, strict=True))


def _overlap(sampler: Processed, tokens: Sequence[int], first: int, said: torch.Tensor, target: torch.Tensor) -> float:
    shared = 0.0
    for row, logits in enumerate(said):
        prefix = tokens[: first + 1 + row]
        q, p = (sampler.scores(prefix, scores).softmax(-1) for scores in (logits, target[row]))
        shared += float(torch.minimum(p, q).sum())
    return shared
