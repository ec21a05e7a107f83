"""Any selector, with plain decoding where it loses time: what no published method has. The rule is our own.

Whatever the method does counts, drafts, verifications and search. It runs until it has lost more than it may, then
decoding is plain until the loss has become small beside all the time so far; then it may try again. So the loss stays
within a share of the time, a few steps and one round, whatever the method does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from conflayers.body.contract import Trace
from conflayers.costs import Costs
from conflayers.plan import Plan
from conflayers.round import Round, Selector, State, decisions_of, plan_of
from conflayers.selectors.losses import Losses

# Plain steps measured before anything is compared with them, before each new try, and again after so many rounds of the
# method: a price that was taken in a slow moment would have its drafts look good for ever.
WARM_UP = 3
REVIEW = 32


@dataclass(slots=True)
class Fallback:
    """Watches `inner` and replaces it by plain decoding for a while.

    Attributes:
        inner: the selector that is watched.
        costs: with the price of a plain step; whoever runs the rounds lets it observe them first.
        clock: seconds, for what `inner` itself takes.
        pausing: whether decoding is plain because `inner` lost too much.
        losses: of all rounds and searches.
    """

    inner: Selector
    costs: Costs
    clock: Callable[[], float] = time.perf_counter
    pausing: bool = False
    losses: Losses = field(init=False)
    _plain_rounds: int = 0
    _since_plain: int = 0  # rounds of the method since plain steps were measured
    _told: bool = False  # whether `inner` knows of this request
    _decisions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.losses = Losses(self.costs)

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None for plain decoding."""
        return None if self.pausing else plan_of(self.inner)

    @property
    def decisions(self) -> list[str]:
        """What `inner` decided, and then what was decided about it, in words."""
        return [*decisions_of(self.inner), *self._decisions]

    def start(self, state: State, prefill: Trace | None) -> None:
        """A request begins; `inner` is told, at its own price, when it is in use again."""
        self.pausing &= not self.losses.forgiven
        self._told = False
        if not self.pausing:
            self._tell(state, prefill)

    def _tell(self, state: State, prefill: Trace | None) -> None:
        self._told, begun = True, self.clock()
        self.inner.start(state, prefill)
        self._count(max(self.clock() - begun, 0.0), 0.0)

    def choose(self) -> Plan | None:
        """What `inner` chooses, or None."""
        return None if self.pausing or self._plain_rounds < WARM_UP else self.inner.choose()

    def wants(self) -> int:
        """What `inner` wants while it is in use."""
        return 0 if self.pausing else self.inner.wants()

    def learn(self, state: State, done: Round) -> None:
        """Add up, and decide whether `inner` goes on."""
        seconds = done.draft_seconds + done.verify_seconds
        if done.plan is None:
            self._plain_rounds += 1
        if self.pausing or self._plain_rounds < WARM_UP:
            self.losses.add(seconds, spared=seconds)
            if self.pausing and self._plain_rounds >= WARM_UP and self.losses.forgiven:
                self.pausing = False
                if not self._told:
                    self._tell(state, None)
            return
        self._since_plain += 1
        if self._since_plain >= REVIEW:
            self._measure_plain_steps()
        spared = done.kept * self.costs.plain_step if done.plan is not None else seconds
        begun = self.clock()
        self.inner.learn(state, done)
        self._count(seconds + max(self.clock() - begun, 0.0), spared)

    def _count(self, seconds: float, spared: float) -> None:
        """Take in what was spent, and what plain decoding would have spent on the same tokens."""
        self.losses.add(seconds, spared)
        if self.costs.known and self.losses.exceeded:
            self.pausing = True
            self._measure_plain_steps()
            share = self.losses.lost / self.losses.elapsed
            self._decisions.append(f"plain decoding for a while: {share:.1%} of the time was lost to drafts and search")

    def _measure_plain_steps(self) -> None:
        """Have the next few steps be plain."""
        self._plain_rounds = self._since_plain = 0
        self.costs.doubt_plain()
