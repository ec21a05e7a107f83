"""ConfLayers (arXiv 2604.14612) made automatic: skip the layers of low confidence, with nothing to set by hand.

The paper's signal is kept, the confidence that each sublayer shows. What the paper leaves to be tuned by model, lambda
and the least share to skip, is found out while decoding:

1. One set of confidences, from the prompt's own pass, suggests candidates by several rules (`candidates`).
2. A look at a candidate is one pass over recent tokens: how many it would have named itself (`agreement`).
3. By what steps cost here, that is an expected speedup (`forecast`), and says where to look next (`shortlist`).
4. Whoever was looked at takes turns in drafting for real, more often the better it is thought to be (`contest`). Plain
   decoding is among the choices.

The published search is in `conflayers_published`, the rule alone in `conflayers_rule`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from conflayers.body.contract import Trace
from conflayers.costs import Costs
from conflayers.options import whole, yes_or_no
from conflayers.plan import Plan
from conflayers.round import Round, State
from conflayers.selectors.agreement import agreement
from conflayers.selectors.candidates import suggest
from conflayers.selectors.confidence import sublayer_confidences
from conflayers.selectors.contest import Contest, Standing
from conflayers.selectors.forecast import measure
from conflayers.selectors.precision import Precisions
from conflayers.selectors.rule import every_second_layer
from conflayers.selectors.shortlist import Shortlist

# New tokens that a look takes in: fewer say little. Where rows are dear, as many as cost so many plain steps.
LEAST_LOOK, MOST_LOOK, LOOK_ROWS = 16, 32, 2.0
# Time that looks may take: a share of all the time so far, and at the start a few plain steps.
LOOK_SHARE = 0.0015
LOOK_STEPS = 6.0
# ... and some more once drafts have gained something.
MORE_STEPS = 9.0
# ... fewer where a text is short, as a share of its tokens.
MOST_OF_A_TEXT = 0.025
# Tokens until the search goes on where no candidate promised anything: so many at first, doubled each time.
FIRST_REST, LONGEST_REST = 64, 1024


@dataclass(slots=True)
class ConfLayers:
    """The automatic search, one object per task; see the module's docstring.

    Decoding starts plainly, or without fallback at every second layer.

    Attributes:
        layers: decoder layers of the model.
        fallback: whether plain decoding is among the choices.
        costs: what draft steps and verifications take.
        interval: rounds of a first turn, 1 or more; later ones are up to eight times as long.
        context_window: tokens of the prompt whose confidences are averaged, 1 or more.
        views: whether drafts may be of lower precision too, where that is faster.
        lookup: whether tokens are also looked up in the text.
        clock: seconds, for what the search takes and the price of what was never drafted with.
        shortlist: the candidates, once there are any.
        contest: what each plan brought, and whose turn it is.
    """

    layers: int
    fallback: bool = True
    costs: Costs = field(default_factory=Costs)
    interval: int = 8
    context_window: int = 32
    views: bool = False
    lookup: bool = False
    clock: Callable[[], float] = time.perf_counter
    shortlist: Shortlist | None = None
    contest: Contest = field(init=False)
    _views: Precisions = field(init=False)
    _searching: bool = True
    _confidences: torch.Tensor | None = None
    _tokens: int = 0
    _not_before: int = 0  # tokens until when there is nothing to look at
    _rest: int = FIRST_REST
    _spent: float = 0.0  # seconds of the search

    def __post_init__(self) -> None:
        for name in ("fallback", "views", "lookup"):
            yes_or_no(name, getattr(self, name))
        whole("interval", self.interval, 1)
        whole("context_window", self.context_window, 1)
        self.contest = Contest(self.interval, self.fallback, self.costs, self.lookup)
        self._views = Precisions(clock=self.clock)
        if not self.fallback:
            self.contest.begin_with(every_second_layer(self.layers))
        # Nothing but the first and the last layer, which always run.
        self._searching = self.layers > 2

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None for plain decoding."""
        return self.contest.best

    @property
    def decisions(self) -> list[str]:
        """What was found, in words."""
        return self.contest.decisions

    @property
    def standings(self) -> list[Standing]:
        """Every way to draft that was considered, and what came of it."""
        return self.contest.standings

    def keep(self, plan: Plan) -> None:
        """Search no more: `plan` is used for as long as it beats plain decoding (always, without fallback)."""
        self._searching = False
        self.resume(plan)

    def resume(self, plan: Plan) -> None:
        """Begin with `plan`, which an earlier search found, and go on searching."""
        self.contest.begin_with(plan)

    def start(self, state: State, prefill: Trace | None) -> None:
        """Take the confidences of the first prompt."""
        if prefill is not None:
            self._confidences = sublayer_confidences(prefill).mean(-1)
        if self.views and self._views.unseen is None:
            self._views.unseen = list(state.body.quick())

    def choose(self) -> Plan | None:
        """The plan whose turn it is, or None for plain decoding."""
        return self.contest.chosen

    def wants(self) -> int:
        """The window of the first prompt."""
        return self.context_window if self._searching and self._confidences is None else 0

    def learn(self, state: State, done: Round) -> None:
        """Count the round, and look at a candidate when it is time."""
        self._tokens += done.kept
        self.contest.observe(done)
        # Asked in every round, and what says no most often first.
        if self._tokens >= self._not_before and self._searching and self._may_search(state):
            begun = self.clock()
            self._search(state)
            self._spent += max(self.clock() - begun, 0.0)

    def _may_search(self, state: State) -> bool:
        """Whether there are candidates, text to see and time for a look. Asking is not counted: looks would starve."""
        if not state.left or self._confidences is None:
            return False
        if state.generated < LEAST_LOOK or self.contest.measuring:
            return False
        # At the end of a first text nobody knows whether there will be another.
        if state.left < LEAST_LOOK and self._tokens <= state.generated:
            return False
        most = MORE_STEPS if self.contest.losses.lost < 0 else LOOK_STEPS
        steps = min(most, MOST_OF_A_TEXT * (self._tokens + state.left))
        if self._spent > steps * self.costs.plain_step + LOOK_SHARE * self.contest.losses.elapsed:
            self._not_before = self._tokens + MOST_LOOK
            return False
        return state.generated >= min(self._rows(), max((state.generated + state.left) // 2, LEAST_LOOK))

    def _rows(self) -> int:
        """Tokens of a look; texts of less than twice as many have shorter ones."""
        cheap = LOOK_ROWS * self.costs.plain_step / max(self.costs.row_seconds, 1e-9)
        return int(min(max(cheap, LEAST_LOOK), MOST_LOOK))

    def _search(self, state: State) -> None:
        """Look at a candidate, if there is one worth it."""
        count = min(self._rows(), state.generated)
        if self._views.unseen:
            self._views.look(state, count, self.costs)
            self.contest.enter(self._views.forecasts(self.costs))
            return
        if self.shortlist is None:
            self._list(state)
            return
        self.shortlist.fade(self._tokens)
        if not self.lookup:
            # What was looked up is accepted for no merit of the plan's.
            self.shortlist.hear(self.contest.live)
        plan = self.shortlist.next(self.costs, self.contest.to_beat / self.contest.bias, self.contest.best)
        if plan is None:
            self._not_before, self._rest = self._tokens + self._rest, min(2 * self._rest, LONGEST_REST)
            return
        fresh = int(min(count, self.shortlist.fresh(plan, self._tokens)))
        if fresh < LEAST_LOOK:
            self._not_before = self._tokens + LEAST_LOOK - fresh
            return
        self.shortlist.count(plan, *agreement(state, plan, fresh), fresh, self._tokens)
        self.contest.enter(self.shortlist.forecasts(self.costs))

    def _list(self, state: State) -> None:
        """Make the candidates, in the best precision."""
        assert self._confidences is not None
        precision, base = self._views.best(self.costs)
        expected = self.costs.expected.savings.get(precision) if self.costs.expected is not None else None
        savings = expected or measure(state.body, state.tokens[-1], self.costs.plain_step, self.clock, precision)
        plans = {plan.at(precision): rule for plan, rule in suggest(self._confidences).items()}
        self.shortlist = Shortlist(plans, self.layers, savings, base)
