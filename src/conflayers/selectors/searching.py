"""What selectors that use one plan at a time have in common."""

from dataclasses import dataclass, field

import torch

from conflayers.body.contract import Trace
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.round import Round, State


@dataclass(slots=True)
class Searching:
    """Drafts by the plan found last, until a better one is found. One object per task.

    Attributes:
        layers: decoder layers of the model.
        plan: the plan in use; None for plain decoding.
        searching: whether the search goes on.
        decisions: what was found, in words.
    """

    layers: int
    plan: Plan | None = field(default=None, kw_only=True)
    searching: bool = field(default=True, kw_only=True)
    decisions: list[str] = field(default_factory=list, kw_only=True)

    def keep(self, plan: Plan) -> None:
        """Use `plan` and search no more."""
        self.plan, self.searching = plan, False

    def resume(self, plan: Plan) -> None:
        """Use `plan`, which an earlier search found, and go on searching."""
        self.plan = plan

    def start(self, state: State, prefill: Trace | None) -> None:
        """Nothing to prepare."""

    def choose(self) -> Plan | None:
        """The plan in use."""
        return self.plan

    def wants(self) -> int:
        """No trace."""
        return 0

    def learn(self, state: State, done: Round) -> None:
        """Nothing to learn."""


def need_branches(method: str, state: State) -> None:
    """Raise InputError where the body cannot run what `method` asks of it: branches are trees."""
    if not state.body.trees:
        raise InputError(f"method {method!r} runs branches as a tree, which this model cannot verify exactly")


def closeness(states: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[branches]: cosine of each branch's states [branches, tokens, hidden] with the target's, mean over the tokens."""
    return torch.cosine_similarity(states.float(), target.float(), dim=-1).mean(-1)
