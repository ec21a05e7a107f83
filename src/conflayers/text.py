"""Tokens to text piece by piece: no character is split, and the pieces together are the whole text."""

from collections.abc import Sequence
from typing import Any

# What a tokenizer puts for bytes that are not yet a whole character.
INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns a growing list of token ids into a growing text.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        # Decoding starts a little before the new ids, since how a token reads depends on its neighbours.
        self._start = 0
        self._shown = 0

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` add, without a last character that is still incomplete."""
        self.ids.extend(ids)
        before = self._decode(self.ids[self._start : self._shown])
        after = self._decode(self.ids[self._start :])
        if after.endswith(INCOMPLETE) or len(after) <= len(before):
            return ""
        self._start, self._shown = self._shown, len(self.ids)
        return after[len(before) :]

    def finish(self) -> str:
        """What is left, incomplete characters as the tokenizer shows them."""
        before = self._decode(self.ids[self._start : self._shown])
        after = self._decode(self.ids[self._start :])
        self._shown = len(self.ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
