"""What passes between the round, drafters and selectors."""

from dataclasses import dataclass
from typing import Protocol

from conflayers.acceptance import Verdict, cut_at_end
from conflayers.body.contract import Body, Trace
from conflayers.plan import ModelIdentity, Plan
from conflayers.sampling import Greedy


@dataclass(slots=True)
class State:
    """One request in progress.

    Attributes:
        tokens: prompt and generated tokens; all but the last are in the body's cache.
        prompt: how many of them are the prompt's.
        left: tokens that may still be generated.
        end: tokens that end the text.
    """

    body: Body
    sampler: Greedy
    tokens: list[int]
    prompt: int
    left: int
    end: frozenset[int]

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt

    def commit(self, verdict: Verdict) -> tuple[int, ...]:
        """Take the verdict's tokens up to where plain decoding would stop; the cache keeps these and nothing else."""
        kept, ended = cut_at_end(verdict.tokens[: self.left], self.end)
        self.left = 0 if ended else self.left - len(kept)
        self.tokens.extend(kept)
        self.body.rollback(len(self.tokens) - 1)
        return kept


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did, for the method to learn from.

    Attributes:
        plan: what the draft skipped; None for plain decoding.
        drafted, accepted: tokens of the chain.
        kept: tokens the round added.
        draft_seconds, verify_seconds: what the draft and the verification took.
        trace: sublayer outputs at the positions of the last committed token and the drafted ones, if asked for.
    """

    plan: Plan | None
    drafted: int
    accepted: int
    kept: int
    draft_seconds: float
    verify_seconds: float
    trace: Trace | None


class Drafter(Protocol):
    """Proposes a chain of tokens."""

    def draft(self, state: State, plan: Plan) -> list[int]:
        """At most `state.left` - 1 tokens to follow `state.tokens`, maybe none. The cache keeps its length."""
        ...


class Selector(Protocol):
    """Chooses what the drafts skip, and learns from what came of it. All it remembers is in the object."""

    def start(self, state: State, prefill: Trace | None) -> None:
        """A request begins; `prefill` traces the last prompt tokens, as many as `wants` asked for."""

    def choose(self) -> Plan | None:
        """The plan of the next draft; None to decode plainly."""
        ...

    def wants(self) -> int:
        """The most trace rows wanted from the next pass of the whole model; 0 for none."""
        ...

    def learn(self, state: State, done: Round) -> None:
        """See what the round did."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode: how tokens are proposed and how the skipped sublayers are chosen.

    Attributes:
        model: what it was made for; None for any.
    """

    name: str
    drafter: Drafter
    selector: Selector
    model: ModelIdentity | None = None
