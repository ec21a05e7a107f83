"""Which precision drafts are best in, before any sublayer is left out: one look at each.

A view of lower precision is a draft of its own, and may be one with sublayers left out. Its acceptance is seen on
recent tokens as any candidate's is, its draft step is timed, and the selection of layers goes on inside the best.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from conflayers.costs import Costs
from conflayers.plan import FULL, WHOLE, Plan
from conflayers.round import State
from conflayers.selectors.agreement import agreement
from conflayers.selectors.forecast import speedups, step_seconds
from conflayers.selectors.shortlist import ROUNDS


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of drafts in one precision: the share of tokens named, of how many, and seconds of a step."""

    acceptance: float
    tokens: int
    step: float


@dataclass(slots=True)
class Precisions:
    """Drafts by all of the model in lower precision.

    Attributes:
        unseen: precisions to look at yet; None until it is known which there are.
        looks: by precision.
    """

    unseen: list[str] | None = None
    clock: Callable[[], float] = time.perf_counter
    looks: dict[str, Look] = field(default_factory=dict)

    def look(self, state: State, count: int, costs: Costs) -> None:
        """See the next precision on the last `count` tokens, and time a step where it is not known what it takes."""
        assert self.unseen
        precision = self.unseen.pop(0)
        plan = FULL.at(precision)
        state.body.prepare(plan)
        known = costs.step_known(plan)
        step = costs.draft_step(plan) if known else step_seconds(state.body, state.tokens[-1], plan, self.clock)
        named, _ = agreement(state, plan, count)
        # With the weight of one token against it.
        self.looks[precision] = Look(named / (count + 1), count, step)

    def forecasts(self, costs: Costs) -> dict[Plan, tuple[float, float]]:
        """The speedup expected of each, and how many rounds that is worth."""
        return {
            FULL.at(precision): (self._speedup(look, costs), ROUNDS * look.tokens)
            for precision, look in self.looks.items()
        }

    def best(self, costs: Costs) -> tuple[str, float]:
        """The precision to leave out sublayers in, and the acceptance where none is left out."""
        worth = {precision: self._speedup(look, costs) for precision, look in self.looks.items()}
        best = max(worth, key=worth.__getitem__, default=WHOLE)
        return (best, self.looks[best].acceptance) if worth.get(best, 0.0) > 1 else (WHOLE, 1.0)

    def _speedup(self, look: Look, costs: Costs) -> float:
        step = look.step / max(costs.plain_step, 1e-9)
        return float(speedups(np.array([look.acceptance]), np.array([step]), costs)[0])
