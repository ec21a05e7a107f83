"""What a draft's confidence is worth: how often a token of that confidence was accepted."""

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from conflayers.plan import LOOKUP, Plan
from conflayers.round import Round

# Narrow where most confidences lie and where small differences decide over long chains.
EDGES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99)
# What confidences in general are worth counts in every bin with this many observations' weight.
PRIOR = 4.0
# Confidences are taken at their word with the weight of so many misses.
TRUST = 2.0
# Misses that are remembered in general.
MISSES = 24.0
# Observations a bin remembers: texts change.
MEMORY = 60.0
# What remains of it in another text, where nothing is tried that was worth nothing before.
FADED = 0.25
# Plans remembered: the one in use, and those that were lately on trial beside it.
PLANS = 16


@dataclass(slots=True)
class Worth:
    """Acceptance by confidence, of drafts by one plan.

    Attributes:
        tried, accepted: by bin of confidence, tokens whose predecessors were all accepted, and of those the accepted.
        doubt, missed: over all bins, the misses that the confidences announced, and those that came: what a few
            observations tell of every bin, since a plan is too sure of itself, or too modest, throughout.
    """

    tried: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))
    accepted: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))

    doubt: float = TRUST
    missed: float = TRUST

    def acceptance(self, confidence: float) -> float:
        """The probability, 0 to 1, that a token of this confidence is accepted once all before it are."""
        at = bisect(EDGES, confidence)
        expected = max(1 - (1 - confidence) * self.missed / self.doubt, 0.0)
        return (self.accepted[at] + PRIOR * expected) / (self.tried[at] + PRIOR)

    def reach(self, confidences: Sequence[float]) -> float:
        """The probability that all of a chain is accepted."""
        return math.prod(self.acceptance(confidence) for confidence in confidences)

    @property
    def rate(self) -> float:
        """The probability that a token not drafted yet is accepted once all before it are; hopeful at first."""
        return (sum(self.accepted) + PRIOR) / (sum(self.tried) + PRIOR)

    def count(self, confidence: float, accepted: bool) -> None:
        """Count one token."""
        at = bisect(EDGES, confidence)
        if self.tried[at] >= MEMORY:
            self.tried[at] /= 2
            self.accepted[at] /= 2
        self.tried[at] += 1
        self.accepted[at] += accepted
        if self.missed + self.doubt > 2 * MISSES:
            self.missed /= 2
            self.doubt /= 2
        self.missed += not accepted
        self.doubt += 1 - confidence if confidence >= 0 else 1.0  # maybe not a number

    def faded(self, share: float) -> "Worth":
        """The same with a share of its weight."""
        tried, accepted = ([share * count for count in counts] for counts in (self.tried, self.accepted))
        return Worth(tried, accepted, TRUST + share * (self.doubt - TRUST), TRUST + share * (self.missed - TRUST))


@dataclass(slots=True)
class Calibration:
    """What confidences are worth, by plan."""

    plans: dict[Plan, Worth] = field(default_factory=dict)

    def of(self, plan: Plan) -> Worth:
        """Of the drafts by one plan; of a plan not seen lately, what its confidences say."""
        return self.plans.get(plan) or Worth()

    def another_text(self, plan: Plan) -> None:
        """Let what was seen of a plan weigh a quarter: what was worth nothing in one text gets a chance in the next."""
        if worth := self.plans.get(plan):
            self.plans[plan] = worth.faded(FADED)

    def learn(self, done: Round) -> None:
        """Count the accepted tokens of the main chain and the first rejected one."""
        if not done.drafted or done.plan is None:
            return
        for index, confidence in enumerate(done.confidences[: done.on_chain + 1]):
            source = LOOKUP if index in done.looked_up else done.plan
            worth = self.plans.pop(source, None) or Worth()
            self.plans[source] = worth  # the latest last
            worth.count(confidence, index < done.on_chain)
        while len(self.plans) > PLANS:
            del self.plans[next(iter(self.plans))]
