"""What a draft step and a verification cost, measured while decoding, and what a plan is worth by these costs."""

from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from conflayers.plan import Plan

# Medians over this many recent measurements follow a growing context and shrug off a disturbed one.
RECENT = 15

Typical = Callable[[Iterable[float]], float]


def _recent() -> deque[float]:
    return deque(maxlen=RECENT)


@dataclass(slots=True)
class Costs:
    """Recent seconds of draft steps by plan and of verifications by number of rows.

    Attributes:
        layers: decoder layers of the model.
        steps, passes: what was measured.
    """

    layers: int
    steps: dict[Plan, deque[float]] = field(default_factory=dict)
    passes: dict[int, deque[float]] = field(default_factory=dict)

    def observe(self, plan: Plan | None, drafted: int, draft_seconds: float, verify_seconds: float) -> None:
        """Learn from one round. Times that a clock could not have measured are left out."""
        if plan is not None and drafted and draft_seconds > 0:
            self.steps.setdefault(plan, _recent()).append(draft_seconds / drafted)
        if verify_seconds > 0:
            self.passes.setdefault(drafted + 1, _recent()).append(verify_seconds)

    def forget(self, plan: Plan) -> None:
        """Drop what is known of a plan that is given up."""
        self.steps.pop(plan, None)

    def forget_plain(self) -> None:
        """Drop what is known of plain steps, before they are measured anew."""
        self.passes.pop(1, None)

    @property
    def known(self) -> bool:
        """Whether a plain step has been measured."""
        return 1 in self.passes

    @property
    def plain_step(self) -> float:
        """Seconds of one step of plain decoding."""
        return self._pass(1, median)

    def verification(self, rows: float, typical: Typical = median) -> float:
        """Seconds of a pass of the whole model over `rows` tokens, between what was measured on either side.

        Never less than a plain step: where it was, the machine was busier when plain steps were measured.
        """
        return max(self._pass(rows, typical), self.plain_step)

    def _pass(self, rows: float, typical: Typical) -> float:
        counts = sorted(self.passes)
        if not counts:
            return 0.0
        seconds = [typical(self.passes[count]) for count in counts]
        above = bisect(counts, rows)
        if above == 0:
            return seconds[0]
        if above == len(counts):
            return seconds[-1]
        low, high = counts[above - 1], counts[above]
        return seconds[above - 1] + (seconds[above] - seconds[above - 1]) * (rows - low) / (high - low)

    def draft_step(self, plan: Plan, typical: Typical = median) -> float:
        """Seconds of one draft step, as far as measured; a plain step's until then.

        Never less than the share of a plain step that still runs, for the same reason.
        """
        measured = typical(self.steps[plan]) if plan in self.steps else self.plain_step
        return max(measured, (1 - plan.skip_ratio(self.layers)) * self.plain_step)

    def round_seconds(self, plan: Plan, drafted: float, typical: Typical = median) -> float:
        """Expected seconds of a round that drafts `drafted` tokens by `plan` and verifies them.

        Args:
            plan: what the draft skips.
            drafted: tokens drafted, on average.
            typical: the figure that stands for the recent measurements: `median`, or `min` for the best case.
        """
        return drafted * self.draft_step(plan, typical) + self.verification(drafted + 1, typical)


@dataclass(slots=True)
class Yield:
    """What rounds with one plan brought: counts only, their price comes from `Costs`."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, drafted: int, accepted: int) -> None:
        """Count one round."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted

    def speedup(self, plan: Plan, costs: Costs) -> float:
        """Expected tokens per second over plain decoding's; 1 where nothing is known yet."""
        return self._speedup(self.accepted, plan, costs, median)

    def optimistic_speedup(self, plan: Plan, costs: Costs) -> float:
        """The same, were the acceptance as high as the few rounds so far allow for, and every round the fastest.

        The accepted tokens are a count, so about one standard deviation above it is sqrt(count + 1).
        """
        return self._speedup(self.accepted + (self.accepted + 1) ** 0.5, plan, costs, min)

    def _speedup(self, accepted: float, plan: Plan, costs: Costs, typical: Typical) -> float:
        if not self.rounds:
            return 1.0
        seconds = costs.round_seconds(plan, self.drafted / self.rounds, typical)
        return (1 + accepted / self.rounds) * costs.plain_step / seconds if seconds > 0 else 1.0
