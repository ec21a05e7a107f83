"""The cache against transformers' own growing layers, rebuilt from the tokens that should be visible."""

from collections.abc import Collection
from contextlib import suppress

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from conflayers.body.cache import STEP, PositionedCache

CAPACITY = 24
HEADS = 2
# Not the same: models with compressed keys and values have heads of different widths.
KEY_WIDTH, VALUE_WIDTH = 3, 2


def states(tokens: list[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that tell token and layer, [1, heads, tokens, width]."""
    column = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None] + 1000 * layer
    return column.expand(1, HEADS, -1, KEY_WIDTH), -column.expand(1, HEADS, -1, VALUE_WIDTH)


def naive_layer(window: int | None, tokens: list[int], layer: int) -> DynamicLayer:
    """transformers' layer after it has seen `tokens`."""
    grown = DynamicLayer() if window is None else DynamicSlidingWindowLayer(sliding_window=window)
    if tokens:
        grown.update(*states(tokens, layer))
    return grown


class CacheMachine(RuleBasedStateMachine):
    """Passes, drafts that leave layers out, rollbacks and preserved stretches, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[int] = []
        self.token = 0

    @initialize(windows=st.lists(st.none() | st.integers(2, 9), min_size=1, max_size=3))
    def start(self, windows: list[int | None]) -> None:
        self.windows = windows
        self.cache = PositionedCache(windows, CAPACITY)

    def forward(self, before: list[int], count: int, layers: Collection[int]) -> list[int]:
        """One forward pass after the tokens `before`; what every layer exposes is checked. Returns the new tokens."""
        new = [self.token + step for step in range(1, count + 1)]
        self.token += count
        self.cache.check_room(count)
        for layer in layers:
            grown = naive_layer(self.windows[layer], before, layer)
            assert self.cache.get_mask_sizes(count, layer) == grown.get_mask_sizes(count)
            exposed, wanted = self.cache.update(*states(new, layer), layer), grown.update(*states(new, layer))
            assert torch.equal(exposed[0], wanted[0])
            assert torch.equal(exposed[1], wanted[1])
            assert exposed[0].shape[2] == grown_length(self.windows[layer], len(before), count)
        self.cache.advance(count)
        return new

    @property
    def room(self) -> int:
        return CAPACITY - len(self.committed)

    @rule(count=st.integers(1, 10))
    def append(self, count: int) -> None:
        if count > self.room:
            with pytest.raises(IndexError, match="cannot hold"):
                self.cache.check_room(count)
            return
        self.committed += self.forward(self.committed, count, range(len(self.windows)))

    @precondition(lambda self: self.room)
    @rule(steps=st.integers(1, 5), data=st.data())
    def draft_and_roll_back(self, steps: int, data: st.DataObject) -> None:
        """Some layers see the drafted tokens, others keep stale rows at their positions."""
        layers = data.draw(st.sets(st.integers(0, len(self.windows) - 1)))
        drafted: list[int] = []
        for _ in range(min(steps, self.room)):
            drafted += self.forward(self.committed + drafted, 1, layers)
        assert self.cache.get_seq_length() == len(self.committed) + len(drafted)
        self.cache.rollback(len(self.committed))

    @rule(share=st.floats(0, 1))
    def roll_back(self, share: float) -> None:
        length = int(share * len(self.committed))
        self.cache.rollback(length)
        del self.committed[length:]

    @rule(share=st.floats(0, 1), count=st.integers(1, 6), breaks=st.booleans(), data=st.data())
    def preserve(self, share: float, count: int, breaks: bool, data: st.DataObject) -> None:
        """What is written inside is gone afterwards, whether the inside ends well or in an exception."""
        start = int(share * min(len(self.committed), CAPACITY - 1))
        layers = data.draw(st.sets(st.integers(0, len(self.windows) - 1)))
        with suppress(KeyError), self.cache.preserve(start):
            assert self.cache.length == start
            self.forward(self.committed[:start], min(count, CAPACITY - start), layers)
            if breaks:
                raise KeyError("planted")

    @invariant()
    def every_layer_has_the_length_of_the_text(self) -> None:
        if hasattr(self, "cache"):
            assert self.cache.length == len(self.committed)
            for layer in range(len(self.windows)):
                assert self.cache.get_seq_length(layer) == len(self.committed)


def grown_length(window: int | None, before: int, count: int) -> int:
    """Rows the attention may read, counted by hand."""
    return count + (before if window is None else min(before, window - 1))


TestAnySequenceOfOperations = CacheMachine.TestCase
TestAnySequenceOfOperations.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("length", [-1, 4])
def test_rolling_back_to_where_the_text_is_not_is_an_error(length: int) -> None:
    cache = PositionedCache([None], CAPACITY)
    cache.update(*states([1, 2, 3], 0), 0)
    cache.advance(3)
    with pytest.raises(IndexError, match=f"cannot roll back to {length} tokens: the cache holds 3"):
        cache.rollback(length)
    with pytest.raises(IndexError), cache.preserve(length):
        pytest.fail("entered")
    assert cache.length == 3


def test_more_tokens_than_there_is_room_for_are_an_error() -> None:
    cache = PositionedCache([None, 4], CAPACITY)
    cache.advance(CAPACITY)
    with pytest.raises(IndexError, match=f"cache of {CAPACITY} rows cannot hold {CAPACITY + 1}"):
        cache.check_room(1)
    with pytest.raises(IndexError):
        cache.advance(1)
    assert cache.length == CAPACITY


def test_buffers_are_allocated_once_and_in_the_type_of_the_states() -> None:
    cache = PositionedCache([None, 4], CAPACITY)
    pointers = set()
    for token in range(10):
        keys, values = states([token], 1)
        cache.update(keys.bfloat16(), values.bfloat16(), 1)
        cache.advance(1)
        pointers.add((cache.layers[1].keys.data_ptr(), cache.layers[1].values.data_ptr()))
    assert len(pointers) == 1
    assert cache.layers[1].keys.dtype == torch.bfloat16
    assert cache.layers[1].keys.shape == (1, HEADS, STEP, KEY_WIDTH)
    assert cache.layers[0].keys is None
    assert cache.get_max_length(1) == CAPACITY
