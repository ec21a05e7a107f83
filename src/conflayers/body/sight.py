"""Where the tokens of a pass are, and what each of them sees: a text, a tree, or a text's last tokens once more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from conflayers.body.trees import replay_mask, tree_mask


@dataclass(frozen=True, slots=True)
class Sight:
    """What tokens see, as columns: the rows of the cache, and behind them those of the pass itself.

    Attributes:
        length: rows the cache holds.
        based: for each token, how many of the cached rows it sees, from the first on.
        behind: for each token, which tokens of the pass it sees behind these, in order, itself last; None where they
            are a text, and each sees those before it.
        mask: makes the same as what is added to scores, [1, 1, tokens, columns]; None for a text.
    """

    length: int
    based: Sequence[int]
    behind: Sequence[Sequence[int]] | None = None
    mask: Callable[[], torch.Tensor] | None = None

    @classmethod
    def chain(cls, length: int, count: int) -> "Sight":
        """A text that goes on behind `length` cached tokens."""
        return cls(length, [length] * count)

    @classmethod
    def tree(cls, length: int, parents: Sequence[int]) -> "Sight":
        """A tree behind `length` cached tokens, by the parent of each of its own; -1 for the last cached one."""
        behind: list[list[int]] = []
        for token, parent in enumerate(parents):
            behind.append([*(behind[parent] if parent >= 0 else ()), token])
        mask = partial(tree_mask, parents, length, None, torch.float32)
        return cls(length, [length] * len(parents), behind, mask)

    @classmethod
    def replay(cls, length: int, count: int) -> "Sight":
        """The last of `length` cached tokens once more, each for itself: it sees what was before it, and itself."""
        mask = partial(replay_mask, count, length, None, torch.float32)
        return cls(length, range(length - count, length), [[token] for token in range(count)], mask)

    @property
    def positions(self) -> list[int]:
        """Of every token, in its text."""
        if self.behind is None:
            return [base + token for token, base in enumerate(self.based)]
        return [base + len(behind) - 1 for base, behind in zip(self.based, self.behind, strict=True)]

    def bias(self) -> torch.Tensor | None:
        """What to add to scores, [tokens, columns] in float32: 0 where a token sees a column, else very little. None
        for a text."""
        return None if self.mask is None else self.mask()[0, 0].contiguous()
