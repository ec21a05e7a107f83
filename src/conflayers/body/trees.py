"""The attention masks of tokens that are no text: a tree behind the cached one, and its last tokens once more."""

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
    return _additive(sees, dtype)


def text_mask(tokens: int, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """For `tokens` that follow a text of `length` one after the other; as `tree_mask`."""
    first = 0 if window is None else max(length - window + 1, 0)
    behind = torch.arange(length, length + tokens)[:, None] - torch.arange(first, length + tokens)[None]
    sees = behind >= 0
    if window is not None:
        sees &= behind < window
    return _additive(sees, dtype)


def later_mask(rows: int, capacity: int, dtype: torch.dtype) -> torch.Tensor:
    """What texts take their masks from, [rows, 2 * capacity]: the mask of `tokens` behind `length` cached ones over
    `columns`, without a window, is [:tokens, capacity - length :][:, :columns]."""
    behind = torch.arange(2 * capacity)[None] > capacity + torch.arange(rows)[:, None]
    return torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, torch.finfo(dtype).min)


def replay_mask(tokens: int, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """For the last `tokens` of a text of `length`, run once more behind it, each for itself; as `tree_mask`.

    Each sees the text before its own position, and itself in its new row, but neither its old row nor the others.
    """
    first = 0 if window is None else max(length - tokens - window + 1, 0)
    positions = torch.arange(length - tokens, length)
    text = torch.arange(first, length)
    sees = text[None] < positions[:, None]
    if window is not None:
        sees &= positions[:, None] - text[None] < window
    return _additive(torch.cat([sees, torch.eye(tokens, dtype=torch.bool)], 1), dtype)


def _additive(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[None, None]
