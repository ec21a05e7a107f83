"""The selector that never changes its mind: one plan for every draft, or none for plain decoding."""

from dataclasses import dataclass

from conflayers.body.contract import Trace
from conflayers.plan import Plan
from conflayers.round import Round, State


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always `plan`; None decodes plainly."""

    plan: Plan | None = None

    def start(self, state: State, prefill: Trace | None) -> None:
        """Nothing to prepare."""

    def choose(self) -> Plan | None:
        """The plan."""
        return self.plan

    def wants(self) -> int:
        """No trace."""
        return 0

    def learn(self, state: State, done: Round) -> None:
        """Nothing to learn."""
