"""The search of ConfLayers (arXiv 2604.14612) as published; the rule itself is in `conflayers.selectors.rule`."""

from dataclasses import dataclass, field

import numpy as np

from conflayers.body.contract import Trace
from conflayers.plan import Plan
from conflayers.round import Round, State
from conflayers.selectors.confidence import sublayer_confidences
from conflayers.selectors.rule import Settings, every_second_layer, landscapes, skip_set
from conflayers.selectors.valley import adapt_lambda


@dataclass(slots=True)
class PublishedConfLayers:
    """The search as published, one object per task; see the module's docstring.

    Until a first candidate is scored every second layer is skipped. Where the released code would end its search with
    an empty skip set, because no candidate was ever recorded as best, this start is kept instead. The released code's
    narrower window for Qwen2 models, which the paper does not have, is left out.
    """

    layers: int
    settings: Settings = field(default_factory=Settings)
    plan: Plan = field(init=False)
    searching: bool = True
    lam: float = 0.0
    iterations: int = 0
    decisions: list[str] = field(default_factory=list)
    _best: tuple[float, Plan] = field(init=False)
    _accepted: list[int] = field(default_factory=list)
    _scores: list[float] = field(default_factory=list)
    _select_now: bool = False

    def __post_init__(self) -> None:
        self.plan = every_second_layer(self.layers)
        self._best = (0.0, self.plan)

    def keep(self, plan: Plan) -> None:
        """Use `plan` and search no more."""
        self.plan, self.searching = plan, False

    def start(self, state: State, prefill: Trace | None) -> None:
        """A new prompt selects anew while the search is on."""
        self._select_now = self.searching

    def choose(self) -> Plan | None:
        """The plan in use; plain decoding is no choice here."""
        return self.plan

    def wants(self) -> int:
        """Nothing: the published search scores by a pass of its own."""
        return 0

    def learn(self, state: State, done: Round) -> None:
        """One step of the search, once there are enough generated tokens to score by."""
        if not self.searching or state.generated <= self.settings.context_window + 1 or not done.drafted:
            return
        self._accepted.append(done.accepted)
        self._scores.append(done.accepted / done.drafted)
        large_enough = self.plan.skipped // 2 >= self._least
        rounds, mean = len(self._scores), float(np.mean(self._accepted))
        if self.iterations and large_enough and rounds == self.settings.interval // 2 and mean < 1:
            self._select_now = True
        elif self.iterations and rounds > self.settings.interval:
            if large_enough and mean > self.settings.min_accepted and np.mean(self._scores) > self.settings.max_score:
                self._settle(self.plan, f"{mean:.1f} tokens accepted a round")
                return
            if large_enough and mean > self._best[0]:
                self._best = (mean, self.plan)
            self._select_now = True
        if self._select_now or not large_enough:
            self._select(state)

    @property
    def _least(self) -> int:
        return int((self.layers - 2) * self.settings.skip_ratio) + 1

    def _settle(self, plan: Plan, why: str) -> None:
        self.keep(plan)
        self.decisions.append(f"{plan}: search ended after {self.iterations} candidates ({why})")

    def _select(self, state: State) -> None:
        # The released code scores on a clone of the prompt's cache; here the rows it overwrites are put back.
        tokens = state.tokens[state.prompt :][-self.settings.context_window :]
        with state.body.preserve(state.prompt):
            trace = state.body.forward(tokens, rows=1, record=len(tokens)).trace
        assert trace is not None
        confidences = sublayer_confidences(trace).mean(-1)
        self.plan = skip_set(landscapes(confidences, self.settings, published=True), self.lam)
        self.lam = adapt_lambda(self.lam, self.plan.skipped / (2 * max(self.layers - 2, 1)), self.settings.skip_ratio)
        self.iterations += 1
        self._select_now = False
        self._accepted, self._scores = [], []
        if self.iterations >= self.settings.max_iterations:
            self._settle(self._best[1], "limit of iterations")
