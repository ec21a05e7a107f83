"""What a drafter proposes: a tree of tokens, of which a chain is the narrowest. Pure: no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from conflayers.errors import DraftError

# The node that every draft grows from: the last committed token.
ROOT = -1
# Siblings in one draft, for which the cache keeps room. The published widths stay below it.
MOST_SIBLINGS = 128


@dataclass(slots=True)
class Draft:
    """Drafted tokens, the main chain first and then its siblings.

    With the main chain first, accepting any part of it leaves the cache rows where they are.

    Attributes:
        tokens: one a node.
        parents: for each node the index of the node it follows, or `ROOT`; a node comes after its parent.
        chain: how many of the first nodes are the main chain, each following the one before.
        confidences: of the main chain's nodes, the probability the draft gave its likeliest token there, 0 to 1.
        looked_up: nodes of the main chain that were found in the text, without a draft step.
        drawn_from: node -> the probabilities [vocabulary] its children were drawn from, without replacement and in the
            order of the nodes; empty unless tokens were drawn at random.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    chain: int = 0
    confidences: list[float] = field(default_factory=list)
    looked_up: set[int] = field(default_factory=set)
    drawn_from: dict[int, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether there are no siblings."""
        return self.chain == len(self.tokens)

    def extend(self, token: int, confidence: float) -> None:
        """Add a token to the main chain, before any sibling is added."""
        self.parents.append(self.chain - 1)
        self.tokens.append(token)
        self.confidences.append(confidence)
        self.chain += 1

    def add_sibling(self, of: int, token: int) -> None:
        """Add a leaf beside node `of` of the main chain."""
        self.parents.append(self.parents[of])
        self.tokens.append(token)

    def children(self, node: int) -> Sequence[int]:
        """The nodes that follow `node`, in the order they were proposed."""
        if self.is_chain:
            return (node + 1,) if node + 1 < self.chain else ()
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def path(self, node: int) -> list[int]:
        """The nodes from the root's child down to `node`, which is the last; empty for the root."""
        if node < self.chain:
            return list(range(node + 1))
        return [*self.path(self.parents[node]), node]

    def text(self, node: int) -> list[int]:
        """The tokens along `path`."""
        return [self.tokens[step] for step in self.path(node)]

    def check(self, vocab_size: int, depth: int, *, trees: bool) -> None:
        """Raise DraftError if this is nothing to verify: drafters may be anybody's.

        Args:
            vocab_size: ids lie below it.
            depth: the most tokens one path may have.
            trees: whether there may be siblings.
        """
        count = len(self.tokens)
        if len(self.parents) != count or not 0 <= self.chain <= count:
            raise DraftError(f"the draft has {count} tokens, {len(self.parents)} parents and a chain of {self.chain}")
        if self.parents[: self.chain] != [*range(ROOT, self.chain - 1)]:
            raise DraftError(f"the parents {self.parents[: self.chain]} of the draft's main chain are no chain")
        for node, token in enumerate(self.tokens):
            if type(token) is not int or not 0 <= token < vocab_size:
                raise DraftError(f"the draft has token {token!r}; the model's ids are 0 to {vocab_size - 1}")
            parent = self.parents[node]
            if type(parent) is not int or not ROOT <= parent < node:
                raise DraftError(f"node {node} of the draft follows node {parent!r}, which is not before it")
        if self.chain > depth:
            raise DraftError(f"the draft has a chain of {self.chain} tokens where {depth} are of use")
        self._check_siblings(depth, trees)

    def _check_siblings(self, depth: int, trees: bool) -> None:
        siblings = len(self.tokens) - self.chain
        if siblings and not trees:
            raise DraftError("the draft is a tree, which this model cannot verify exactly: only chains are possible")
        if siblings > MOST_SIBLINGS:
            raise DraftError(f"the draft has {siblings} siblings, and {MOST_SIBLINGS} are the most")
        for node in range(self.chain, len(self.tokens)):
            if len(self.path(node)) > depth:
                raise DraftError(f"the draft goes {len(self.path(node))} tokens deep where {depth} are of use")

    @classmethod
    def of(cls, tokens: Sequence[int]) -> "Draft":
        """A chain of `tokens`."""
        return cls(list(tokens), [*range(-1, len(tokens) - 1)], len(tokens), [1.0] * len(tokens))
