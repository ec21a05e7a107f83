"""What a draft step and a verification cost, measured while decoding, and what a plan is worth by these costs."""

from bisect import bisect, insort
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conflayers.expected import Expected, nearest
from conflayers.plan import WHOLE, Plan
from conflayers.prices import LEAST_ROW, Lately, Recent, row_price

# Of plain steps, so many are kept when they are about to be measured again.
DOUBTED = 6
# Passes that the price of a row is taken from: enough to have seen several sizes, few enough to forget a bad day.
SIZES = 64
# ... and how many of them come between two reckonings of it: the price of a row hardly moves from one to the next.
RECKONED = 8
# Passes over several rows that are few: the price is reckoned at each of them.
FEW = 16


@dataclass(slots=True)
class Costs:
    """Recent seconds of draft steps by plan and of verifications by number of rows.

    Attributes:
        layers: decoder layers of the model; None if not known.
        steps, passes: what was measured.
        drifts: by precision, what draft steps took over what was expected of them.
        lately: seconds and tokens of the last rounds.
        expectations: by context, what stands in for everything that was not measured yet.
        expected: the one for the request at present; None if there is none.
        token_seconds: what a token costs at present, seconds over tokens of the last rounds, and never more than a
            plain step, which has one for sure; 0 before the first.
    """

    layers: int | None = None
    steps: dict[Plan, Recent] = field(default_factory=dict)
    drifts: dict[str, Recent] = field(default_factory=dict)
    passes: dict[int, Recent] = field(default_factory=dict)
    lately: Lately = field(default_factory=Lately)
    token_seconds: float = 0.0
    expectations: tuple[Expected, ...] = ()
    expected: Expected | None = None
    _counts: list[int] = field(default_factory=list)  # sizes of passes that were measured
    _sizes: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SIZES))
    _several: int = 0  # of these passes, those over more than one row
    _price: float | None = None
    _unreckoned: int = 0

    def begin(self, context: int) -> None:
        """A request begins, of about so many tokens."""
        self.expected = nearest(self.expectations, context)

    def observe(
        self, plan: Plan | None, *, steps: int, rows: int, kept: int, draft_seconds: float, verify_seconds: float
    ) -> None:
        """Learn from one round. Times that a clock could not have measured are left out.

        Args:
            plan: what the draft skipped; None for plain decoding.
            steps: draft steps.
            rows: tokens in the verification pass.
            kept: tokens the round added.
            draft_seconds, verify_seconds: what both took.
        """
        if plan is not None and steps and draft_seconds > 0:
            if plan not in self.steps:
                self.steps[plan] = Recent()
            self.steps[plan].add(draft_seconds / steps)
            if expected := self._expected_step(plan):
                self.drifts.setdefault(plan.precision, Recent()).add(draft_seconds / steps / expected)
        if verify_seconds > 0:
            if rows not in self.passes:
                self.passes[rows] = Recent()
                insort(self._counts, rows)
            self.passes[rows].add(verify_seconds)
            self.lately.add(max(draft_seconds, 0.0) + verify_seconds, kept)
            # Were it more, bad drafts would make tokens dear, dear tokens make drafts long, and long ones be worse.
            self.token_seconds = min(self.lately.seconds / max(self.lately.tokens, 1), self.plain_step)
            if len(self._sizes) == SIZES:
                self._several -= self._sizes[0][0] > 1
            self._sizes.append((rows, verify_seconds))
            self._several += rows > 1
            self._unreckoned += 1

    def doubt_plain(self) -> None:
        """Let what is known of plain steps weigh little beside the few that are about to be measured.

        It is not dropped: the few come right behind drafts, and may all be disturbed.
        """
        if 1 in self.passes:
            self.passes[1].shorten(DOUBTED)

    @property
    def known(self) -> bool:
        """Whether a plain step has been measured."""
        return 1 in self.passes

    @property
    def plain_step(self) -> float:
        """Seconds of one step of plain decoding."""
        plain = self.passes.get(1)
        return plain.median if plain is not None else self._pass(1)

    @property
    def _row(self) -> float | None:
        if self._unreckoned >= (RECKONED if self._several >= FEW else 1):
            self._price, self._unreckoned = row_price(self._sizes, self._price), 0
        return self._price

    @property
    def row_known(self) -> bool:
        """Whether passes of two sizes have been measured, or what they take is expected."""
        return self._row is not None or (self.known and self.expected is not None)

    @property
    def row_seconds(self) -> float:
        """What one more row adds to a verification, by the recent passes of all sizes; 0 until there are two sizes."""
        price = self._row
        # Passes over one row and one other number of them say little.
        if self.expected is not None and len(self.passes) - (1 in self.passes) < 2:
            price = self.expected.row * self.plain_step if self.known else None
        return max(price, LEAST_ROW * self.plain_step) if price is not None else 0.0

    def verification(self, rows: float) -> float:
        """Seconds of a pass of the whole model over `rows` tokens, between what was measured on either side.

        Never less than a plain step: where it was, the machine was busier when plain steps were measured.
        """
        return max(self._pass(rows), self.plain_step)

    def verifications(self, rows: NDArray[np.int_]) -> NDArray[np.float64]:
        """`verification` of several sizes, rising, one or more; where a plain step is known."""
        seconds = np.interp(rows, self._counts, [self.passes[count].median for count in self._counts])
        if self.expected is not None and rows[-1] > self._counts[-1]:
            beyond = rows > self._counts[-1]
            seconds[beyond] = [self._pass(float(count)) for count in rows[beyond]]
        return np.maximum(seconds, self.plain_step)

    def _pass(self, rows: float) -> float:
        counts = self._counts
        if not counts:
            return 0.0
        above = bisect(counts, rows)
        low, high = counts[max(above - 1, 0)], counts[min(above, len(counts) - 1)]
        least, most = self.passes[low].median, self.passes[high].median
        if high > low:
            return least + (most - least) * (min(max(rows, low), high) - low) / (high - low)
        return least if self.expected is None else least * self._share(rows) / self._share(low)

    def _share(self, rows: float) -> float:
        assert self.expected is not None
        return self.expected.verification(rows)

    def step_known(self, plan: Plan) -> bool:
        """Whether a draft step by `plan` was measured, or what it takes is expected."""
        return plan in self.steps or self._expected_step(plan) is not None

    def _expected_step(self, plan: Plan) -> float | None:
        if self.expected is None or not self.known:
            return None
        share = self.expected.step(plan)
        return None if share is None else share * self.plain_step

    def draft_steps(
        self, precision: str, expected: NDArray[np.float64], running: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """`draft_step` of many plans in one precision, as shares of a plain step.

        Args:
            precision: of all of them.
            expected: what is expected of each, and
            running: what still runs of each, as shares of a plain step.
        """
        steps = expected * self._drift(precision)
        return np.maximum(steps, running) if precision == WHOLE else steps

    def _drift(self, precision: str) -> float:
        """What draft steps lately took over what was expected of them; 1 where nothing is known."""
        return self.drifts[precision].median if precision in self.drifts else 1.0

    def draft_step(self, plan: Plan) -> float:
        """Seconds of one draft step: what is expected of it times what steps of its precision lately were off by.

        So all plans have prices of the same time: one that drafted last while the machine was busy would seem slow for
        as long as others are better. Where nothing is expected it is what was measured, and before that a plain step's.

        Never less than the share of a plain step that still runs, for the same reason, where one was measured; what
        runs in lower precision may cost anything.
        """
        expected = self._expected_step(plan)
        if plan not in self.steps and expected is None:
            return self.plain_step
        measured = self.steps[plan].median if expected is None else expected * self._drift(plan.precision)
        if self.layers is None or not self.known or plan.precision != WHOLE:
            return measured
        return max(measured, (1 - plan.skip_ratio(self.layers)) * self.plain_step)

    def round_seconds(self, plan: Plan, drafted: float, rows: float) -> float:
        """Expected seconds of a round that takes `drafted` draft steps by `plan` and verifies `rows` tokens.

        Args:
            plan: what the draft skips.
            drafted, rows: on average.
        """
        return drafted * self.draft_step(plan) + self.verification(rows)


@dataclass(slots=True)
class Yield:
    """What rounds with one plan brought: counts only, their price comes from `Costs`."""

    rounds: float = 0
    drafted: float = 0
    accepted: float = 0
    rows: float = 0

    def add(self, drafted: int, accepted: int, rows: int) -> None:
        """Count one round: its draft steps, the tokens accepted and the rows verified."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        self.rows += rows

    def merge(self, later: "Yield", most: float) -> None:
        """Count later rounds too; of the earlier ones as many are forgotten as are more than `most` in all."""
        self.fade(min(max(most - later.rounds, 0.0) / self.rounds, 1.0) if self.rounds else 0.0)
        self.rounds += later.rounds
        self.drafted += later.drafted
        self.accepted += later.accepted
        self.rows += later.rows

    def fade(self, kept: float) -> None:
        """Let what there was count for a share, 0 to 1."""
        self.rounds *= kept
        self.drafted *= kept
        self.accepted *= kept
        self.rows *= kept

    def speedup(self, plan: Plan, costs: Costs) -> float:
        """Expected tokens per second over plain decoding's; 1 where nothing is known yet."""
        if not self.rounds:
            return 1.0
        seconds = costs.round_seconds(plan, self.drafted / self.rounds, self.rows / self.rounds)
        return (1 + self.accepted / self.rounds) * costs.plain_step / seconds if seconds > 0 else 1.0
