"""What a draft step and a verification cost, measured while decoding, and what a plan is worth by these costs."""

from bisect import bisect
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from conflayers.plan import Plan

# Medians over this many recent measurements follow a growing context and shrug off a disturbed one.
RECENT = 15


def _recent() -> deque[float]:
    return deque(maxlen=RECENT)


@dataclass(slots=True)
class Costs:
    """Recent seconds of draft steps by plan and of verifications by number of rows."""

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

    @property
    def known(self) -> bool:
        """Whether a plain step has been measured."""
        return 1 in self.passes

    def verification(self, rows: float) -> float:
        """Seconds of a pass of the whole model over `rows` tokens, between what was measured on either side."""
        counts = sorted(self.passes)
        if not counts:
            return 0.0
        seconds = [median(self.passes[count]) for count in counts]
        above = bisect(counts, rows)
        if above == 0:
            return seconds[0]
        if above == len(counts):
            return seconds[-1]
        low, high = counts[above - 1], counts[above]
        return seconds[above - 1] + (seconds[above] - seconds[above - 1]) * (rows - low) / (high - low)

    @property
    def plain_step(self) -> float:
        """Seconds of one step of plain decoding."""
        return self.verification(1)

    def draft_step(self, plan: Plan) -> float:
        """Seconds of one draft step, as far as measured; a plain step's until then."""
        return median(self.steps[plan]) if plan in self.steps else self.plain_step

    def round_seconds(self, plan: Plan, drafted: float) -> float:
        """Expected seconds of a round that drafts `drafted` tokens by `plan` and verifies them."""
        return drafted * self.draft_step(plan) + self.verification(drafted + 1)


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
        return self._speedup(self.accepted, plan, costs)

    def optimistic_speedup(self, plan: Plan, costs: Costs) -> float:
        """The same if the true acceptance were as high as the few rounds so far allow for.

        The accepted tokens are a count, so about 1.5 standard deviations above it are 1.5 * sqrt(count + 1).
        """
        return self._speedup(self.accepted + 1.5 * (self.accepted + 1) ** 0.5, plan, costs)

    def _speedup(self, accepted: float, plan: Plan, costs: Costs) -> float:
        if not self.rounds:
            return 1.0
        seconds = costs.round_seconds(plan, self.drafted / self.rounds)
        return (1 + accepted / self.rounds) * costs.plain_step / seconds if seconds > 0 else 1.0
