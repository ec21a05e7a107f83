"""How wide a draft is: how many other tokens are verified beside one of the main chain.

Only the main chain is drafted on, so siblings cost no draft steps, only rows of the verification. One that is accepted
where the chain is rejected saves about a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from conflayers.body.contract import Body
from conflayers.costs import Costs
from conflayers.drafters.calibration import Calibration
from conflayers.plan import Plan
from conflayers.sampling import Proposal, Sampler


class Siblings(Protocol):
    """A rule for the width of drafts.

    Attributes:
        asked: whether there are to be siblings even where chains alone are verified bit for bit.
    """

    asked: ClassVar[bool]

    def beside(self, proposal: Proposal, before: Sequence[float], plan: Plan, sampler: Sampler) -> list[int]:
        """Tokens to verify beside the proposed one.

        Args:
            proposal: the main chain's token.
            before: confidences of the main chain before it.
            plan: what the draft skips.
            sampler: who can name others.
        """
        ...


def wide(siblings: Siblings, body: Body) -> bool:
    """Whether a draft on this body may have siblings by this rule.

    A sibling is summed with others beside it, and so is not bit for bit what it would be in a text: where chains are,
    only who asks for siblings gets them.
    """
    return body.trees and (siblings.asked or not body.steady)


@dataclass(frozen=True, slots=True)
class NoSiblings:
    """A chain."""

    asked: ClassVar[bool] = False

    def beside(self, proposal: Proposal, before: Sequence[float], plan: Plan, sampler: Sampler) -> list[int]:
        """Nothing."""
        return []


@dataclass(frozen=True, slots=True)
class PublishedSiblings:
    """The widths of SWIFT and ConfLayers, as in their released code: fewer where the draft is surer of itself."""

    asked: ClassVar[bool] = True

    def beside(self, proposal: Proposal, before: Sequence[float], plan: Plan, sampler: Sampler) -> list[int]:
        """Up to 3, 5, 8 or 10 tokens a depth, the main one included; 1, 3, 5 or 10 where tokens are drawn."""
        widths = (1, 3, 5, 10) if sampler.random else (3, 5, 8, 10)
        p = proposal.confidence
        width = widths[0] if p > 0.95 else widths[1] if p > 0.8 else widths[2] if p > 0.5 else widths[3]
        return sampler.siblings(proposal, width - 1, lambda _: True) if width > 1 else []


@dataclass(frozen=True, slots=True)
class WorthwhileSiblings:
    """As many as are expected to save more time than their row of the verification costs. The rule is our own.

    A sibling is of use if the chain before it is accepted and the sibling is what the target says. On a machine where
    rows are dear, trees are narrow or chains.

    Attributes:
        costs: measured as decoding goes on.
        calibration: what confidences have been worth.
        most: siblings at one depth, 0 or more.
    """

    asked: ClassVar[bool] = False

    costs: Costs
    calibration: Calibration
    most: int = 9

    def beside(self, proposal: Proposal, before: Sequence[float], plan: Plan, sampler: Sampler) -> list[int]:
        """None until the price of a row has been measured."""
        if not self.costs.row_known or not 0 <= proposal.confidence < 1:
            return []
        worth, row = self.calibration.of(plan), self.costs.row_seconds
        value = worth.reach(before) * self.costs.token_seconds
        rejected = 1 - worth.acceptance(proposal.confidence)
        # All siblings together are right at most that often: no ranking is made where even this would not pay.
        if value * rejected <= row:
            return []
        # The draft's probabilities of other tokens are off as much as its confidence is.
        share = value * rejected / (1 - proposal.confidence)
        return sampler.siblings(proposal, self.most, lambda probability: share * probability > row)
