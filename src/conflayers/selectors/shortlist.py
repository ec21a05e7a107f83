"""Which candidate to look at next, and what to expect of those looked at.

First come the least confident layers at a few sizes. A candidate that was looked at has an acceptance and an error; one
that was not is guessed from those that were: on the line through the best of each size, as far below it as others of
its rule turned out to lie, and hopefully a bit above. Whoever is the best by an optimistic reading is looked at next,
so that the looks gather where the best may be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conflayers.costs import Costs, Yield
from conflayers.expected import LEAST_STEP, Savings
from conflayers.plan import Plan
from conflayers.selectors.candidates import LEAST
from conflayers.selectors.forecast import Array, speedups

# What an acceptance that is only guessed may be better than the guess.
HOPE = 0.05
# ... where nothing was seen of its rule yet, which may choose better than all others,
UNKNOWN_RULE = 0.2
# ... and of how far the guess lies below a smaller size: acceptance falls slowly at first and then fast.
CURVED = 0.75
# Misses that a candidate without any is taken to have had, for how good it may be.
LEAST_MISSED = 0.5
# Tokens after which a candidate is known well enough; old ones fade as new ones come.
ENOUGH = 256.0
# Fewer tokens than this tell nothing of others of about a candidate's size any more.
FAINT = 8.0
# Tokens of the task after which a look counts for half: each was at another place, and some places are hard.
HALF_LIFE = 1024.0
# Of the tokens nearly named, how many are taken to be verified: trees are narrow where they are not worth it.
VERIFIED = 0.5
# Shares of the layers skipped by the candidates that are looked at first.
SWEEP = (0.75, 0.9, 0.5, 0.25)
# The tokens of a look are of one place, hard or easy: its standard error is that of so many times fewer tokens.
ALIKE = 4.0
# Rounds that a token looked at is worth: a round brings two or three.
ROUNDS = 0.4


@dataclass(slots=True)
class Shortlist:
    """Candidates with what was seen of them.

    Attributes:
        plans: candidates, all of one precision, and the rule each comes from.
        layers: decoder layers of the model.
        savings: what leaving out sublayers spares.
        base: the acceptance of drafts that leave out nothing, below 1 where they are of lower precision.
        tried, agreed: tokens looked at by candidate, in order, and of those the ones it named.
        latest: tokens of the task when each was last looked at.
    """

    plans: Mapping[Plan, str]
    layers: int
    savings: Savings
    base: float = 1.0
    tried: Array = field(init=False)
    agreed: Array = field(init=False)
    latest: Array = field(init=False)
    _now: int = 0  # tokens of the task when looks last faded
    _missed: float = 0.0
    _nearly: float = 0.0
    _order: list[Plan] = field(init=False)
    _places: dict[Plan, int] = field(init=False)
    _precision: str = field(init=False)
    _attentions: Array = field(init=False)
    _mlps: Array = field(init=False)
    _sizes: Array = field(init=False)  # sublayers skipped, of both kinds
    _rules: dict[str, NDArray[np.bool_]] = field(init=False)  # who comes from each
    _saved: Array = field(init=False)  # draft steps by the savings
    _sweep: list[int] = field(init=False)
    _drafted: Array = field(init=False)  # tokens whose drafts showed whether they were right,
    _accepted: Array = field(init=False)  # ... and of those the right ones

    def __post_init__(self) -> None:
        self._order = list(self.plans)
        self._places = {plan: at for at, plan in enumerate(self._order)}
        rules = np.array(list(self.plans.values()))
        self._rules = {rule: rules == rule for rule in set(self.plans.values())}
        self._precision = self._order[0].precision
        self._attentions = np.array([float(len(plan.attention)) for plan in self._order])
        self._mlps = np.array([float(len(plan.mlp)) for plan in self._order])
        self._sizes, self._saved = self._attentions + self._mlps, self._by(self.savings)
        self.tried, self.agreed = np.zeros(len(self._order)), np.zeros(len(self._order))
        self._drafted, self._accepted = np.zeros(len(self._order)), np.zeros(len(self._order))
        self.latest = np.full(len(self._order), -np.inf)
        sizes = np.where(rules == LEAST, self._sizes, np.inf)
        wanted = (share * 2 * (self.layers - 2) for share in SWEEP)
        self._sweep = list(dict.fromkeys(int(np.abs(sizes - size).argmin()) for size in wanted))

    def count(self, plan: Plan, agreed: float, nearly: float, tried: int, now: int) -> None:
        """A look, when the task had `now` tokens: of the last `tried` the candidate named `agreed`, others `nearly`."""
        at = self._places[plan]
        self.fade(now)
        if self.tried[at] + tried > ENOUGH:
            kept = max(ENOUGH - tried, 0.0) / self.tried[at]
            self.tried[at] *= kept
            self.agreed[at] *= kept
        self.tried[at] += tried
        self.agreed[at] += agreed
        self.latest[at] = now
        self._missed += tried - agreed
        self._nearly += nearly

    def fade(self, now: int) -> None:
        """Let looks count for what they do when the task has `now` tokens."""
        faded = 0.5 ** ((now - self._now) / HALF_LIFE)
        self.tried *= faded
        self.agreed *= faded
        self._now = now

    def hear(self, live: Mapping[Plan, Yield]) -> None:
        """What candidates that drafted were accepted for, which tells of others of about their size.

        It says nothing new of those that drafted: they are judged by it already (`contest`).
        """
        self._drafted[:] = self._accepted[:] = 0.0
        for plan, seen in live.items():
            if plan in self._places:
                at = self._places[plan]
                # Siblings are accepted too; and of a chain only the first token that was wrong is known to be.
                accepted = min(seen.accepted, seen.drafted)
                drafted = accepted + min(seen.drafted - accepted, seen.rounds)
                weight = min(ENOUGH / drafted, 1.0) if drafted else 0.0
                self._drafted[at], self._accepted[at] = weight * drafted, weight * accepted

    def fresh(self, plan: Plan, now: int) -> float:
        """Tokens that came since a candidate was last looked at."""
        return float(now - self.latest[self._places[plan]])

    def acceptance(self, plan: Plan) -> float:
        """What share of the tokens a candidate is thought to name, 0 to 1."""
        return float(self._rates(self.tried, self.agreed)[self._places[plan]])

    def seen(self, plan: Plan) -> float:
        """Tokens a candidate was looked at on, as far as they are remembered."""
        return float(self.tried[self._places[plan]])

    def hopes(self) -> Array:
        """Of each candidate, acceptance by an optimistic reading: as seen and an error, as guessed and a bit."""
        tried, agreed = self.tried + self._drafted, self.agreed + self._accepted
        return self._hopes(tried, agreed, self._rates(tried, agreed))

    def _hopes(self, tried: Array, agreed: Array, rates: Array) -> Array:
        seen = tried > 0
        points, heights = self._heights(tried, agreed)
        smaller = heights[np.searchsorted(points, self._sizes, side="right") - 1]
        guessed = HOPE + CURVED * np.maximum(smaller - rates, 0)
        for members in self._rules.values():
            if not (members & seen).any():
                guessed[members] += UNKNOWN_RULE
        # However few its misses were, nobody is hoped to have none.
        missed, known = np.maximum(1 - rates, LEAST_MISSED / (tried + 1)), tried / ALIKE + 1
        errors = np.sqrt((rates * (1 - rates) + 0.25 / known) / known)
        return np.where(seen, 1 - missed * np.exp(-errors / missed), np.minimum(rates + guessed, 1.0))

    def next(self, costs: Costs, to_beat: float, best: Plan | None = None) -> Plan | None:
        """Whoever is worth a look most.

        Args:
            costs: what verifications take.
            to_beat: the speedup that a candidate must hope for to be worth a look.
            best: the best plan at present. If it is a candidate, what would be forecast of it by all that was seen
                takes the place of `to_beat`.
        """
        tried, agreed = self.tried + self._drafted, self.agreed + self._accepted
        rates, steps = self._rates(tried, agreed), self.draft_steps(costs)
        hopes = speedups(self._hopes(tried, agreed, rates), steps, costs, self._caught)
        if best in self._places:
            its = slice(self._places[best], self._places[best] + 1)
            to_beat = float(speedups(rates[its], steps[its], costs, self._caught)[0])
        hopes[tried >= ENOUGH] = -np.inf
        first = [at for at in self._sweep if not tried[at] and hopes[at] > to_beat]
        at = first[0] if first else int(hopes.argmax())
        return self._order[at] if hopes[at] > to_beat else None

    def forecasts(self, costs: Costs) -> dict[Plan, tuple[float, float]]:
        """The speedup expected of each candidate looked at, and how many rounds that is worth."""
        rates = self._rates(self.tried, self.agreed)
        expected = speedups(rates, self.draft_steps(costs), costs, self._caught)
        looked_at = np.flatnonzero(self.tried).tolist()
        return {self._order[at]: (float(expected[at]), ROUNDS * float(self.tried[at])) for at in looked_at}

    def draft_steps(self, costs: Costs) -> Array:
        """Of each candidate, as shares of a plain step: see `Costs.draft_step`.

        By the savings where nothing is expected and nothing was measured.
        """
        if not costs.known:
            return self._saved
        expected = None if costs.expected is None else costs.expected.savings.get(self._precision)
        if expected is not None:
            return costs.draft_steps(self._precision, self._by(expected), 1 - self._sizes / (2 * self.layers))
        steps = self._saved.copy()
        for plan in costs.steps:
            if plan in self._places:
                steps[self._places[plan]] = max(costs.draft_step(plan) / costs.plain_step, LEAST_STEP)
        return steps

    def _by(self, savings: Savings) -> Array:
        return np.maximum(savings.full - savings.attention * self._attentions - savings.mlp * self._mlps, LEAST_STEP)

    @property
    def _caught(self) -> float:
        """Of the tokens that a candidate does not name, the share that siblings make good: one figure for all."""
        return VERIFIED * self._nearly / max(self._missed, 1.0)

    def _rates(self, tried: Array, agreed: Array) -> Array:
        """Acceptance as seen, drawn to the line by the weight of one token; as guessed where nothing was seen."""
        seen = tried > 0
        line = np.asarray(np.interp(self._sizes, *self._heights(tried, agreed)))
        rates = (agreed + line) / (tried + 1)
        for rule, members in self._rules.items():
            like = seen & members
            if rule != LEAST and like.any():
                line[members] += min(float((rates[like] - line[like]).mean()), 0.0)
        return np.where(seen, rates, np.clip(line, 0, 1))

    def _heights(self, tried: Array, agreed: Array) -> tuple[Array, Array]:
        """By size: from `base` where nothing is skipped through the best of each size seen to 0 where all is."""
        best = {0.0: self.base, 2.0 * self.layers: 0.0}
        for at in np.flatnonzero(tried >= FAINT):
            size = float(self._sizes[at])
            best[size] = max(best.get(size, 0.0), agreed[at] / tried[at])
        points = np.array(sorted(best))
        # Skipping more never helps: a size is at least as good as any larger one.
        heights = np.maximum.accumulate(np.array([best[point] for point in points])[::-1])[::-1]
        return points, heights
