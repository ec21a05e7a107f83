"""A model without a model, where everything that takes time takes a time that is known."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from doubles import FakeBody, Ticks
from transformers import LogitsProcessorList

from conflayers.bench.spec import split
from conflayers.decoding import decode
from conflayers.methods import build_method
from conflayers.sampling import Greedy
from conflayers.stats import Stats

# What each part takes.
PASS, ROW, LAYER = 10.0, 1.0, 1.0  # of a pass, of each row but the first; less LAYER for each layer left out
PROPOSE, BESIDE, MORE = 0.25, 0.5, 0.125  # of a drafted token, beside its pass
ACCEPT, KEEP, LEARN, TEXT = 0.75, 0.375, 2.0, 1.5  # of a round, beside its pass; plain rounds learn nothing
PREPARE = 7.0  # of a request, before its first pass


class PricedBody(FakeBody):
    """Every fourth token is one that no draft says."""

    def __init__(self, clock: Ticks, **changes) -> None:
        super().__init__(agrees=lambda plan, position: position % 4 > 0, trees=True, **changes)
        self.clock = clock

    def forward(self, tokens, **arguments):
        self.clock.now += PASS + ROW * (len(tokens) - 1) - LAYER * len(self.plan.whole_layers)
        return super().forward(tokens, **arguments)

    def keep(self, start, rows):
        self.clock.now += KEEP
        super().keep(start, rows)


class PricedSampler(Greedy):
    def __init__(self, clock: Ticks) -> None:
        super().__init__(LogitsProcessorList())
        self.clock = clock

    def propose(self, prefix, logits, best=None):
        self.clock.now += PROPOSE
        return super().propose(prefix, logits, best)

    def accept(self, prefix, draft, logits, best=None):
        self.clock.now += ACCEPT
        return super().accept(prefix, draft, logits, best)


class PricedLength:
    """A rule of the drafter, which takes its time."""

    def __init__(self, inner, clock: Ticks) -> None:
        self.inner, self.clock = inner, clock

    def rule(self, plan):
        inner = self.inner.rule(plan)

        def more(confidence, drafted):
            self.clock.now += MORE
            return inner(confidence, drafted)

        return more

    def learn(self, done):
        self.clock.now += LEARN if done.drafted else 0
        self.inner.learn(done)


class PricedSiblings:
    """Finds none, and takes its time."""

    asked = False

    def __init__(self, clock: Ticks) -> None:
        self.clock = clock

    def beside(self, proposal, before, plan, sampler):
        self.clock.now += BESIDE
        return []


class PricedLlm:
    """What a calibration needs of an Llm.

    Attributes:
        disturb: seconds that every round takes longer, by the request's number, from 0.
        prompts, choices: what requests came with.
    """

    def __init__(self, disturb=lambda request: 0.0, end=frozenset(), **changes) -> None:
        self.clock = Ticks()
        self.body = PricedBody(self.clock, **changes)
        self.disturb, self.end = disturb, end
        self.prompts: list[list[int]] = []
        self.choices: set[tuple] = set()

    def task(self, method, plan, **options):
        made = build_method(method, self.body.layers, plan, **options)
        if plan is None:
            return made
        drafter = replace(
            made.drafter, length=PricedLength(made.drafter.length, self.clock), siblings=PricedSiblings(self.clock)
        )
        return replace(made, drafter=drafter)

    def stream(self, ids, *, task, max_new_tokens, **choice) -> Iterator[int]:
        self.choices.add(tuple(sorted(choice.items())))
        self.prompts.append(ids)
        return self._stream(ids, task, max_new_tokens, Stats())

    def _stream(self, ids: Sequence[int], task, count: int, stats: Stats) -> Iterator[int]:
        self.clock.now += PREPARE
        slow = self.disturb(len(self.prompts) - 1)
        rounds = decode(
            self.body,
            task,
            ids,
            sampler=PricedSampler(self.clock),
            max_new_tokens=count,
            end=self.end,
            stats=stats,
            clock=self.clock,
        )
        for kept in rounds:
            self.clock.now += TEXT + slow
            yield from kept

    def answer(self, name: str, plan, prompt: Sequence[int], count: int) -> tuple[float, Stats, list[int]]:
        """Seconds, counts and tokens of a whole request, as a benchmark would run it."""
        (method, options), stats, begun = split(name), Stats(), self.clock.now
        tokens = list(self._stream(list(prompt), self.task(method, plan, **options), count, stats))
        return self.clock.now - begun, stats, tokens
