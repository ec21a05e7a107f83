"""What passes of each kind take at one length of context, timed in turns."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from conflayers.bench.ways import synchronise
from conflayers.body.portable import PortableBody
from conflayers.plan import FULL, Plan
from conflayers.profile.bandwidth import Clock

SIZES = (1, 2, 4, 8, 16)
REPEAT = 30
# Of a model whose passes are slow fewer turns are enough: these at least, and more within so many seconds.
LEAST, SECONDS = 5, 20.0
# Turns that are run and not counted, so that nothing is timed for the first time.
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of one kind of pass: the median and the least of its turns."""

    median: float
    best: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timed":
        """Of one or more turns."""
        return cls(median(seconds), min(seconds))

    def as_dict(self) -> dict[str, float]:
        """Milliseconds, as plain values for JSON."""
        return {"median_ms": self.median * 1e3, "best_ms": self.best * 1e3}


@dataclass(frozen=True, slots=True)
class Passes:
    """Passes at one length of context.

    Attributes:
        turns: how often each was timed.
        sizes: of the whole model, by the tokens they run.
        outer: over one token through the first and the last layer alone; None where the model has no others.
        inner: layers that this leaves out.
    """

    turns: int
    sizes: dict[int, Timed]
    outer: Timed | None
    inner: int

    @property
    def plain(self) -> Timed:
        """A pass over one token."""
        return self.sizes[1]

    @property
    def layer(self) -> float | None:
        """Seconds of one layer: what the inner ones add, each alike, by the best turns."""
        return None if self.outer is None else (self.plain.best - self.outer.best) / self.inner

    @property
    def beside_layers(self) -> float | None:
        """Seconds of a pass that are no layer's: embedding, last norm, head, and what comes once a pass."""
        if self.outer is None or self.layer is None:
            return None
        return self.outer.best - 2 * self.layer

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, as plain values for JSON."""
        return {
            "turns": self.turns,
            "tokens": {str(size): one.as_dict() for size, one in self.sizes.items()},
            "inner_layers": self.inner,
            "draft_step_without_them": None if self.outer is None else self.outer.as_dict(),
            "layer_ms": None if self.layer is None else self.layer * 1e3,
            "beside_layers_ms": None if self.beside_layers is None else self.beside_layers * 1e3,
        }


def passes(body: PortableBody, tokens: Sequence[int], clock: Clock = time.perf_counter) -> Passes:
    """Time passes of every kind in turns, so that a machine that drifts drifts for all alike.

    Args:
        body: its cache holds the context and has room for the largest pass; it then holds the same.
        tokens: what to run, as many as the largest pass takes.
        clock: seconds.
    """
    inner = Plan.layers(range(1, body.layers - 1))
    kinds: dict[Any, tuple[Plan, int]] = {size: (FULL, size) for size in SIZES}
    if inner != FULL:
        kinds[inner] = (inner, 1)
    times: dict[Any, list[float]] = {kind: [] for kind in kinds}
    begun = clock()
    for turn in range(WARM_UP + REPEAT):
        if turn >= WARM_UP + LEAST and clock() - begun > SECONDS:
            break
        for kind, (plan, size) in kinds.items():
            seconds = one_pass(body, tokens[:size], plan, clock)
            if turn >= WARM_UP:
                times[kind].append(seconds)
    timed = {kind: Timed.of(values) for kind, values in times.items()}
    sizes = {size: timed[size] for size in SIZES}
    return Passes(len(times[1]), sizes, timed.get(inner), len(inner.whole_layers))


def one_pass(body: PortableBody, tokens: Sequence[int], plan: Plan = FULL, clock: Clock = time.perf_counter) -> float:
    """Seconds of one pass, until the device has finished. The cache is then as before.

    Args:
        body: what runs.
        tokens: what it runs, one or more.
        plan: what it leaves out.
        clock: seconds.
    """
    length = body.length
    synchronise(body.model.device)
    begun = clock()
    with body.running(plan):
        body.forward(tokens)
    synchronise(body.model.device)
    seconds = clock() - begun
    body.rollback(length)
    return seconds
