"""What passes and draft steps are expected to take before a request has shown it, as shares of a plain step.

Shares and not seconds: a machine that is busy today is slower at all of it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conflayers.plan import Plan

# A draft step is never taken to be free: the embedding, the head and the round remain.
LEAST_STEP = 0.02


@dataclass(frozen=True, slots=True)
class Savings:
    """What leaving out one attention and one MLP spares of a draft step, and what a step takes that leaves out nothing.

    All as shares of a plain step.
    """

    attention: float
    mlp: float
    full: float = 1.0

    def step(self, plan: Plan) -> float:
        """A draft step by `plan`, in plain steps."""
        return max(self.full - self.attention * len(plan.attention) - self.mlp * len(plan.mlp), LEAST_STEP)


@dataclass(frozen=True, slots=True)
class Expected:
    """At one length of context.

    Attributes:
        context: tokens before.
        passes: passes over so many rows in plain steps, by rows, from 1 row on.
        savings: by precision, the whole model's among them.
    """

    context: int
    passes: tuple[tuple[int, float], ...]
    savings: Mapping[str, Savings]

    @property
    def row(self) -> float:
        """What one more row adds, beyond the second."""
        (few, least), (many, most) = self.passes[min(1, len(self.passes) - 2)], self.passes[-1]
        return max((most - least) / (many - few), 0.0)

    def verification(self, rows: float) -> float:
        """A pass over so many rows; beyond those that are known, each adds what the last ones added."""
        for (few, least), (many, most) in zip(self.passes, self.passes[1:], strict=False):
            if rows <= many:
                return least + (most - least) * (rows - few) / (many - few)
        many, most = self.passes[-1]
        return most + self.row * (rows - many)

    def step(self, plan: Plan) -> float | None:
        """A draft step by `plan`; None if nothing is known of its precision."""
        savings = self.savings.get(plan.precision)
        return None if savings is None else savings.step(plan)


def nearest(known: Iterable[Expected], context: int) -> Expected | None:
    """What is known of the context whose length is nearest as a ratio; None if nothing is."""
    return min(known, key=lambda one: abs(math.log(max(one.context, 1) / max(context, 1))), default=None)
