"""Draft & Verify (arXiv 2309.08168): one set of sublayers for every draft, searched for offline.

Whether to skip each attention and each MLP is a variable between 0 and 1, skipped above a half. The objective is what
counts in the end: the speed of really drafting and verifying on a few prompts of the task, which Bayesian optimisation
maximises candidate by candidate. Decoding then drafts by the best set, a chain that ends at the moving threshold of
`drafters.length.AdaptiveThreshold`.

The values are those of the released code where it has any. The search here is an object that is asked for a plan and
told its score. What it asks for follows from what it was told, so a list of plans and scores is all there is to keep,
and an interrupted search goes on as if nothing had happened.

Other than in the released code (ours): the first and the last layer always run; the optimiser is told the corner that a
plan is, and not the point that was rounded to it; and no plan is scored twice.
"""

import math
import random
from dataclasses import dataclass, field

from conflayers.errors import InputError
from conflayers.options import whole
from conflayers.plan import FULL, Plan
from conflayers.selectors.bayesian import coordinates, optimizer, point
from conflayers.selectors.uniform import candidates, from_bits

# Prompts of the task, and new tokens of each, that a candidate is measured on.
PROMPTS = 8
NEW_TOKENS = 32
# A sublayer is skipped where its variable is above this.
SKIPPED_ABOVE = 0.5
# Of the Gaussian process; and of the upper confidence bound, which the code leaves to the package's default.
ALPHA = 1e-2
KAPPA = 2.576


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of the search, with the values of the released code.

    Attributes:
        max_iterations: candidates scored before the search ends, 1 or more.
        plan_seed: of everything random in the search, 0 or more.
    """

    max_iterations: int = 1000
    plan_seed: int = 1

    def __post_init__(self) -> None:
        whole("max_iterations", self.max_iterations, 1)
        whole("plan_seed", self.plan_seed, 0)


@dataclass(slots=True)
class DraftVerifySearch:
    """The search: `ask` for a plan, measure it, `tell` its score.

    Attributes:
        layers: decoder layers of the model.
        settings: see there.
        memory: every plan that was scored with its score, in the order told. Give it to another object to go on.
    """

    layers: int
    settings: Settings = field(default_factory=Settings)
    memory: list[tuple[Plan, float]] = field(default_factory=list)

    @property
    def best(self) -> Plan | None:
        """The plan of the highest score, the first of equals; None before anything was told."""
        return max(self.memory, key=lambda scored: scored[1])[0] if self.memory else None

    def ask(self) -> Plan | None:
        """The next plan to score; None where the search is over: enough candidates, or none left.

        Raises:
            InputError: the package bayesian-optimization is not installed.
        """
        seen = {plan for plan, _ in self.memory} | {FULL}
        if len(self.memory) >= self.settings.max_iterations or len(seen) >= 2**self._variables:
            return None
        if unseen := next((plan for plan in first_probes(self.layers) if plan not in seen), None):
            return unseen
        # Seeded by how far the search is: the same after an interruption as without one.
        seed = self.settings.plan_seed + len(self.memory)
        made = optimizer(self.layers, kappa=KAPPA, alpha=ALPHA, seed=seed, method="draft-verify")
        for plan, score in self.memory:
            made.register(params=point(plan, self.layers), target=score)
        skipped = {i for i, value in enumerate(coordinates(made.suggest())) if value > SKIPPED_ABOVE}
        source = random.Random(seed)
        while (plan := from_bits(self.layers, sorted(skipped))) in seen:
            skipped ^= {source.randrange(self._variables)}
        return plan

    def tell(self, plan: Plan, score: float) -> None:
        """Remember what a plan scored.

        Args:
            plan: any plan for this model, one that was asked for or not.
            score: higher is better; tokens per second of drafting and verifying.

        Raises:
            InputError: no finite score. PlanError: the plan does not fit the model.
        """
        plan.check(self.layers)
        if not math.isfinite(score):
            raise InputError(f"the score of a plan must be a finite number, not {score}")
        self.memory.append((plan, float(score)))

    @property
    def _variables(self) -> int:
        return 2 * len(candidates(self.layers))


def first_probes(layers: int) -> list[Plan]:
    """What is scored before the optimiser has anything to go by.

    The released code begins with two sets for a model of 40 layers: half of the attentions, most of them late; and 24
    attentions with 10 MLPs, late ones again. Here, for any number of layers (the places are ours): the attentions of
    the later half, and those of the last three fifths with the MLPs of the last quarter.
    """
    choice = candidates(layers)

    def last(share: float) -> frozenset[int]:
        return frozenset(choice[len(choice) - round(len(choice) * share) :])

    return [plan for plan in (Plan(last(0.5)), Plan(last(0.6), last(0.25))) if plan != FULL]
