"""ConfLayers (arXiv 2604.14612) made automatic: skip the layers of low confidence, with nothing to set by hand.

The paper's signal is kept, the confidence that each sublayer shows. What the paper leaves to be tuned by model, lambda
and the least share to skip, is found out while decoding:

1. One set of confidences, from the prompt's own pass, suggests candidates by several rules (`candidates`).
2. A look at a candidate is one pass over recent tokens: how many it would have named itself (`agreement`).
3. By what steps cost here, that is an expected speedup (`forecast`), and says where to look next (`shortlist`).
4. The best is tried for real, and replaces the incumbent if it is faster beyond doubt (`trials`). Plain decoding is
   among the choices.
5. When the incumbent does worse than it used to, the text has changed, and the search goes on.

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
from conflayers.selectors.forecast import Savings, measure
from conflayers.selectors.rule import every_second_layer
from conflayers.selectors.shortlist import Shortlist
from conflayers.selectors.trials import MARGIN, Trials

# New tokens that a look takes in: fewer say little, and on a machine where rows are dear more cost much.
LEAST_LOOK, MOST_LOOK = 16, 32
# Time that looks may take: a share of all the time so far, and at the start a few plain steps.
LOOK_SHARE = 0.005
LOOK_STEPS = 8.0
# ... fewer where a text is short, as a share of its tokens.
MOST_OF_A_TEXT = 0.05
# Tokens by which a candidate has to be known before it is tried, and both it and the incumbent where there is one.
KNOWN, COMPARED = 32.0, 64.0
# Rounds without a promising candidate until the search begins anew: so many at first, doubled each time.
FIRST_REST, LONGEST_REST = 512, 1 << 16
IN_USE = "in use"


@dataclass(slots=True)
class ConfLayers:
    """The automatic search, one object per task; see the module's docstring.

    Decoding starts plainly, or without fallback at every second layer.

    Attributes:
        layers: decoder layers of the model.
        fallback: whether plain decoding is among the choices.
        costs: what draft steps and verifications take.
        interval: rounds of a trial, 1 or more.
        context_window: tokens of the prompt whose confidences are averaged, 1 or more.
        clock: seconds, for what the search takes and the price of what was never drafted with.
        shortlist: the candidates, once there are any.
        trials: what is in use and on trial.
        openings, reopened: times the search began with new candidates, and times it went on since the text had changed.
    """

    layers: int
    fallback: bool = True
    costs: Costs = field(default_factory=Costs)
    interval: int = 16
    context_window: int = 32
    clock: Callable[[], float] = time.perf_counter
    shortlist: Shortlist | None = None
    trials: Trials = field(init=False)
    openings: int = 0
    reopened: int = 0
    _searching: bool = True
    _given: Plan | None = None
    _confidences: torch.Tensor | None = None
    _savings: Savings | None = None
    _tokens: int = 0
    _not_before: int = 0  # tokens until when a look would see too little that is new
    _news: bool = False  # whether there was a look since the last thought of a trial
    _spent: float = 0.0  # seconds of the search
    _bias: float = 1.0  # what trials brought over what was forecast
    _forecast: float = 1.0  # of the plan on trial
    _judged: int = 0
    _rest: int = FIRST_REST
    _rest_left: int = 0

    def __post_init__(self) -> None:
        yes_or_no("fallback", self.fallback)
        whole("interval", self.interval, 1)
        whole("context_window", self.context_window, 1)
        self.trials = Trials(self.interval, self.fallback, self.costs)
        if not self.fallback:
            self.trials.incumbent = every_second_layer(self.layers)
        # Nothing but the first and the last layer, which always run.
        self._searching = self.layers > 2

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
        self._searching, self._given = False, plan
        if not self.fallback:
            self.trials.incumbent = plan

    def start(self, state: State, prefill: Trace | None) -> None:
        """Take the confidences of the first prompt."""
        if prefill is not None:
            self._confidences = sublayer_confidences(prefill).mean(-1)
        if self.trials.incumbent is None and self.shortlist is not None:
            # Another text: whoever lost on the last one may win on this.
            self.shortlist.out.clear()
            self._rest, self._rest_left, self._news = FIRST_REST, 0, True
            self._bias = (1 + self._bias) / 2

    def choose(self) -> Plan | None:
        """The plan on trial, the incumbent, or None for plain decoding."""
        return self.trials.current

    def wants(self) -> int:
        """The window of the first prompt."""
        return self.context_window if self._searching and self._confidences is None else 0

    def learn(self, state: State, done: Round) -> None:
        """Judge by the round; look at a candidate, or put one on trial, when it is time."""
        self._tokens += done.kept
        self.trials.observe(done)
        self._conclude()
        if self._given is not None:
            if self.trials.ready and self.trials.incumbent is None:
                self.trials.begin(self._given)
        elif self._searching and self.trials.measured and state.left and self._confidences is not None:
            begun = self.clock()
            self._search(state)
            self._spent += max(self.clock() - begun, 0.0)

    def _search(self, state: State) -> None:
        """Look at a candidate while there is one worth it and time for it; else try the one that is the best so far."""
        count = min(MOST_LOOK, state.generated)
        if count < LEAST_LOOK:
            return
        may_spend = self._may_spend(state.left)
        if self.trials.drifted and self.shortlist is not None:
            self._forget(self.shortlist)
        elif self._rest_left:
            self._rest_left -= 1
            if not self._rest_left:
                self._take_up(state)
        elif self.shortlist is None:
            self._open(state)
        elif may_spend and self._tokens >= self._not_before:
            self._look(state, self.shortlist, count)
        elif self._news and self.trials.ready:
            self._news = self._try_the_best(self.shortlist)

    def _open(self, state: State) -> None:
        """Make the list of candidates; the first time find out what leaving out sublayers spares."""
        assert self._confidences is not None
        plans = suggest(self._confidences)
        if self.trials.incumbent is not None:
            plans.setdefault(self.trials.incumbent, IN_USE)
        if self._savings is None:
            self._savings = measure(state, self.layers, self.costs, self.clock)
        before, self.shortlist = self.shortlist, Shortlist(plans, self.layers, self._savings)
        if before is not None:
            self.shortlist.remember(before)
        self.openings += 1

    def _forget(self, shortlist: Shortlist) -> None:
        """The text is another one: what was seen of the old one counts for less, and who lost there may win here."""
        shortlist.fade()
        self.trials.drifted, self._rest, self._rest_left, self._not_before = False, FIRST_REST, 0, 0
        self._bias = (1 + self._bias) / 2
        self.reopened += 1

    def _take_up(self, state: State) -> None:
        """After a rest: what is in use is compared with the others once more; plain decoding with new candidates."""
        if self.shortlist is not None and self.trials.incumbent in self.shortlist.plans:
            self.shortlist.fade()
        else:
            self._begin_anew(state)

    def _begin_anew(self, state: State) -> None:
        """New confidences, from one pass over the last tokens, and new candidates."""
        count, length = min(self.context_window, state.generated), state.body.length
        with state.body.preserve(length - count):
            trace = state.body.forward(state.tokens[length - count : length], rows=1, record=count).trace
        assert trace is not None
        self._confidences = sublayer_confidences(trace).mean(-1)
        self._bias, self._savings = (1 + self._bias) / 2, None
        self._open(state)

    def _look(self, state: State, shortlist: Shortlist, count: int) -> None:
        """See how many of the last tokens a candidate names; rest when nobody is worth it."""
        plan = self._worth_a_look(shortlist)
        if plan is None:
            if self._news and not self.trials.ready:
                self._not_before = self._tokens + LEAST_LOOK
            elif not (self._news and self._try_the_best(shortlist)):
                self._rest_left, self._rest = self._rest, min(2 * self._rest, LONGEST_REST)
            return
        fresh = int(min(count, shortlist.fresh(plan, self._tokens)))
        if fresh < LEAST_LOOK:
            self._not_before = self._tokens + LEAST_LOOK - fresh
            return
        shortlist.count(plan, *agreement(state, plan, fresh), fresh, self._tokens)
        self._news = True

    def _worth_a_look(self, shortlist: Shortlist) -> Plan | None:
        """Whoever may be better than all that is known; None where nobody is."""
        best = self._better(shortlist)
        if best is not None and (unknown := self._unknown(shortlist, best)) is not None:
            return unknown
        leads = shortlist.speedup(best, self.costs) if best is not None else 0.0
        return shortlist.next(self.costs, max(leads, self._to_beat(shortlist) / self._bias))

    def _unknown(self, shortlist: Shortlist, best: Plan) -> Plan | None:
        """Of what a trial would compare, whatever not enough was seen of."""
        if self.trials.incumbent is None:
            return best if shortlist.seen(best) < KNOWN else None
        least_known = min(best, self.trials.incumbent, key=shortlist.seen)
        return least_known if shortlist.seen(least_known) < COMPARED else None

    def _better(self, shortlist: Shortlist) -> Plan | None:
        """The best so far, if more is expected of it than of what is in use."""
        best = shortlist.leader(self.costs)
        if best is None or best[0] == self.trials.incumbent:
            return None
        return best[0] if best[1] * self._bias > self._to_beat(shortlist) * MARGIN else None

    def _try_the_best(self, shortlist: Shortlist) -> bool:
        """Put it on trial, once enough was seen of it."""
        plan = self._better(shortlist)
        if plan is None or self._unknown(shortlist, plan) is not None:
            return False
        self._forecast, self._judged = shortlist.speedup(plan, self.costs), self.trials.finished
        self.trials.begin(plan)
        return True

    def _to_beat(self, shortlist: Shortlist) -> float:
        """The speedup expected of what is in use."""
        plain = 1.0 if self.fallback else 0.0
        if self.trials.incumbent is None:
            return plain
        return max(plain, shortlist.speedup(self.trials.incumbent, self.costs) * self._bias)

    def _conclude(self) -> None:
        """After a trial learn how good the forecasts are; whoever lost is a candidate no more."""
        if self.shortlist is None:
            return
        if self.trials.finished > self._judged:
            self._judged = self.trials.finished
            # A trial that ended early tells little.
            weight = self.trials.last_rounds / (self.trials.last_rounds + self.interval) / 2
            self._bias += weight * (self.trials.last_speedup / self._forecast - self._bias)
            if self.trials.last_won:
                self._rest = FIRST_REST
        if self.trials.lost is not None:
            self.shortlist.out.add(self.trials.lost)
            self.trials.lost = None

    def _may_spend(self, left: int) -> bool:
        steps = min(LOOK_STEPS, MOST_OF_A_TEXT * (self._tokens + left))
        return self._spent <= steps * self.costs.plain_step + LOOK_SHARE * self.trials.losses.elapsed
