"""Which drafted tokens stay. Pure: no model.

Greedy: the longest path that the target would have taken itself. Sampled: a child is kept with probability min(1, p/q),
and where it is not, the target goes on with what is left of p (Leviathan et al., arXiv 2211.17192; for siblings drawn
without replacement, Jeon et al., arXiv 2402.14160). Either way the text is distributed as the target's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from conflayers.chance import Chance
from conflayers.draft import ROOT, Draft
from conflayers.errors import DraftError


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification.

    Attributes:
        path: the accepted nodes of the draft, from the root on.
        tokens: their tokens, followed by the one token that the target's pass adds to them (the bonus token).
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted."""
        return len(self.path)


def accept_greedy(draft: Draft, choose: Callable[[int], int]) -> Verdict:
    """Follow the draft for as long as it has what the target would have said.

    Args:
        draft: the drafted tree.
        choose: node -> the target's own token after it.
    """
    node = ROOT
    path: list[int] = []
    tokens: list[int] = []
    while True:
        token = choose(node)
        tokens.append(token)
        node = next((child for child in draft.children(node) if draft.tokens[child] == token), ROOT)
        if node == ROOT:
            return Verdict(tuple(path), tuple(tokens))
        path.append(node)


def accept_sampled(draft: Draft, probabilities: Callable[[int], torch.Tensor], chance: Chance) -> Verdict:
    """Follow the draft by rejection sampling, so that every token is distributed as the target's.

    Args:
        draft: the drafted tree, with the probabilities its tokens were drawn from.
        probabilities: node -> the target's probabilities [vocabulary] of the token after it, processed the same way.
        chance: what decides.
    """
    node = ROOT
    path: list[int] = []
    tokens: list[int] = []
    while True:
        p = probabilities(node)
        kept, p = _try_children(draft, node, p, chance)
        if kept is None:
            tokens.append(chance.draw(p))
            return Verdict(tuple(path), tuple(tokens))
        node = kept
        path.append(kept)
        tokens.append(draft.tokens[kept])


def _try_children(draft: Draft, node: int, p: torch.Tensor, chance: Chance) -> tuple[int | None, torch.Tensor]:
    """The child that is kept, if any, and what is left of `p` once all that were tried before it were rejected."""
    q = draft.drawn_from.get(node)
    for child in draft.children(node):
        if q is None:
            raise DraftError(f"the draft does not say which probabilities the tokens after node {node} were drawn from")
        token = draft.tokens[child]
        # u * q < p rather than u < p / q: no division, and a token the target rules out is never kept.
        if chance.uniform() * float(q[token]) < float(p[token]):
            return child, p
        p, q = residual(p, q), without(q, token)
    return None, p


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """max(p - q, 0), normalised: what the target still owes after a token drawn from q was rejected.

    Where p and q are equal nothing is owed and nothing is rejected but by rounding; then it is p.
    """
    left = (p - q).clamp(min=0)
    total = left.sum()
    return left / total if total > 0 else p


def without(q: torch.Tensor, token: int) -> torch.Tensor:
    """q with `token` ruled out, normalised; all zero if nothing else was possible."""
    left = q.clone()
    left[token] = 0
    total = left.sum()
    return left / total if total > 0 else left


def cut_at_end(tokens: Sequence[int], end: frozenset[int]) -> tuple[tuple[int, ...], bool]:
    """`tokens` up to and including the first that ends a text, and whether there was one."""
    for index, token in enumerate(tokens):
        if token in end:
            return tuple(tokens[: index + 1]), True
    return tuple(tokens), False
