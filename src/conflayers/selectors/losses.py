"""What drafting has lost to plain decoding so far, and how much it may lose. The rule is our own.

What is gained is taken off, so that what wins on one text may do a little worse than nothing on another.
"""

from dataclasses import dataclass

from conflayers.costs import Costs

# What may be lost: a share of all the time so far, and a few plain steps.
SHARE = 0.02
STEPS = 4.0
# Once too much was lost, drafting may begin again when no more than this share of what may be lost is.
AGAIN = 0.5


@dataclass(slots=True)
class Losses:
    """An account in seconds.

    Attributes:
        costs: with the price of a plain step.
        credit: how much of what was gained may be lost again before it counts, as a share of all the time so far.
        lost: to plain decoding; less than 0 where there is credit.
        elapsed: all the time so far.
    """

    costs: Costs
    credit: float = 0.0
    lost: float = 0.0
    elapsed: float = 0.0

    def add(self, seconds: float, spared: float) -> None:
        """Count seconds that were spent, and what plain decoding would have taken for the same tokens."""
        self.elapsed += seconds
        self.lost = max(self.lost + seconds - spared, -self.credit * self.elapsed)

    @property
    def allowed(self) -> float:
        """Seconds that may be lost."""
        return STEPS * self.costs.plain_step + SHARE * self.elapsed

    @property
    def exceeded(self) -> bool:
        """Whether more was lost than may be."""
        return self.lost > 0 and self.lost > self.allowed

    @property
    def forgiven(self) -> bool:
        """Whether little enough is lost to begin again."""
        return self.lost < AGAIN * self.allowed
