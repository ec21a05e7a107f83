"""A preallocated key-value cache indexed by position: rolling back is setting a length."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

# Attention sums over the rows it is given in blocks; in multiples of this many rows, what stands behind the last one
# that counts does not change how those before it are summed.
STEP = 32


class PositionedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one attention layer, written at the owner's current position.

    The buffers have shape [1, heads, capacity, head_dim]. A layer keeps no length of its own: a layer that a draft
    skipped simply holds stale rows there until the verification pass, which runs every layer, overwrites them.
    """

    is_croppable = False

    def __init__(self, owner: "PositionedCache", window: int | None) -> None:
        super().__init__()
        self.owner = owner
        self.window = window
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate both buffers for the owner's capacity, in the shape, dtype and device of the first states."""
        rows = self.owner.rows
        # Zeros: who reads rows behind the last, masked, must not meet what is no number.
        self.keys = key_states.new_zeros((*key_states.shape[:2], rows, key_states.shape[3]))
        self.values = value_states.new_zeros((*value_states.shape[:2], rows, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new rows at the current position and return every row the attention may read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start, count = self.owner.length, key_states.shape[2]
        if self.owner.is_aside:
            seen = slice(self.first_visible(), start)
            return (
                torch.cat([self.keys[:, :, seen], key_states], 2),
                torch.cat([self.values[:, :, seen], value_states], 2),
            )
        # Once a layer and step: `narrow` takes a third of the time of an index.
        self.keys.narrow(2, start, count).copy_(key_states)
        self.values.narrow(2, start, count).copy_(value_states)
        return self.visible(count)

    def visible(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows the attention of `count` tokens may read, which have just been written at the current position."""
        assert self.keys is not None
        assert self.values is not None
        first = self.first_visible()
        rows = self.owner.rounded(self.owner.length + count) - first
        return self.keys.narrow(2, first, rows), self.values.narrow(2, first, rows)

    def first_visible(self) -> int:
        """The first row that a token at the current position may read."""
        return 0 if self.window is None else max(self.owner.length - self.owner.back - self.window + 1, 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(rows returned by `update`, position of the first of them), as transformers' mask builders want them."""
        first = self.first_visible()
        return self.owner.length + query_length - first, first

    def get_seq_length(self) -> int:
        """Tokens in the cache, the same for every layer whether or not a draft skipped it."""
        return self.owner.length

    def get_max_length(self) -> int:
        """Rows allocated."""
        return self.owner.capacity


class PositionedCache(Cache):  # type: ignore[misc]
    """One cursor over all layers: `length` tokens are valid, everything past it is free to be overwritten.

    Args:
        windows: for each layer that keeps keys and values, its sliding window in tokens, or None for full attention.
        capacity: tokens that can be held.
    """

    def __init__(self, windows: list[int | None], capacity: int) -> None:
        self.length = 0
        self.capacity = capacity
        self.is_aside = False
        self.back = 0
        self.step = 1
        super().__init__(layers=[PositionedLayer(self, window) for window in windows])

    @property
    def kinds(self) -> set[tuple[torch.dtype, torch.device]]:
        """What is held and where; nothing while nothing is. Under autocast values are of another kind than keys."""
        held = next((layer for layer in self.layers if layer.is_initialized), None)
        return set() if held is None else {(part.dtype, part.device) for part in (held.keys, held.values)}

    @property
    def rows(self) -> int:
        """Rows that every layer has: the capacity, and as many more as a reader of whole steps may see."""
        return -(-self.capacity // STEP) * STEP

    def rounded(self, end: int) -> int:
        """The rows returned to a reader of the first `end`: up to the next whole `step`."""
        return -(-end // self.step) * self.step

    @contextmanager
    def in_steps(self) -> Iterator[None]:
        """Let layers return rows up to the next multiple of `STEP` inside; those behind the last are to be masked."""
        self.step = STEP
        try:
            yield
        finally:
            self.step = 1

    def check_room(self, tokens: int) -> None:
        """Raise IndexError if `tokens` more would not fit."""
        if self.length + tokens > self.capacity:
            raise IndexError(f"cache of {self.capacity} rows cannot hold {self.length + tokens}")

    def advance(self, tokens: int) -> None:
        """Count `tokens` rows, just written by a forward pass, as valid."""
        self.check_room(tokens)
        self.length += tokens

    def rollback(self, length: int) -> None:
        """Forget every token from position `length` on. Costs nothing: rows are overwritten when written again."""
        if not 0 <= length <= self.length:
            raise IndexError(f"cannot roll back to {length} tokens: the cache holds {self.length}")
        self.length = length

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the tokens from position `start` on keep those at offsets `rows`, rising, moved up to `start`."""
        end = start + len(rows)
        if rows and rows[-1] >= self.length - start:
            raise IndexError(f"cannot keep row {start + rows[-1]}: the cache holds {self.length} tokens")
        # The rows that are in place already, usually all of them, are not touched.
        first = next((i for i, row in enumerate(rows) if row != i), None)
        if first is not None:
            moved = slice(start + first, end)
            for layer in self.layers:
                if layer.is_initialized:
                    source = torch.tensor([start + row for row in rows[first:]], device=layer.keys.device)
                    layer.keys[:, :, moved] = layer.keys.index_select(2, source)
                    layer.values[:, :, moved] = layer.values.index_select(2, source)
        self.rollback(end)

    @contextmanager
    def again(self, tokens: int) -> Iterator[None]:
        """Let the last `tokens` be run once more behind themselves inside, and forget what was written there.

        Layers with a sliding window return as many rows more, so that the first of these tokens sees all of its own.
        """
        length = self.length
        self.back = tokens
        try:
            yield
        finally:
            self.length, self.back = length, 0

    @contextmanager
    def aside(self, start: int) -> Iterator[None]:
        """Let passes run behind the first `start` tokens inside without being written down, however many their tokens.

        Every layer's visible rows are copied in every pass, so this is for passes that are rare.
        """
        length = self.length
        self.rollback(start)
        self.is_aside = True
        try:
            yield
        finally:
            self.length, self.is_aside = length, False

    @contextmanager
    def preserve(self, start: int) -> Iterator[None]:
        """Let the rows from position `start` on be overwritten inside, and put them and the length back afterwards.

        Only those rows are copied, so the cost is that of the tokens and not of the context.
        """
        length = self.length
        self.rollback(start)
        saved = [
            (layer, layer.keys[:, :, start:length].clone(), layer.values[:, :, start:length].clone())
            for layer in self.layers
            if layer.is_initialized
        ]
        try:
            yield
        finally:
            for layer, keys, values in saved:
                layer.keys[:, :, start:length] = keys
                layer.values[:, :, start:length] = values
            self.length = length
