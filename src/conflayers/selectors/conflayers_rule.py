"""The rule of ConfLayers (arXiv 2604.14612) by itself, with lambda set by hand: what its search has to beat."""

from dataclasses import dataclass, field

import torch

from conflayers.body.contract import Trace
from conflayers.errors import InputError
from conflayers.options import number
from conflayers.plan import Plan
from conflayers.round import State
from conflayers.selectors.confidence import sublayer_confidences
from conflayers.selectors.rule import Settings, landscapes, skip_set
from conflayers.selectors.searching import Searching


@dataclass(slots=True)
class RuleOnly(Searching):
    """One plan a task, from the confidences of the first prompt's last tokens.

    Attributes:
        settings: of which `unit`, `context_window` and `window` matter.
        lam: lambda; higher skips less.
        confidence: "low" as published; "high" skips as many layers, but those of highest confidence: what the paper
            compares with (section on low against high confidence).
    """

    settings: Settings = field(default_factory=Settings)
    lam: float = 0.0
    confidence: str = "low"

    def __post_init__(self) -> None:
        number("lam", self.lam, -10)
        if self.confidence not in ("low", "high"):
            raise InputError(f"confidence must be 'low' or 'high', not {self.confidence!r}")

    def wants(self) -> int:
        """The window of the first prompt."""
        return self.settings.context_window if self.searching else 0

    def start(self, state: State, prefill: Trace | None) -> None:
        """Apply the rule to the prompt."""
        if prefill is None or not self.searching:
            return
        confidences = sublayer_confidences(prefill).mean(-1)
        plan = skip_set(landscapes(confidences, self.settings, published=True), self.lam)
        if self.confidence == "high":
            plan = most_confident(confidences, plan)
        self.plan, self.searching = plan if plan.skipped else None, False
        self.decisions.append(f"{plan}: by lambda {self.lam:g}")


def most_confident(confidences: torch.Tensor, plan: Plan) -> Plan:
    """As many sublayers of each kind as `plan` skips, but the most confident ones.

    Args:
        confidences: of every attention and MLP, [2, layers], attention first. For whole layers their sum counts.
        plan: what the rule would skip.
    """

    def highest(row: torch.Tensor, count: int) -> frozenset[int]:
        return frozenset((row[1:-1].argsort(descending=True, stable=True)[:count] + 1).tolist())

    if plan.attention == plan.mlp:
        return Plan.layers(highest(confidences.sum(0), len(plan.attention)))
    return Plan(highest(confidences[0], len(plan.attention)), highest(confidences[1], len(plan.mlp)))
