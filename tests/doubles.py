"""A body without a model: what it says is a function of the position, and its drafts agree as they are told to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessorList

from conflayers.body.contract import Following, Pass, Trace, one_by_one
from conflayers.decoding import decode
from conflayers.plan import FULL, ModelIdentity, Plan
from conflayers.round import Method
from conflayers.sampling import Greedy
from conflayers.stats import Stats

VOCABULARY = 50
GREEDY = Greedy(LogitsProcessorList())


def said(position: int) -> int:
    """What the whole model puts at a position."""
    return (7 * position + 3) % VOCABULARY


@dataclass
class FakeBody:
    """Counts passes, and checks that every pass continues the text it has cached.

    Attributes:
        agrees: whether the draft of a plan says the model's own token at a position.
        sure: the probability the draft gives its token.
    """

    agrees: Callable[[Plan, int], bool] = lambda plan, position: True
    sure: float = 0.999
    layers: int = 8
    context: int = 4096
    vocab_size: int = VOCABULARY
    identity: ModelIdentity = field(default_factory=lambda: ModelIdentity("Fake", 8, 4, VOCABULARY, "0"))
    cached: list[int] = field(default_factory=list)
    plan: Plan = FULL
    passes: int = 0
    rows: list[int] = field(default_factory=list)
    draft_steps: int = 0
    recorded: int = 0
    fail_at: int | None = None
    trees: bool = False
    steady: bool = False
    text_start: int = 0

    def quick(self) -> tuple[str, ...]:
        return ()

    def prepare(self, plan: Plan) -> None:
        pass

    @property
    def length(self) -> int:
        return len(self.cached)

    def reserve(self, capacity: int) -> None:
        self.capacity = capacity
        self.cached = []

    def release(self) -> None:
        self.cached = []

    def rollback(self, length: int) -> None:
        assert 0 <= length <= len(self.cached)
        del self.cached[length:]

    @contextmanager
    def preserve(self, start: int) -> Iterator[None]:
        saved = self.cached[:]
        self.rollback(start)
        yield
        self.cached = saved

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        self.plan = plan
        try:
            yield
        finally:
            self.plan = FULL

    def keep(self, start: int, rows: Sequence[int]) -> None:
        self.cached[start:] = [self.cached[start + row] for row in rows]

    def forward(
        self,
        tokens: Sequence[int],
        *,
        parents: Sequence[int] | None = None,
        rows: int | None = None,
        record: int = 0,
    ) -> Pass:
        assert parents is None
        start = len(self.cached)
        self.cached.extend(tokens)
        assert len(self.cached) <= self.capacity
        if self.plan == FULL:
            self.passes += 1
            self.rows.append(len(tokens))
        else:
            self.draft_steps += 1
        if self.fail_at is not None and self.passes + self.draft_steps > self.fail_at:
            raise RuntimeError("planted")
        positions = range(start + 1, start + len(tokens) + 1)
        logits = torch.stack([self._logits(position) for position in positions])
        self.recorded += record
        hidden = torch.ones(record, 4)
        trace = Trace([hidden] * self.layers, [hidden] * self.layers) if record else None
        return Pass(logits[-rows:] if rows else logits, trace)

    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        one_by_one(self.forward, tokens, most, following)

    def _logits(self, position: int) -> torch.Tensor:
        token = said(position)
        if self.plan != FULL and not self.agrees(self.plan, position):
            token = (token + 1) % VOCABULARY
        row = torch.full((VOCABULARY,), (1 - self.sure) / (VOCABULARY - 1))
        row[token] = self.sure
        return row.log()


class Ticks:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    body: FakeBody,
    method: Method,
    new_tokens: int,
    *,
    prompt: Sequence[int] = (1, 2, 3),
    end: frozenset[int] = frozenset(),
    clock: Callable[[], float] | None = None,
) -> tuple[list[int], Stats]:
    stats = Stats()
    arguments = {} if clock is None else {"clock": clock}
    rounds = decode(body, method, prompt, sampler=GREEDY, max_new_tokens=new_tokens, end=end, stats=stats, **arguments)
    return [token for kept in rounds for token in kept], stats


def expected(new_tokens: int, prompt: int = 3) -> list[int]:
    return [said(prompt + i) for i in range(new_tokens)]
