"""Which plan drafts next: all that were looked at and plain decoding take part, by what is known of each.

Every so many rounds each plan's speedup is drawn at random from what is known of it, and the highest draw is used until
the next (Thompson sampling). What is known is the forecast, counted as a few rounds, and the rounds really drafted. So
a plan that may be the best is used before it is certain, one that has lost is hardly ever, and of two that are about
equal either will do. The one that is named, saved and has to be beaten stays until another is better for sure. Nothing
is lost but time, and how much of it is bounded.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from conflayers.costs import Costs, Yield
from conflayers.plan import LOOKUP, Plan
from conflayers.round import Round
from conflayers.selectors.losses import Losses

# How far draws stray where one round is known, as a share of the speedup: half of how much rounds differ. Many plans
# are nearly as good as the best, and the more of them take turns the slower each one's drafts learn their length.
SPREAD = 0.25
# ... and how much they do.
DIFFER = 0.5
# A turn so many standard errors below what its plan brought before: the text has changed, and what was before counts
# for this much.
CHANGED, FADED = 2.5, 0.25
# Rounds that are remembered of all plans together: texts change.
MEMORY = 256.0
# Rounds that forecasts are taken to be right for, as they are, before live rounds tell what they are off by.
BELIEVED = 32.0
# A plan that was given and never forecast is taken to be this good, with the weight of so many rounds.
GIVEN = (1.1, 4.0)
# What was gained may be lost again up to this share of the time: it is staked on finding more.
CREDIT = 0.25
# The best stays the best until another is better by so many standard errors: in 19 of 20 cases it is.
SURE = 1.64
# A turn has a length for every so many rounds that are known of its plan, up to so many: draws take time too.
KNOWN, LONGEST = 6.0, 8
# Plain decoding goes on for so many times as many rounds as a plan before there is another draw.
PLAIN = 4
# Plain steps measured before anything is compared with them, and again after so many rounds: the price of a plain step
# drifts with the context and the machine like any other.
WARM_UP = 3
REVIEW = 96
# A verification that took more plain steps than this was disturbed.
DISTURBED = 3.0
# Lookups that bring at least this speedup are made wherever nothing better is known.
HARMLESS = 0.99
# A draw that plans must exceed: prices are not known well enough for less.
WORTHWHILE = 1.02
# Rounds that are looked at together: to look at each by itself takes longer, and losses are seen later the more wait.
TOGETHER = 8
# A plan's first rounds do not count: the drafter does not know yet how long drafts by it should be.
BURN_IN = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one way to draft.

    Attributes:
        plan: what it is.
        forecast: the speedup over plain decoding expected of it before it drafted; None where nothing was.
        live: the speedup its rounds brought; None before there were any.
        rounds, steps, accepted: of those remembered.
    """

    plan: Plan
    forecast: float | None
    live: float | None
    rounds: float
    steps: float
    accepted: float


