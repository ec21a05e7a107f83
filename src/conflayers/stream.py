"""What a request gives back: the pieces of an answer as they come, and the whole of it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.stats import Stats


@dataclass(frozen=True, slots=True)
class Result:
    """One generated answer.

    Attributes:
        text: the answer, special tokens left out; empty if the model came without a tokenizer.
        token_ids: the generated ids, the end-of-sequence token included.
        prompt_ids: the ids the model was given.
        stats: counts and times.
        plan: the plan in use at the end; None for plain decoding.
        decisions: what the method tried, adopted and gave up on the way, in words.
        standings: every way to draft that the method considered and what came of it, as `contest.Standing`; empty where
            it tells none.
    """

    text: str
    token_ids: list[int]
    prompt_ids: list[int]
    stats: Stats
    plan: Plan | None
    decisions: list[str]
    standings: list[Any] = field(default_factory=list)


class Stream(Iterator[str]):
    """The pieces of an answer as they are accepted. `result` is there once the last piece is out.

    Closing it, leaving a `with` block around it, or dropping it ends the request and leaves the model ready for the
    next. Until then the model answers no other request.
    """

    def __init__(self, pieces: Generator[str, None, Result]) -> None:
        self._pieces = pieces
        self._result: Result | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as stop:
            self._result = stop.value or self._result
            raise StopIteration from None

    @property
    def result(self) -> Result:
        """The whole answer.

        Raises:
            InputError: the stream has not been read to its end.
        """
        if self._result is None:
            raise InputError("the stream has not ended yet: read it to the end before asking for its result")
        return self._result

    def close(self) -> None:
        """End the request now."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
