"""ConfLayers (arXiv 2604.14612): skip the layers whose confidence lies in a valley, and search on while decoding.

`landscapes` and `skip_set` are the published rule from confidences to plan. Two searches use it:

- `PublishedConfLayers`, in its own file, searches as the paper's code does: scores from an extra pass over the last
  generated tokens at the positions after the prompt, in float16, and candidates kept by mean accepted tokens.
- `ConfLayers`, the default, takes its scores from passes that are made anyway, at the right positions, in float32 on a
  log scale; keeps the incumbent while others are on trial; and judges by expected tokens per second, with plain
  decoding among the choices.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np
import torch

from conflayers.body.contract import Trace
from conflayers.costs import Costs
from conflayers.errors import InputError
from conflayers.options import number, share, whole, yes_or_no
from conflayers.plan import Plan
from conflayers.round import Round, State
from conflayers.selectors.confidence import sublayer_confidences
from conflayers.selectors.trials import Trials
from conflayers.selectors.valley import Landscape, adapt_lambda, survey

Unit = Literal["layer", "sublayer"]

# Confidences below this are rounding of float32 and carry no order.
FLOOR = 1e-7
# Leading curvatures count as equal within this share of their range; exact equality has no meaning in float64.
RUN_TOLERANCE = 0.05
# Newly seen tokens that make another candidate worth proposing: recording slows the passes it happens in, so few at
# first, when the prompt's own confidences are fresh and candidates differ by their ratio, and more as trials get rarer.
MOST_NEW_ROWS = 8
# Ratios looked through for a plan other than the one just rejected; from the first to the least takes fewer.
MOST_MOVES = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of ConfLayers, with the published defaults.

    Attributes:
        unit: skip whole layers, as published, or attention and MLP separately.
        skip_ratio: least share of the candidate layers to skip, 0 to 1.
        interval: rounds of a trial.
        context_window: tokens whose confidences are averaged.
        max_iterations: candidates tried before the search ends.
        max_score: the search ends when a candidate's mean acceptance exceeds this ... (published search only)
        min_accepted: ... and its mean accepted tokens exceed this (published search only).
        window: the same window for every layer instead of the adaptive one; 2 or more.
    """

    unit: Unit = "layer"
    skip_ratio: float = 0.4
    interval: int = 30
    context_window: int = 100
    max_iterations: int = 100
    max_score: float = 0.95
    min_accepted: float = 4.0
    window: int | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("layer", "sublayer"):
            raise InputError(f"unit must be 'layer' or 'sublayer', not {self.unit!r}")
        for name in ("skip_ratio", "max_score"):
            share(name, getattr(self, name))
        for name in ("interval", "context_window", "max_iterations"):
            whole(name, getattr(self, name), 1)
        number("min_accepted", self.min_accepted, 0)
        if self.window is not None:
            whole("window", self.window, 2)


def landscapes(confidences: torch.Tensor, settings: Settings, *, published: bool) -> list[Landscape]:
    """What the rule sees: once for whole layers, or for attention and MLP in this order.

    Args:
        confidences: of every attention and MLP, [2, layers].
        published: float16 scores on a linear scale, as in the released code; otherwise float64 on a log scale, where
            the few last layers do not decide the scale for all.
    """
    parts = confidences.half() if published else confidences.double()
    rows = [parts[0] + parts[1]] if settings.unit == "layer" else list(parts)
    if not published:
        rows = [row.clamp(min=FLOOR).log() for row in rows]
    tolerance = 0.0 if published else RUN_TOLERANCE
    layers = confidences.shape[1]
    return [survey(row[1:-1].numpy(), layers, window=settings.window, tolerance=tolerance) for row in rows]


def skip_set(seen: list[Landscape], lam: float) -> Plan:
    """The rule: skip what lies in a valley. The first and the last layer always run.

    Args:
        seen: what `landscapes` returned.
        lam: lambda; higher skips less.
    """
    indices = [frozenset((np.flatnonzero(one.valleys(lam).skipped) + 1).tolist()) for one in seen]
    return Plan(indices[0], indices[-1])


def fit_lambda(seen: list[Landscape], lam: float, least_ratio: float) -> tuple[float, Plan]:
    """The published adaptation of lambda, repeated on the same scores until it comes to rest, and the plan there.

    Args:
        seen: what `landscapes` returned.
        lam: where to begin.
        least_ratio: least share of the candidates to skip.
    """
    plan = skip_set(seen, lam)
    candidates = max(2 * seen[0].scores.size, 1)
    # Flat scores never meet a ratio; and past 2 nothing changes any more.
    for _ in range(40):
        adapted = adapt_lambda(lam, plan.skipped / candidates, least_ratio)
        if adapted == lam or abs(adapted) > 2:
            break
        lam, plan = adapted, skip_set(seen, adapted)
    return lam, plan


