"""SWIFT (arXiv 2410.06916): a fixed number of sublayers, searched for while decoding.

After each round one more candidate is scored by how many of the first generated tokens it names (teacher-forced, in
one pass); it is drawn at random, and every 25th time proposed by Bayesian optimisation. The best so far is drafted
with. The search ends at a score that is good enough, or when nothing better was found for long.

Other than in the released code, nothing is kept in global variables, and scoring runs at the right positions on the one
cache.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from conflayers.body.contract import Trace
from conflayers.options import share, whole
from conflayers.plan import Plan
from conflayers.round import Round, State
from conflayers.selectors.bayesian import coordinates, optimizer, point
from conflayers.selectors.searching import Searching
from conflayers.selectors.teacher_forced import matchness
from conflayers.selectors.uniform import candidates, from_bits, sublayers, uniform_plan

# Of the acquisition function (upper confidence bound) and the Gaussian process, as in the released code.
KAPPA = 2.5
ALPHA = 1e-2


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of SWIFT, with the values of its released code.

    Attributes:
        skip_ratio: share of the candidate sublayers to skip, 0 to 1 (0.45; 0.5 for 70B).
        context_window: generated tokens that candidates are scored on, 2 or more.
        bayes_interval: every so-many-th candidate comes from Bayesian optimisation; 0 for never.
        max_iterations: candidates scored before the search ends.
        max_tolerance: ... or in a row without a better one.
        max_score: ... or a score above this.
        plan_seed: of the random candidates; ours, the released code takes torch's.
    """

    skip_ratio: float = 0.45
    context_window: int = 50
    bayes_interval: int = 25
    max_iterations: int = 1000
    max_tolerance: int = 300
    max_score: float = 0.93
    plan_seed: int = 2024

    def __post_init__(self) -> None:
        for name in ("skip_ratio", "max_score"):
            share(name, getattr(self, name))
        whole("context_window", self.context_window, 2)
        whole("bayes_interval", self.bayes_interval, 0)
        whole("plan_seed", self.plan_seed, 0)
        for name in ("max_iterations", "max_tolerance"):
            whole(name, getattr(self, name), 1)


@dataclass(slots=True)
class Swift(Searching):
    """The search after every round; the best plan so far is in use, a uniform one at first.

    Attributes:
        settings: see there.
        score: what the plan scored; 0 before the first candidate.
        iterations: candidates scored.
    """

    settings: Settings = field(default_factory=Settings)
    score: float = 0.0
    iterations: int = 0
    _since_better: int = 0
    _source: random.Random = field(init=False)
    _optimizer: Any = None
    _found_before: Plan | None = None

    def __post_init__(self) -> None:
        self.plan = uniform_plan(self.layers, self.settings.skip_ratio)
        self._source = random.Random(self.settings.plan_seed)

    def resume(self, plan: Plan) -> None:
        """Use `plan` and go on searching; it is scored before any other, so that only a better one replaces it."""
        self.plan = self._found_before = plan

    def start(self, state: State, prefill: Trace | None) -> None:
        """The search goes on from one prompt to the next."""
        if state.left and self.searching and self.settings.bayes_interval and self._optimizer is None:
            self._optimizer = optimizer(
                self.layers,
                kappa=KAPPA,
                alpha=ALPHA,
                seed=self.settings.plan_seed,
                method="swift",
                instead=", or set bayes_interval=0 for random candidates only",
            )

    def learn(self, state: State, done: Round) -> None:
        """Score one more candidate, once there is text to score it on."""
        if not self.searching or not state.left or state.generated <= self.settings.context_window + 1:
            return
        self.iterations += 1
        self._since_better += 1
        candidate = self._candidate()
        end = state.prompt + self.settings.context_window
        score = matchness(state, candidate, state.prompt, end)
        if self._optimizer is not None:
            self._optimizer.register(params=point(candidate, self.layers), target=score)
        if score > self.score:
            self.plan, self.score, self._since_better = candidate, score, 0
        if self.score > self.settings.max_score:
            self._end("good enough")
        elif self._since_better > self.settings.max_tolerance:
            self._end(f"nothing better in {self._since_better} candidates")
        elif self.iterations >= self.settings.max_iterations:
            self._end("limit of iterations")

    def _end(self, why: str) -> None:
        self.searching = False
        found = f"matches {self.score:.0%} of {self.settings.context_window - 1} tokens"
        self.decisions.append(f"{self.plan}: search ended after {self.iterations} candidates ({why}; {found})")

    def _candidate(self) -> Plan:
        if self._found_before is not None:
            found, self._found_before = self._found_before, None
            return found
        count = int(2 * len(candidates(self.layers)) * self.settings.skip_ratio)
        if self._optimizer is None or self.iterations % self.settings.bayes_interval:
            return sublayers(self._source, self.layers, count)
        values = coordinates(self._optimizer.suggest())
        wanted = sorted(range(len(values)), key=lambda index: values[index], reverse=True)[:count]
        return from_bits(self.layers, wanted)
