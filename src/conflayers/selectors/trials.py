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
# Time that trials may have lost: a share of all the time so far, and at the start a few plain steps.
LOST_SHARE = 0.01
LOST_STEPS = 1.0
# Rounds before a trial can be called hopeless: one disturbed measurement must not end it.
LEAST_ROUNDS = 2
# Plain steps between a lost trial and the next: this many at first, doubled each time.
FIRST_WAIT = 8
LONGEST_WAIT = 1024
# Plain steps measured before anything is compared with them, and again before a decision and after this many reviews of
# the incumbent: the price of a plain step drifts with the context and the machine like any other.
WARM_UP = 3
REVIEWS = 4


@dataclass(slots=True)
class Trials:
    """Which plan is in use, which one is being tried, and when to try another.

    Attributes:
        length: rounds of a full trial, and between two reviews of the incumbent.
        fallback: whether plain decoding is among the choices.
        costs: what draft steps and verifications take; whoever runs the rounds lets it observe them first.
        incumbent: the plan in use, None for plain decoding.
        trial: the plan on trial, if any.
        finished, last_won: trials so far, and whether the last one was adopted.
        rejected: the plan that lost last, if any.
        decisions: what became of every trial and every incumbent, in words.
    """

    length: int
    fallback: bool
    costs: Costs
    incumbent: Plan | None = None
    trial: Plan | None = None
    finished: int = 0
    last_won: bool = False
    rejected: Plan | None = None
    decisions: list[str] = field(default_factory=list)
    _running: Yield = field(default_factory=Yield)  # of the trial, or of the incumbent since its last review
    _standing: Yield = field(default_factory=Yield)  # of the incumbent up to its last review
    _certain: bool = False  # plain steps were measured anew for the decision at hand
    _reviews: int = 0
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
        if self.trial is not None or self._certain or self._since < self._wait:
            return False
        if not self.fallback:
            # A start that was given is measured before anything is compared with it.
            return self.incumbent is None or self._standing.rounds > 0
        allowed = LOST_STEPS * self.costs.plain_step + LOST_SHARE * self._elapsed
        return self._plain_rounds >= WARM_UP and self._lost < allowed

    def begin(self, plan: Plan) -> None:
        """Put `plan` on trial."""
        self.trial, self._running = plan, Yield()

    def observe(self, done: Round) -> None:
        """Learn from one round; decide about the trial or the incumbent when there is enough to decide by."""
        seconds = done.draft_seconds + done.verify_seconds
        self._elapsed += seconds
        if done.plan is None:
            self._plain_rounds += 1
            self._since += 1
        elif done.drafted:
            self._running.add(done.drafted, done.accepted, done.rows)
            if self.trial is None:
                self._since += 1
                self._review()
            else:
                self._lost = max(self._lost + seconds - done.kept * self.costs.plain_step, 0.0)
                self._judge(self.trial)

    def _judge(self, trial: Plan) -> None:
        """Adopt or reject the trial once that is clear, or once it has run its length."""
        to_beat = 1.0 if self.fallback else 0.0
        if self.incumbent is not None and self._standing.rounds:
            to_beat = max(to_beat, self._standing.speedup(self.incumbent, self.costs))
        rounds = self._running.rounds
        hopeless = rounds >= LEAST_ROUNDS and self._running.optimistic_speedup(trial, self.costs) < to_beat
        if not hopeless and rounds < self.length:
            return
        speedup = self._running.speedup(trial, self.costs)
        better = not hopeless and speedup > to_beat * MARGIN
        if better and self._measure_plain_steps_first():
            return
        self._say(trial, "adopted" if better else "rejected", speedup)
        self.finished, self.last_won = self.finished + 1, better
        if better:
            self.incumbent, self._standing = trial, self._running
            self._wait = self.length
        else:
            self.rejected = trial
            self.costs.forget(trial)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self.trial, self._running, self._certain, self._since = None, Yield(), False, 0

    def _review(self) -> None:
        """Measure the incumbent again; give it up if it loses."""
        if self.incumbent is None or self._running.rounds < self.length:
            return
        speedup = self._running.speedup(self.incumbent, self.costs)
        loses = self.fallback and speedup < 1.0
        self._reviews += 1
        if (loses or self._reviews % REVIEWS == 0) and self._measure_plain_steps_first():
            return
        if loses:
            self._say(self.incumbent, "given up", speedup)
            self.incumbent, self._since = None, 0
        self._standing, self._running, self._certain = self._running, Yield(), False

    def _measure_plain_steps_first(self) -> bool:
        """Before a decision against or for plain decoding: have a few plain steps measured now. False once they are."""
        if not self.fallback or self._certain:
            return False
        self.costs.forget_plain()
        self._plain_rounds, self._certain = 0, True
        return True

    def _say(self, plan: Plan, outcome: str, speedup: float) -> None:
        seen = self._running
        # Without plain steps there is nothing the factor could be of.
        expected = f", {speedup:.2f}x plain decoding expected" if self.costs.known else ""
        accepted = f"{seen.drafted} tokens drafted and {seen.accepted} accepted in {seen.rounds} rounds"
        self.decisions.append(f"{plan}: {outcome}{expected} ({accepted})")