def every_second_layer(layers: int) -> Plan:
    """The published start: layers 1, 3, 5, ... up to the last but one."""
    return Plan.layers(range(1, layers - 1, 2))


class Status(Enum):
    """Where a search stands."""

    SEARCHING = "searching"
    SETTLED = "settled"


@dataclass(slots=True)
class ConfLayers:
    """The default search, one object per task; see the module's docstring.

    Decoding starts plainly, or without fallback at every second layer as published. Candidates come from the rule at a
    least skip ratio that shrinks when a candidate loses and grows when one wins; lambda follows the ratio on the scores
    at hand, without further passes.
    """

    layers: int
    settings: Settings = field(default_factory=lambda: Settings(interval=16, context_window=32))
    fallback: bool = True
    costs: Costs = field(default_factory=Costs)
    status: Status = Status.SEARCHING
    lam: float = 0.0
    iterations: int = 0
    trials: Trials = field(init=False)
    _ratio: float = field(init=False)
    _given: Plan | None = None
    _rows: torch.Tensor = field(init=False)
    _new: int = 0
    _started: bool = False

    def __post_init__(self) -> None:
        yes_or_no("fallback", self.fallback)
        self.trials = Trials(self.settings.interval, self.fallback, self.costs)
        self._ratio = self.settings.skip_ratio
        self._rows = torch.empty(2, self.layers, 0)
        if not self.fallback:
            self.trials.incumbent = every_second_layer(self.layers)

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None for plain decoding."""
        return self.trials.incumbent

    @property
    def decisions(self) -> list[str]:
        """What was adopted, rejected and given up, in words."""
        return self.trials.decisions

    def keep(self, plan: Plan) -> None:
        """Search no more: `plan` is used for as long as it beats plain decoding (always, without fallback)."""
        self.status, self._given = Status.SETTLED, plan
        if not self.fallback:
            self.trials.incumbent = plan

    def start(self, state: State, prefill: Trace | None) -> None:
        """The first prompt of a task is traced; later texts replace its confidences row by row."""
        self._new, self._started = 0, True
        if prefill is not None:
            self._rows = torch.empty(2, self.layers, 0)
            self._collect(prefill)

    def choose(self) -> Plan | None:
        """The plan on trial, the incumbent, or None for plain decoding."""
        return self.trials.current

    def wants(self) -> int:
        """All of the window from the first prompt; later, if a candidate is due, the rows still missing for it."""
        if self.status is Status.SETTLED or self.trials.trial is not None:
            return 0
        if not self._started:
            return self.settings.context_window
        return max(self._wanted - self._new, 0) if self.trials.ready else 0

    def learn(self, state: State, done: Round) -> None:
        """Judge by the round, and put the next candidate on trial when it is time."""
        self.trials.observe(done)
        if done.trace is not None:
            self._collect(done.trace)
        if not self.trials.ready:
            return
        if self._given is not None:
            if self.trials.incumbent is None:
                self.trials.begin(self._given)
        elif self._new >= self._wanted:
            self._propose()

    @property
    def _wanted(self) -> int:
        return min(1 + self.iterations, MOST_NEW_ROWS, self.settings.context_window)

    def _collect(self, trace: Trace) -> None:
        """Keep the confidences of the traced positions."""
        self._rows = torch.cat([self._rows, sublayer_confidences(trace)], -1)[..., -self.settings.context_window :]
        self._new += trace.tokens

    def _propose(self) -> None:
        candidate = self._candidate(self._rows.mean(-1))
        self._new = 0
        self.iterations += 1
        if candidate.skipped and candidate != self.trials.incumbent:
            self.trials.begin(candidate)
        if self.iterations >= self.settings.max_iterations:
            self.status = Status.SETTLED

    def _candidate(self, confidences: torch.Tensor) -> Plan:
        """The rule's plan, lambda adapted until the share skipped lies in the published band over the least ratio.

        The ratio moves on while the plan is the one that was just rejected: on like scores it would lose again.
        """
        seen = landscapes(confidences, self.settings, published=False)
        for _ in range(MOST_MOVES):
            self._move_ratio()
            self.lam, plan = fit_lambda(seen, self.lam, self._ratio)
            if plan != self.trials.rejected:
                break
        return plan

    def _move_ratio(self) -> None:
        if not self.trials.finished:
            return
        self._ratio = min(self._ratio * 1.25, 0.75) if self.trials.last_won else self._ratio * 0.6
        if self._ratio < 1 / max(self.layers - 2, 1):
            self._ratio = self.settings.skip_ratio
