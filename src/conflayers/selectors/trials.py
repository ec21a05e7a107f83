"""Candidates on trial against the incumbent and against plain decoding, judged by expected tokens per second.

A trial is ordinary decoding with the candidate's drafts, so nothing it does is lost but time. Where there is an
incumbent both take turns, so that they meet the same text. A trial ends as soon as it is clear either way, and the time
that trials may lose is bounded.
"""

from dataclasses import dataclass, field

from conflayers.costs import Costs, Yield
from conflayers.plan import Plan
from conflayers.round import Round
from conflayers.selectors.losses import Losses

# A trial must beat what it replaces by this much: less is within the noise of the clock.
MARGIN = 1.02
# ... and by so many standard errors, about 90% on one side.
CERTAIN = 1.28
# ... while so many below it are enough to reject: what is in use is known to be no worse.
DOUBTFUL = 0.7
# Trials that are not clear after this many times their length end: the incumbent stays.
PATIENCE = 6
# A verification that took more plain steps than this was disturbed.
DISTURBED = 3.0
# Rounds before a trial can be called hopeless: one disturbed measurement must not end it.
LEAST_ROUNDS = 4
# Rounds of a trial that do not count: the drafter does not know yet how long drafts by this plan should be.
BURN_IN = 2
# Plain steps, or rounds of the incumbent, between two trials.
WAIT = 8
# Plain steps measured before anything is compared with them, and again before a decision and after this many reviews of
# the incumbent: the price of a plain step drifts with the context and the machine like any other.
WARM_UP = 3
REVIEWS = 4
# What the incumbent brought is remembered over this many times a trial's length.
MEMORY = 8
# So many standard errors below that in two reviews in a row: the text has changed.
DRIFT = 1.25


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
        last_speedup, last_rounds: what it brought, and over how many rounds.
        lost: the plan that lost last on trial; whoever acts on it sets it back.
        drifted: whether the incumbent lately brought less than it used to, or was given up; likewise.
        decisions: what became of every trial and every incumbent, in words.
        losses: of all rounds.
    """

    length: int
    fallback: bool
    costs: Costs
    incumbent: Plan | None = None
    trial: Plan | None = None
    finished: int = 0
    last_won: bool = False
    last_speedup: float = 1.0
    last_rounds: float = 0
    lost: Plan | None = None
    drifted: bool = False
    decisions: list[str] = field(default_factory=list)
    losses: Losses = field(init=False)
    _running: Yield = field(default_factory=Yield)  # of the trial
    _lately: Yield = field(default_factory=Yield)  # of the incumbent since its last review or since the trial began
    _standing: Yield = field(default_factory=Yield)  # of the incumbent before that
    _certain: bool = False  # plain steps were measured anew for the decision at hand
    _below: int = 0  # reviews in a row that were below what the incumbent used to bring
    _reviews: int = 0
    _plain_rounds: int = 0
    _since: int = WAIT
    _turn: bool = True
    _burnt_in: int = 0  # rounds of the trial so far, those not counted included

    def __post_init__(self) -> None:
        self.losses = Losses(self.costs)

    @property
    def current(self) -> Plan | None:
        """The plan to draft with now; None to decode plainly."""
        if self.fallback and self._plain_rounds < WARM_UP:
            return None
        if self.trial is not None and self.incumbent is not None:
            return self.trial if self._turn else self.incumbent
        return self.trial or self.incumbent

    @property
    def measured(self) -> bool:
        """Whether the price of what candidates are compared with is known, and no decision is being made."""
        known = self._plain_rounds >= WARM_UP if self.fallback else self.costs.rounds
        return bool(known) and self.trial is None and not self._certain

    @property
    def ready(self) -> bool:
        """Whether another candidate may be tried now."""
        if not self.measured or self._since < WAIT:
            return False
        if not self.fallback:
            # A start that was given is measured before anything is compared with it.
            return self.incumbent is None or self._standing.rounds > 0
        return self.losses.forgiven

    def begin(self, plan: Plan) -> None:
        """Put `plan` on trial."""
        self._standing.merge(self._lately, MEMORY * self.length)
        self.trial, self._running, self._lately, self._turn, self._burnt_in = plan, Yield(), Yield(), True, 0

    def observe(self, done: Round) -> None:
        """Learn from one round; decide about the trial or the incumbent when there is enough to decide by."""
        self._weigh(done)
        self._turn = not self._turn
        if done.plan is None:
            self._plain_rounds += 1
            self._since += 1
        elif done.plan == self.trial:
            if done.drafted:
                self._burnt_in += 1
                if self._burnt_in > BURN_IN:
                    self._running.add(done.drafted, done.accepted, done.rows)
                self._judge(self.trial)
        elif done.drafted:
            self._lately.add(done.drafted, done.accepted, done.rows)
            if self.trial is None:
                self._since += 1
                self._review()

    def _weigh(self, done: Round) -> None:
        seconds, plain = done.draft_seconds + done.verify_seconds, self.costs.plain_step
        if done.plan is None:
            self.losses.add(seconds, spared=seconds)
        else:
            # No draft step costs more than a plain one, and no pass several of them: longer rounds were disturbed.
            self.losses.add(min(seconds, (done.drafted + DISTURBED) * plain), done.kept * plain)

    def _judge(self, trial: Plan) -> None:
        """Adopt or reject the trial once that is clear; where it never becomes clear, reject it."""
        rounds, speedup = self._running.rounds, self._running.speedup(trial, self.costs)
        to_beat, error = self._to_beat()
        lead = (speedup - to_beat) / (error**2 + self._running.error(trial, self.costs) ** 2) ** 0.5 if rounds else 0.0
        spent = self.fallback and self.losses.exceeded
        hopeless = spent or (
            rounds >= LEAST_ROUNDS
            and (
                self._running.optimistic_speedup(trial, self.costs) < to_beat
                or (rounds >= self.length and lead < -DOUBTFUL)
            )
        )
        better = not hopeless and rounds >= self.length and lead > CERTAIN and speedup > to_beat * MARGIN
        if not hopeless and not better and rounds < PATIENCE * self.length:
            return
        if better and self._measure_plain_steps_first():
            return
        self._say(trial, "adopted" if better else "rejected", self._running)
        self.finished, self.last_won = self.finished + 1, better
        self.last_speedup, self.last_rounds = speedup, rounds
        if better:
            self.incumbent, self._standing, self._lately = trial, self._running, Yield()
            self._below = 0
        else:
            self.lost = trial
            self.costs.forget(trial)
        self.trial, self._certain, self._since = None, False, 0

    def _to_beat(self) -> tuple[float, float]:
        """What a trial is compared with, and its error: the incumbent on the same text, or plain decoding."""
        plain = (1.0, 0.0) if self.fallback else (0.0, 0.0)
        if self.incumbent is None:
            return plain
        beside = self._lately if self._lately.rounds >= LEAST_ROUNDS else self._standing
        if not beside.rounds:
            return plain
        standing = beside.speedup(self.incumbent, self.costs), beside.error(self.incumbent, self.costs)
        return max(plain, standing)

    def _review(self) -> None:
        """Measure the incumbent again; give it up if it has lost too much, and say if it does worse than it used to."""
        if self.incumbent is None or self._lately.rounds < self.length:
            return
        lately, costs = self._lately.speedup(self.incumbent, self.costs), self.costs
        error = self._lately.error(self.incumbent, costs)
        loses = self.fallback and lately < 1.0 and self.losses.exceeded
        self._reviews += not self._certain
        if (loses or self._reviews % REVIEWS == 0) and self._measure_plain_steps_first():
            return
        if self._standing.rounds:
            before = self._standing.speedup(self.incumbent, costs)
            spread = (error**2 + self._standing.error(self.incumbent, costs) ** 2) ** 0.5
            self._below = self._below + 1 if before - lately > DRIFT * spread else 0
            self.drifted |= self._below >= 2
        if loses:
            self._say(self.incumbent, "given up", self._lately)
            self.incumbent, self._since, self.drifted = None, 0, True
        self._standing.merge(self._lately, MEMORY * self.length)
        self._lately, self._certain = Yield(), False

    def _measure_plain_steps_first(self) -> bool:
        """Before a decision against or for plain decoding: have a few plain steps measured now. False once they are."""
        if not self.fallback or self._certain:
            return False
        self.costs.forget_plain()
        self._plain_rounds, self._certain = 0, True
        return True

    def _say(self, plan: Plan, outcome: str, seen: Yield) -> None:
        # Without plain steps there is nothing the factor could be of.
        expected = f", {seen.speedup(plan, self.costs):.2f}x plain decoding expected" if self.costs.known else ""
        counts = f"{seen.drafted:.0f} tokens drafted and {seen.accepted:.0f} accepted in {seen.rounds:.0f} rounds"
        self.decisions.append(f"{plan}: {outcome}{expected} ({counts})")
