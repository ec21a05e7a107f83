"""The rule of ConfLayers (arXiv 2604.14612) by itself, with lambda set by hand: what its search has to beat."""

from dataclasses import dataclass, field

from conflayers.body.contract import Trace
from conflayers.options import number
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
    """

    settings: Settings = field(default_factory=Settings)
    lam: float = 0.0

    def __post_init__(self) -> None:
        number("lam", self.lam, -10)

    def wants(self) -> int:
        """The window of the first prompt."""
        return self.settings.context_window if self.searching else 0

    def start(self, state: State, prefill: Trace | None) -> None:
        """Apply the rule to the prompt."""
        if prefill is None or not self.searching:
            return
        seen = landscapes(sublayer_confidences(prefill).mean(-1), self.settings, published=True)
        plan = skip_set(seen, self.lam)
        self.plan, self.searching = plan if plan.skipped else None, False
        self.decisions.append(f"{plan}: by lambda {self.lam:g}")