@dataclass(slots=True)
class Contest:
    """Plans in turns.

    Attributes:
        length: rounds of a first turn; later ones are up to eight times as long.
        fallback: whether plain decoding takes part.
        lookup: whether the plan `LOOKUP` takes part, from the start: where nothing is found it is plain decoding.
        costs: what draft steps and verifications take; whoever runs the rounds lets it observe them first.
        forecasts: the speedup expected of each plan that takes part, and how many rounds that is worth.
        live: what each plan brought.
        current: the plan drawn last, None for plain decoding.
        losses: of all rounds.
        decisions: which plan became the best known, in words.
    """

    length: int
    fallback: bool
    costs: Costs
    lookup: bool = False
    forecasts: dict[Plan, tuple[float, float]] = field(default_factory=dict)
    live: dict[Plan, Yield] = field(default_factory=dict)
    current: Plan | None = None
    losses: Losses = field(init=False)
    decisions: list[str] = field(default_factory=list)
    _best: Plan | None = None
    _turn: Yield = field(default_factory=Yield)  # of the plan at present, not counted yet
    _waiting: list[Round] = field(default_factory=list)  # rounds of it that were not looked at yet
    _paused: bool = False  # since too much was lost
    _left: int = 0  # rounds until the next draw
    _plain_rounds: int = 0
    _since_plain: int = 0
    _burnt_in: dict[Plan, int] = field(default_factory=dict)
    _speeds: dict[Plan, float] = field(default_factory=dict)  # of live rounds, as they were at the last draw
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.losses = Losses(self.costs, CREDIT)
        if self.lookup:
            self.begin_with(LOOKUP)

    @property
    def measuring(self) -> bool:
        """Whether plain steps are being measured."""
        return self.fallback and self._plain_rounds < WARM_UP

    @property
    def chosen(self) -> Plan | None:
        """The plan to draft with now; None to decode plainly."""
        return None if self.fallback and self._plain_rounds < WARM_UP else self.current

    @property
    def best(self) -> Plan | None:
        """Whoever is thought to be the best of those drafted with; None for plain decoding, for a while or for good."""
        return None if self._paused else self._best

    @property
    def standings(self) -> list[Standing]:
        """Everything that takes part, the most drafted with first."""
        self._take_in()
        found = []
        for plan in {**self.forecasts, **self.live}:
            seen, forecast = self.live.get(plan, Yield()), self.forecasts.get(plan)
            live = seen.speedup(plan, self.costs) if seen.rounds and self.costs.known else None
            guess = None if forecast is None or forecast == GIVEN else forecast[0]
            found.append(Standing(plan, guess, live, seen.rounds, seen.drafted, seen.accepted))
        return sorted(found, key=lambda one: -one.rounds)

    def begin_with(self, plan: Plan) -> None:
        """Draft with a plan that nothing is known of here; before anything else."""
        self.forecasts = {plan: GIVEN} | ({LOOKUP: GIVEN} if self.lookup else {})
        self.current = self._best = plan

    def enter(self, forecasts: Mapping[Plan, tuple[float, float]]) -> None:
        """Let these plans take part from the next draw on."""
        self.forecasts.update(forecasts)
        # A long turn is for want of anybody new.
        self._left = 0 if self.current in (None, LOOKUP) else min(self._left, self.length)

    def observe(self, done: Round) -> None:
        """Learn from one round, and draw when it is time; a few rounds of one turn wait for each other."""
        self._waiting.append(done)
        if len(self._waiting) < min(self.length, self._left, TOGETHER) and not self.measuring:
            return
        self._take_in()
        over = self._left <= 0 or self._fell
        if not self.measuring and (over or self._too_much_lost):
            self._draw()

    def _take_in(self) -> None:
        """Count the rounds that wait."""
        plain, seconds, spared, drafted = self.costs.plain_step, 0.0, 0.0, 0
        for done in self._waiting:
            spent = done.draft_seconds + done.verify_seconds
            if done.plan is None:
                seconds += spent
                spared += spent
                self._plain_rounds += 1
                continue
            # No draft step costs more than a plain one, and no pass several of them: longer rounds were disturbed.
            seconds += min(spent, (done.steps + DISTURBED) * plain)
            spared += done.kept * plain
            drafted += done.drafted > 0
            if done.drafted or done.plan == LOOKUP:
                self._count(done.plan, done)
        self.losses.add(seconds, spared)
        self._since_plain += drafted
        self._left -= len(self._waiting)
        self._waiting.clear()

    @property
    def bias(self) -> float:
        """What drafts really brought over what was forecast of them."""
        brought = forecast = BELIEVED
        for plan, seen in self.live.items():
            # Lookups are not forecast.
            if plan in self.forecasts and plan in self._speeds and plan != LOOKUP:
                brought += seen.rounds * self._speeds[plan]
                forecast += seen.rounds * self.forecasts[plan][0]
        return brought / forecast

    @property
    def to_beat(self) -> float:
        """The speedup expected of the best at present."""
        plain = 1.0 if self.fallback else 0.0
        return plain if self._best is None else max(plain, self._known(self._best, self.bias)[0])

    def _known(self, plan: Plan, bias: float) -> tuple[float, float]:
        """The speedup expected of a plan, and its standard error."""
        forecast, weight = self.forecasts.get(plan, GIVEN)
        seen = self.live.get(plan)
        live = 0.0 if seen is None else seen.rounds
        rounds = weight + live
        speedup = (weight * forecast * bias + live * self._speeds.get(plan, 1.0)) / rounds
        return speedup, SPREAD * speedup / (rounds + 1) ** 0.5

    def _count(self, plan: Plan, done: Round) -> None:
        burnt_in = self._burnt_in.get(plan, 0)
        if burnt_in < BURN_IN:
            self._burnt_in[plan] = burnt_in + 1
            return
        self._turn.add(done.steps, done.accepted, done.rows)

    @property
    def _too_much_lost(self) -> bool:
        return self.fallback and self.current is not None and self.losses.exceeded

    def _draw(self) -> None:
        if self.current is not None and self._turn.rounds:
            self._forget()
            self.live.setdefault(self.current, Yield()).merge(self._turn, MEMORY)
            self._turn = Yield()
        if self._since_plain >= REVIEW and self._measure_plain_steps():
            return
        self._speeds = {plan: seen.speedup(plan, self.costs) for plan, seen in self.live.items()}
        bias = self.bias
        known = {plan: self._known(plan, bias) for plan in {**self.forecasts, **self.live}}
        best = self._best_of(known)
        if best is None and self._best is not None and self._since_plain and self._measure_plain_steps():
            return
        if best != self._best:
            self._say(best, known)
        self._best = best
        self._paused = self.fallback and (self.losses.exceeded or (self._paused and not self.losses.forgiven))
        self.current, highest = self._least(known)
        for plan, (speedup, error) in known.items() if not self._paused else ():
            drawn = self._chance.gauss(speedup, error)
            if drawn > highest:
                self.current, highest = plan, drawn
        self._left = self.length * self._lengths(self.current)

    def _lengths(self, plan: Plan | None) -> int:
        """Of a turn: the better a plan is known, the less it tells."""
        if plan is None:
            return PLAIN
        rounds = self.live[plan].rounds if plan in self.live else 0
        return min(max(int(rounds / KNOWN), 1), LONGEST)

    def _least(self, known: Mapping[Plan, tuple[float, float]]) -> tuple[Plan | None, float]:
        """What is done if no draw is higher, and how high that is: plainly, or by lookups while they cost nothing."""
        if not self.fallback:
            return None, float("-inf")
        free = self.lookup and not self._paused and known[LOOKUP][0] >= HARMLESS
        return (LOOKUP if free else None), WORTHWHILE

    @property
    def _fell(self) -> bool:
        """Whether the turn at present brings so much less than its plan did before that the text must have changed."""
        plan = self.current
        if plan is None or plan not in self._speeds or not self._turn.rounds:
            return False
        straying: float = CHANGED * DIFFER / self._turn.rounds**0.5
        return self._turn.speedup(plan, self.costs) < self._speeds[plan] * (1 - straying)

    def _forget(self) -> None:
        """Let rounds before this turn count for less; for much less if it went as chance hardly explains."""
        kept = max(1 - self._turn.rounds / MEMORY, 0.0)
        if self._fell:
            kept = FADED
        for other, seen in list(self.live.items()):
            seen.fade(kept)
            if seen.rounds < 1:
                del self.live[other]

    def _measure_plain_steps(self) -> bool:
        """Before a decision for plain decoding, and now and then, have a few plain steps measured again."""
        if not self.fallback:
            return False
        self.costs.doubt_plain()
        self._plain_rounds = self._since_plain = 0
        return True

    def _best_of(self, known: Mapping[Plan, tuple[float, float]]) -> Plan | None:
        """Of those drafted with, whoever was the best until somebody surely is better; None if nobody pays."""
        least = 1.0 if self.fallback else 0.0
        paying = [plan for plan in known if (plan in self.live or plan == self._best) and known[plan][0] > least]
        best = max(paying, key=lambda plan: known[plan][0], default=None)
        if best is not None and self._best in paying:
            (new, error), (old, other) = known[best], known[self._best]
            if new - old < SURE * math.hypot(error, other):
                return self._best
        return best

    def _say(self, best: Plan | None, known: Mapping[Plan, tuple[float, float]]) -> None:
        if best is None:
            self.decisions.append("plain decoding: no plan is thought to be faster")
            return
        seen = self.live.get(best, Yield())
        # Without plain steps there is nothing the factor could be of.
        expected = f"{known[best][0]:.2f}x plain decoding expected " if self.costs.known else ""
        counts = f"{seen.drafted:.0f} draft steps and {seen.accepted:.0f} tokens accepted in {seen.rounds:.0f} rounds"
        self.decisions.append(f"{best}: {expected}({counts})")
