"""Tokens to text piece by piece: no character is split, and the pieces together are the whole text."""

from collections.abc import Sequence
from typing import Any

from conflayers.errors import InputError

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


def stop_texts(strings: Any) -> list[str]:
    """One text or several, as a list.

    Raises:
        InputError: no text, an empty one, or something else.
    """
    given = [strings] if isinstance(strings, str) else strings
    texts = isinstance(given, Sequence) and all(isinstance(string, str) and string for string in given)
    if not texts or not given:
        raise InputError(f"stop_strings must be one text or several, none empty, not {strings!r}")
    return list(given)


class StopStrings:
    """Ends a text where one of some strings is complete. One object is one request's.

    Args:
        tokenizer: a transformers tokenizer.
        strings: one or several, none of them empty.
        prompt: tokens of the prompt, in which nothing is looked for.

    Raises:
        InputError: no string, an empty one, or something else.
    """

    def __init__(self, tokenizer: Any, strings: str | Sequence[str], prompt: int) -> None:
        self.strings = stop_texts(strings)
        # Of the text before, what a string that is now completed may begin in.
        self._overlap = max(map(len, self.strings)) - 1
        self._detokenizer = Detokenizer(tokenizer)
        self._seen = prompt
        self._tail = ""

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the last of `tokens`, prompt included, complete one of the strings; none is looked at twice."""
        piece = self._detokenizer.push(tokens[self._seen :])
        self._seen = len(tokens)
        text = self._tail + piece
        self._tail = text[max(len(text) - self._overlap, 0) :]
        return any(string in text for string in self.strings)

    def cut(self, text: str, piece: str) -> str:
        """`piece`, which follows `text`, up to the end of the first string completed in it."""
        start = max(len(text) - self._overlap, 0)
        tail = text[start:] + piece
        ends = [tail.find(string) + len(string) for string in self.strings if string in tail]
        return piece[: max(min(ends) - (len(text) - start), 0)] if ends else piece
