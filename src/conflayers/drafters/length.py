"""How long a draft grows: after each drafted token, whether to draft another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from conflayers.costs import Costs
from conflayers.drafters.calibration import Calibration
from conflayers.options import number, share, whole
from conflayers.plan import Plan
from conflayers.round import Round

# The longest chain and the confidence stop of SWIFT and ConfLayers.
MAX_TOKENS = 25
CONFIDENCE = 0.8
# Tokens of the first draft by a plan, whose steps may cost anything and whose confidence may be worth nothing.
FIRST = 4


# Whether to draft another token, told of the one just drafted and of how many there are with it. The confidence is 0 to
# 1 or not a number.
More = Callable[[float, int], bool]


class Length(Protocol):
    """A rule for the length of drafts. It sees the tokens drafted so far and never the one it decides about, so that
    sampled text keeps its distribution."""

    def rule(self, plan: Plan) -> More:
        """The rule for one draft, asked after each of its tokens."""
        ...

    def learn(self, done: Round) -> None:
        """See what the round did."""


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Always the same number of tokens.

    Attributes:
        tokens: 1 or more.
    """

    tokens: int

    def __post_init__(self) -> None:
        whole("draft_length", self.tokens, 1)

    def rule(self, plan: Plan) -> More:
        """Up to the number."""
        return lambda confidence, drafted: drafted < self.tokens

    def learn(self, done: Round) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class ConfidenceStop:
    """Until the draft is no longer sure of itself (SWIFT, arXiv 2410.06916; ConfLayers, arXiv 2604.14612).

    Attributes:
        max_tokens: the longest chain, 1 or more.
        stop: the chain ends after a token whose confidence is below this, 0 to 1. The doubtful token itself is kept:
            its draft step is already paid for, and to drop it for what it is would bias sampled text.
    """

    max_tokens: int = MAX_TOKENS
    stop: float = CONFIDENCE

    def __post_init__(self) -> None:
        whole("max_draft_tokens", self.max_tokens, 1)
        share("confidence_stop", self.stop)

    def rule(self, plan: Plan) -> More:
        """Up to the first doubtful token; a confidence that is not a number is doubtful too."""
        return lambda confidence, drafted: drafted < self.max_tokens and confidence >= self.stop

    def learn(self, done: Round) -> None:
        """Nothing."""


@dataclass(slots=True)
class AdaptiveThreshold:
    """A confidence stop that moves until a wanted share of the drafts is accepted (Draft & Verify, arXiv 2309.08168,
    equations 4 and 5, with the values of its released code).

    Attributes:
        max_tokens: the longest chain, 1 or more.
        threshold: the stop at present, 0 to 1; 0.8 at first. For sampling the released code begins at 0.5, which has to
            be asked for here.
        target: acceptance rate aimed at, 0 to 1.
        step: how far the threshold is pulled, epsilon.
        memory_of_rate, memory_of_threshold: how much of the old value stays, beta 1 and beta 2.
        rate: the acceptance rate at present; the released code begins anew with every request, here a task goes on.
    """

    max_tokens: int = 8
    threshold: float = CONFIDENCE
    target: float = 0.9
    step: float = 0.01
    memory_of_rate: float = 0.5
    memory_of_threshold: float = 0.9
    rate: float = 0.0

    def __post_init__(self) -> None:
        whole("max_draft_tokens", self.max_tokens, 1)
        for name in ("threshold", "target", "memory_of_rate", "memory_of_threshold"):
            share(name, getattr(self, name))
        number("step", self.step, 0)

    def rule(self, plan: Plan) -> More:
        """Up to the first token below the threshold."""
        return lambda confidence, drafted: drafted < self.max_tokens and confidence >= self.threshold

    def learn(self, done: Round) -> None:
        """Raise the threshold where too little is accepted; lower it where drafts end early though enough is."""
        if not done.drafted:
            return
        self.rate = self.memory_of_rate * self.rate + (1 - self.memory_of_rate) * done.on_chain / done.drafted
        if self.rate < self.target:
            pulled = self.threshold + self.step
        elif done.drafted == self.max_tokens:
            pulled = self.threshold
        else:
            pulled = self.threshold - self.step
        kept = self.memory_of_threshold
        self.threshold = min(max(kept * self.threshold + (1 - kept) * pulled, 0.0), 1.0)


@dataclass(slots=True)
class ExpectedGain:
    """As long as one more token is expected to save more time than it costs. The rule is this project's own.

    A token that is drafted and accepted spares what a token costs at present. It is accepted if all before it are,
    which their confidences tell, and if it is itself, which is not known before it is drafted: for that stands the
    share that was accepted so far. It costs a draft step and a row of the verification.

    Attributes:
        costs: measured as decoding goes on.
        max_tokens: the longest chain, 1 or more.
        calibration: what confidences have been worth.
    """

    costs: Costs
    max_tokens: int = MAX_TOKENS
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        whole("max_draft_tokens", self.max_tokens, 1)

    def rule(self, plan: Plan) -> More:
        """While the gain exceeds the cost; by confidence alone until there is something measured."""
        if not self.costs.step_known(plan):
            first = min(FIRST, self.max_tokens)
            return lambda confidence, drafted: drafted < first and confidence >= CONFIDENCE
        worth, cost = self.calibration.of(plan), self.costs.draft_step(plan) + self.costs.row_seconds
        gain = worth.rate * self.costs.token_seconds

        def more(confidence: float, drafted: int) -> bool:
            nonlocal gain
            if drafted >= self.max_tokens or not confidence >= 0:
                return False
            gain *= worth.acceptance(confidence)
            return gain > cost

        return more

    def learn(self, done: Round) -> None:
        """Learn what the confidences were worth."""
        self.calibration.learn(done)
