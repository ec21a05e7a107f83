"""What can be benchmarked: every method of the table, and the peers a user could pick instead."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from conflayers.api import Llm
from conflayers.round import Method
from conflayers.stats import Stats

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a way to decode made of one request.

    Attributes:
        token_ids: the new tokens, none behind the end of the text.
        seconds: wall time of the whole request.
        first_token_seconds: of these, until the first new token was there.
        stats: counts and times by phase, as far as they can be seen.
        plan: the plan in use at the end, in words; None for none.
    """

    token_ids: list[int]
    seconds: float
    first_token_seconds: float
    stats: Stats
    plan: str | None = None


class Way(Protocol):
    """One row of a benchmark.

    Attributes:
        name: of the row.
        same_text: whether its tokens must be plain decoding's.
    """

    name: str
    same_text: bool

    def begin(self) -> None:
        """A repeat begins: whatever was learnt is forgotten."""

    def run(self, ids: Sequence[int], count: int) -> Answer:
        """At most `count` new tokens behind `ids`."""
        ...


@dataclass(slots=True)
class Ours:
    """A method of the table, with one task for the whole stream of requests or a fresh one for each.

    Attributes:
        options: the method's own, its plan among them.
        choice: settings of how tokens are chosen.
        fresh: begin every request with nothing learnt.
        clock: seconds.
    """

    name: str
    llm: Llm
    method: str
    options: dict[str, Any]
    choice: dict[str, Any]
    fresh: bool = False
    clock: Clock = time.perf_counter
    same_text: bool = True
    task: Method | None = None

    def __post_init__(self) -> None:
        # Whatever is wrong with the options is raised before any time is spent.
        self.begin()
        # Drawn without a seed, every text is another one.
        self.same_text = not self.choice or "seed" in self.choice

    def begin(self) -> None:
        """Forget."""
        self.task = self.llm.task(self.method, **self.options)

    def run(self, ids: Sequence[int], count: int) -> Answer:
        """Decode; the wall clock is read when the device has finished."""
        if self.fresh:
            self.begin()
        synchronise(self.llm.model.device)
        begun = self.clock()
        stream = self.llm.stream(list(ids), task=self.task, max_new_tokens=count, **self.choice)
        # What is checked and prepared before the first pass is part of the wait for the first token.
        prepared = self.clock() - begun
        for _ in stream:
            pass
        synchronise(self.llm.model.device)
        seconds, result = self.clock() - begun, stream.result
        first = prepared + result.stats.first_token_seconds
        return Answer(result.token_ids, seconds, first, result.stats, None if result.plan is None else str(result.plan))


def synchronise(device: torch.device) -> None:
    """Wait for what an accelerator still has to do, so that time is counted where it is spent."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
