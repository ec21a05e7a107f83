"""CLaSp (arXiv 2505.24196): the layers to skip by dynamic programming over the last token's hidden states.

Among all ways to skip exactly M layers, find the one whose last hidden state is closest to the whole model's. Each cell
of the programme keeps one hidden state, so what is found is good and not always best. All cells of a layer run as
branches of one pass, and the first of them is the whole model, so that nothing has to be remembered from the
verification. Done anew every so many verifications, and once after the prompt.
"""

from dataclasses import dataclass, field

import torch

from conflayers.body.contract import LAYER, Run, Trace
from conflayers.options import share, whole
from conflayers.plan import Plan
from conflayers.round import Round, State
from conflayers.selectors.searching import Searching, closeness, need_branches


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of CLaSp.

    Attributes:
        skip_ratio: share of the layers to skip, 0 to 1 (0.5 to 0.6 in the paper).
        interval: verifications between two searches (the paper finds up to 128 as good).
    """

    skip_ratio: float = 0.5
    interval: int = 128

    def __post_init__(self) -> None:
        share("skip_ratio", self.skip_ratio)
        whole("interval", self.interval, 1)


def skip_exactly(count: int, layers: int, state: State) -> Plan:
    """The programme, on the last cached token.

    Args:
        count: layers to skip, M; 0 to `layers`.
        layers: decoder layers of the model, L.
        state: the request.
    """
    skipped: list[torch.Tensor] = []  # by layer, for each cell j = 0..M, whether it was reached by skipping the layer

    def step(index: int, states: torch.Tensor, run: Run) -> torch.Tensor:
        # Cell j holds the state that has skipped j layers so far; cell 0 is the whole model.
        ran = run(states, LAYER)
        target = ran[:1]
        skip = torch.cat([states[:1], states[:-1]])  # from cell j - 1
        better = closeness(skip, target) >= closeness(ran, target)
        cell = torch.arange(len(states), device=states.device)
        # No more layers can be skipped than there have been, and none at all in cell 0.
        better = (better | (cell == index + 1)) & (cell > 0) & (cell <= index + 1)
        skipped.append(better)
        return torch.where(better[:, None, None], skip, ran)

    state.body.walk(state.tokens[state.body.length - 1 : state.body.length], count + 1, step)
    chosen, cell = [], count
    for index in reversed(range(layers)):
        if bool(skipped[index][cell]):
            chosen.append(index)
            cell -= 1
    return Plan.layers(chosen)


@dataclass(slots=True)
class Clasp(Searching):
    """The search every so many verifications.

    Attributes:
        settings: see there.
        searches: how many there were.
    """

    settings: Settings = field(default_factory=Settings)
    searches: int = 0
    _rounds: int = 0

    def start(self, state: State, prefill: Trace | None) -> None:
        """Search on the prompt's last token."""
        if self.searching:
            need_branches("clasp", state)
        self._search(state)

    def learn(self, state: State, done: Round) -> None:
        """Search again when it is time."""
        self._rounds += 1
        if self._rounds >= self.settings.interval:
            self._search(state)

    def _search(self, state: State) -> None:
        self._rounds = 0
        if not self.searching or not state.left:
            return
        found = skip_exactly(round(self.layers * self.settings.skip_ratio), self.layers, state)
        self.searches += 1
        if found != self.plan:
            self.decisions.append(f"{found}: closest to the whole model on the last token")
        self.plan = found
