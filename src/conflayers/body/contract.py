"""What every body offers to drafters, selectors and the round. Nothing here knows a model."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from conflayers.plan import ModelIdentity, Plan


@dataclass(frozen=True, slots=True)
class Trace:
    """What the sublayers put out for the last tokens of one pass of the whole model.

    Attributes:
        attention: per layer, the attention's output before it is added to the residual stream, [tokens, hidden].
        mlp: per layer, the same of the MLP.
    """

    attention: list[torch.Tensor]
    mlp: list[torch.Tensor]

    @property
    def tokens(self) -> int:
        """Tokens recorded."""
        return self.attention[0].shape[0]

    def at(self, rows: Sequence[int]) -> "Trace":
        """The same for some of the tokens, given by their index."""
        if list(rows) == list(range(self.tokens)):
            return self
        kept = list(rows)
        return Trace([states[kept] for states in self.attention], [states[kept] for states in self.mlp])


def joined_traces(traces: Sequence[Trace]) -> Trace:
    """Those of passes over one piece of a text after the other, as if of one pass."""
    parts = ([one.attention for one in traces], [one.mlp for one in traces])
    attention, mlp = ([torch.cat(layers) for layers in zip(*part, strict=True)] for part in parts)
    return Trace(attention, mlp)


# A row's likeliest token, the first where several are, and its probability, 0 to 1.
Best = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Pass:
    """The result of one forward pass.

    Attributes:
        logits: [rows, vocabulary].
        trace: if one was asked for.
        best: of every row, where whoever ran the pass has looked; None elsewhere, and where a logit is no number.
    """

    logits: torch.Tensor
    trace: Trace | None = None
    best: Sequence[Best] | None = None


# Given a pass over the last token of a chain: the token to run next, or None where the chain ends.
Following = Callable[[Pass], int | None]

# What of a layer is to run.
LAYER, ATTENTION, MLP = "layer", "attention", "mlp"
# Runs a layer on states [branches, tokens, hidden]: all of it, or its attention or MLP alone.
Run = Callable[[torch.Tensor, str], torch.Tensor]
# Told a layer's index, the states that reach it and how to run it; returns the states that leave it, of that shape.
Step = Callable[[int, torch.Tensor, Run], torch.Tensor]


def one_by_one(forward: Callable[..., Pass], tokens: Sequence[int], most: int, following: Following) -> None:
    """`Body.chain` where each pass is a call of its own."""
    for _ in range(most):
        token = following(forward(tokens, rows=1))
        if token is None:
            break
        tokens = [token]


class Body(Protocol):
    """A model with its cache, driven by position.

    Attributes:
        layers: number of decoder layers.
        vocab_size: width of the logits.
        context: the most positions the model supports.
        length: tokens the cache holds.
        identity: what a saved plan is bound to.
        trees: whether `forward` can verify trees.
        text_start: first cached position from which on everything is sure to be text and not, say, an image.
    """

    layers: int
    vocab_size: int
    context: int
    identity: ModelIdentity
    trees: bool
    text_start: int

    @property
    def steady(self) -> bool:
        """Whether a chain of tokens has the logits that it has one token a pass, bit for bit."""
        ...

    @property
    def length(self) -> int:
        """Tokens the cache holds."""
        ...

    def reserve(self, capacity: int) -> None:
        """Empty the cache and make room for `capacity` tokens."""

    def release(self) -> None:
        """Give the cache's memory back."""

    def forward(
        self,
        tokens: Sequence[int],
        *,
        parents: Sequence[int] | None = None,
        rows: int | None = None,
        record: int = 0,
    ) -> Pass:
        """Run `tokens` at the positions that follow the cached ones, and cache them.

        Args:
            tokens: one or more token ids.
            parents: for a tree, the index of the token that each one follows; -1 for the last cached token. None for
                a text, where each follows the one before.
            rows: how many of the last positions logits are wanted for; None means all.
            record: how many of the last positions to trace; 0 records nothing.
        """
        ...

    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        """Run `tokens` as `forward` does, then one after the other those that `following` names, and cache them all.

        One call where passes are compiled: a draft's steps are so short that what lies between them counts.

        Args:
            tokens: one or more token ids.
            most: passes, 1 or more.
            following: told of every pass, whose logits [1, vocabulary] are its own only until it returns.
        """

    def running(self, plan: Plan) -> AbstractContextManager[None]:
        """Inside this context `forward` leaves out what `plan` skips; afterwards the model is as before."""
        ...

    def quick(self) -> tuple[str, ...]:
        """Precisions of lower precision than the whole's, the quickest first, in which products are measured to be
        faster than the whole model's own."""
        ...

    def prepare(self, plan: Plan) -> None:
        """Make what drafts by `plan` need, which else is made by the first of them."""

    def rollback(self, length: int) -> None:
        """Forget the cached tokens from position `length` on."""

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the tokens cached from position `start` on, keep those at offsets `rows`, rising, and forget the rest.

        They move to the positions from `start` on; in a tree that is a path, whose positions they were computed for.
        """

    def walk(self, tokens: Sequence[int], branches: int, step: Step) -> torch.Tensor:
        """Run the last cached tokens again in several branches, with a say in what goes from layer to layer.

        Only where `trees`. The cache stays as it is.

        Args:
            tokens: the last of the cache, one or more.
            branches: 1 or more; all begin with the tokens' embeddings.
            step: called for every layer, in order.

        Returns:
            What the model's head makes of the states that leave the last layer, [branches, tokens, vocabulary].
        """
        ...

    def replay(self, tokens: Sequence[int]) -> Pass:
        """Run the last cached tokens again, each for itself, against what the cache holds of the text before it.

        What a draft would say first after each of them, were all before it verified, in one pass. Only where `trees`.
        The cache stays as it is, and has room for as many tokens more.

        Args:
            tokens: the last of the cache, one or more.

        Returns:
            A pass with logits [tokens, vocabulary].
        """
        ...

    def preserve(self, start: int) -> AbstractContextManager[None]:
        """Inside this context, cached tokens from `start` on may be overwritten; afterwards they are back."""
        ...
