"""Draft on the fly (arXiv 2410.01028): skip the attentions that hardly turn the prompt's hidden states.

For every prompt anew, without any search: an attention is skipped where the cosine between what goes into it and what
comes out, residual stream included, exceeds a threshold. MLPs are always kept. The threshold's value and the paper's
two further rules, which drop more, were not found in any source; the value here is ours, and the rules are left out.
"""

from dataclasses import dataclass, field

import torch

from conflayers.body.contract import ATTENTION, LAYER, Run, Trace
from conflayers.errors import InputError
from conflayers.options import number, whole
from conflayers.plan import Plan
from conflayers.round import State
from conflayers.selectors.searching import Searching, closeness, need_branches


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters, both ours.

    Attributes:
        threshold: an attention is skipped above this cosine, -1 to 1.
        context_window: tokens of the prompt's end that are looked at, 1 or more.
    """

    threshold: float = 0.985
    context_window: int = 32

    def __post_init__(self) -> None:
        number("threshold", self.threshold, -1)
        if self.threshold > 1:
            raise InputError(f"threshold must be a cosine, -1 to 1, not {self.threshold!r}")
        whole("context_window", self.context_window, 1)


def attention_cosines(state: State, window: int) -> list[float]:
    """By layer, the mean cosine over the last tokens between the residual stream before and after its attention."""
    found: list[float] = []

    def step(index: int, states: torch.Tensor, run: Run) -> torch.Tensor:
        after = run(states, ATTENTION)
        found.append(float(closeness(after, states)))
        return run(states, LAYER)

    length = state.body.length
    first = max(length - window, state.body.text_start)
    state.body.walk(state.tokens[first:length], 1, step)
    return found


@dataclass(slots=True)
class Cosine(Searching):
    """One plan a prompt; plain decoding where no attention can go.

    Attributes:
        settings: see there.
    """

    settings: Settings = field(default_factory=Settings)

    def start(self, state: State, prefill: Trace | None) -> None:
        """Look at the prompt and decide."""
        if not self.searching or not state.left:
            return
        need_branches("cosine", state)
        cosines = attention_cosines(state, self.settings.context_window)
        above = [i for i in range(1, self.layers - 1) if cosines[i] > self.settings.threshold]
        self.plan = Plan(attention=frozenset(above)) if above else None
        if self.plan is None:
            best = max(cosines[1:-1], default=0.0)
            self.decisions.append(
                f"no attention above a cosine of {self.settings.threshold}: the highest is {best:.3f}"
            )
