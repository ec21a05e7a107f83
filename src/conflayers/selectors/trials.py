"""Candidates on trial against the incumbent and against plain decoding, judged by expected tokens per second.

A trial is ordinary decoding with the candidate's drafts, so nothing it does is lost but time. It ends early when even
an optimistic reading of it loses, and the time that trials may lose is bounded.
"""

from dataclasses import dataclass, field

from conflayers.costs import Costs, Yield
from conflayers.plan import Plan
from conflayers.round import Round

# A trial must beat what it replaces by this much: less is within the noise of the clock.
MARGIN = 1.02
# Time that trials and selection may have lost: a share of all the time so far, and a start of a few plain steps.
LOST_SHARE = 0.02
LOST_STEPS = 2.0
# Plain steps between a lost trial and the next: this many at first, doubled each time.
FIRST_WAIT = 8
LONGEST_WAIT = 1024
# Plain steps measured before anything is compared with them.
WARM_UP = 3


@dataclass(slots=True)
class Trials:
    """Which plan is in use, which one is being tried, and when to try another.

    Attributes:
        length: rounds of a full trial, and between two reviews of the incumbent.
        fallback: whether plain decoding is among the choices.
        incumbent: the plan in use, None for plain decoding; `incumbent_speedup` is what it was last measured at.
        trial: the plan on trial, if any.
        finished, last_won: trials so far, and whether the last one was adopted.
        decisions: what became of every trial and every incumbent, in words.
    """

    length: int
    fallback: bool
    costs: Costs = field(default_factory=Costs)
    incumbent: Plan | None = None
    incumbent_speedup: float = 1.0
    trial: Plan | None = None
    finished: int = 0
    last_won: bool = False
    decisions: list[str] = field(default_factory=list)
    _yield: Yield = field(default_factory=Yield)
    _elapsed: float = 0.0
    _lost: float = 0.0
    _plain_rounds: int = 0
    _wait: int = FIRST_WAIT
    _since: int = FIRST_WAIT

    @property
    def current(self) -> Plan | None:
        """The plan to draft with now; None to decode plainly."""
        if self.fallback and self._plain_rounds < WARM_UP:
            return None
        return self.trial or self.incumbent

    @property
    def ready(self) -> bool:
        """Whether another candidate may be tried now."""
        if self.trial is not None or self._since < self._wait:
            return False
        if not self.fallback:
            return True
        allowed = LOST_STEPS * self.costs.plain_step + LOST_SHARE * self._elapsed
        return self._plain_rounds >= WARM_UP and self._lost < allowed

    def begin(self, plan: Plan) -> None:
        """Put `plan` on trial."""
        self.trial, self._yield = plan, Yield()

    def observe(self, done: Round) -> None:
        """Learn from one round; decide about the trial or the incumbent when there is enough to decide by."""
        self.costs.observe(done.plan, done.drafted, done.draft_seconds, done.verify_seconds)
        seconds = done.draft_seconds + done.verify_seconds
        self._elapsed += seconds
        if done.plan is None:
            self._plain_rounds += 1
            self._since += 1
            return
        if not done.drafted:
            return
        self._yield.add(done.drafted, done.accepted)
        if self.trial is None:
            self._since += 1
            self._review()
            return
        if self.costs.known:
            self._lost = max(self._lost + seconds - done.kept * self.costs.plain_step, 0.0)
        self._judge()

    def _judge(self) -> None:
        assert self.trial is not None
        to_beat = self.incumbent_speedup if self.incumbent is not None else 1.0 if self.fallback else 0.0
        hopeless = self._yield.optimistic_speedup(self.trial, self.costs) < to_beat
        if not hopeless and self._yield.rounds < self.length:
            return
        speedup = self._yield.speedup(self.trial, self.costs)
        better = not hopeless and speedup > to_beat * MARGIN
        self.finished, self.last_won = self.finished + 1, better
        self._say(f"{'adopted' if better else 'rejected'}, {speedup:.2f}x plain decoding expected", self.trial)
        if better:
            self.incumbent, self.incumbent_speedup = self.trial, speedup
            self._wait = self.length
        else:
            self.costs.forget(self.trial)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self.trial, self._yield, self._since = None, Yield(), 0

    def _review(self) -> None:
        if self._yield.rounds < self.length or self.incumbent is None:
            return
        self.incumbent_speedup = self._yield.speedup(self.incumbent, self.costs)
        self._yield = Yield()
        if self.fallback and self.costs.known and self.incumbent_speedup < 1.0:
            self._say(f"given up, {self.incumbent_speedup:.2f}x plain decoding expected", self.incumbent)
            self.incumbent, self._since = None, 0

    def _say(self, outcome: str, plan: Plan) -> None:
        rounds = self._yield.rounds
        accepted = f"{self._yield.accepted} of {self._yield.drafted} drafted tokens accepted in {rounds} rounds"
        self.decisions.append(f"{plan}: {outcome} ({accepted})")
