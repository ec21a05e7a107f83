"""The attention mask of a tree of tokens behind a cached text."""

from collections.abc import Sequence

import torch


def depths(parents: Sequence[int]) -> list[int]:
    """How far each token lies behind the cached text: 0 for those that follow it directly."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


def ancestry(parents: Sequence[int]) -> torch.Tensor:
    """[tokens, tokens]: whether the row's token has the column's among its ancestors, itself included."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            seen[row] |= seen[parent]
    return seen


def tree_mask(parents: Sequence[int], length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """What to add to the attention scores, [1, 1, tokens, columns]: 0 where a token sees a column, else very little.

    Additive, since eager attention adds whatever it is given. The columns are the rows that the cache returns: of the
    text those that the first token can see, then the tree's tokens.

    Args:
        parents: of each token of the tree; -1 for those that follow the text.
        length: tokens of the text.
        window: how many tokens back one sees, itself included; None for all.
        dtype: of the model.
    """
    first = 0 if window is None else max(length - window + 1, 0)
    depth = torch.tensor(depths(parents))
    sees = torch.ones(len(parents), length - first + len(parents), dtype=torch.bool)
    sees[:, length - first :] = ancestry(parents)
    if window is not None:
        positions = torch.cat([torch.arange(first, length), length + depth])
        sees &= (length + depth)[:, None] - positions[None] < window
    return torch.where(sees, 0.0, torch.finfo(dtype).min).to(dtype)[None, None]
