"""What passes between the round, drafters and selectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from conflayers.acceptance import Verdict, cut_at_end
from conflayers.body.contract import Body, Trace
from conflayers.costs import Costs
from conflayers.draft import Draft
from conflayers.errors import InputError
from conflayers.plan import LOOKUP, ModelIdentity, Plan
from conflayers.sampling import Sampler

Stop = Callable[[Sequence[int]], bool]


@dataclass(slots=True)
class State:
    """One request in progress.

    Attributes:
        tokens: prompt and generated tokens; all but the last are in the body's cache.
        prompt: how many of them are the prompt's.
        left: tokens that may still be generated.
        end: tokens that end the text.
        stop: asked after every token, with all tokens up to it, whether the text ends there.
        prepared: the plan that the body was last prepared for.
    """

    body: Body
    sampler: Sampler
    tokens: list[int]
    prompt: int
    left: int
    end: frozenset[int]
    stop: Stop | None = None
    prepared: Plan | None = None

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt

    def commit(self, verdict: Verdict) -> tuple[int, ...]:
        """Take the verdict's tokens up to where plain decoding would stop; the cache keeps these and nothing else."""
        start = len(self.tokens)
        kept, ended = cut_at_end(verdict.tokens[: self.left], self.end)
        if self.stop is None:
            self.tokens.extend(kept)
        else:
            for token in kept:
                self.tokens.append(token)
                if self.stop(self.tokens):
                    ended = True
                    break
        kept = tuple(self.tokens[start:])
        self.left = 0 if ended else self.left - len(kept)
        self.body.keep(start, verdict.path[: len(kept) - 1])
        return kept


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did, for the method to learn from.

    Attributes:
        plan: what the draft skipped; None for plain decoding.
        drafted: tokens of the main chain, one draft step each but for those looked up.
        accepted: drafted tokens accepted, a sibling included.
        kept: tokens the round added.
        draft_seconds, verify_seconds: what the draft and the verification took.
        trace: sublayer outputs at the positions of the last committed token and the accepted ones, if asked for.
        siblings: drafted tokens beside the main chain.
        on_chain: tokens of the main chain accepted.
        confidences: of the main chain's tokens.
        looked_up: which of them were found in the text.
    """

    plan: Plan | None
    drafted: int
    accepted: int
    kept: int
    draft_seconds: float
    verify_seconds: float
    trace: Trace | None = None
    siblings: int = 0
    on_chain: int = 0
    confidences: Sequence[float] = ()
    looked_up: frozenset[int] = frozenset()

    @property
    def steps(self) -> int:
        """Draft steps."""
        return self.drafted - len(self.looked_up)

    @property
    def rows(self) -> int:
        """Tokens in the verification pass."""
        return 1 + self.drafted + self.siblings


class Drafter(Protocol):
    """Proposes a chain or a tree of tokens, and learns from what came of it."""

    def draft(self, state: State, plan: Plan) -> Draft:
        """Tokens to follow `state.tokens`, at most `state.left` - 1 deep, maybe none. The cache keeps its length."""
        ...

    def learn(self, done: Round) -> None:
        """See what the round did."""


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


def plan_of(selector: Selector) -> Plan | None:
    """The plan that a selector has in use; None for plain decoding, lookups, and where it names none."""
    plan: Plan | None = getattr(selector, "plan", None)
    return None if plan == LOOKUP else plan


def decisions_of(selector: Selector) -> list[str]:
    """What a selector decided so far, in words; nothing where it keeps no record."""
    return list(getattr(selector, "decisions", ()))


def standings_of(selector: Selector) -> list[Any]:
    """What a selector knows of every way to draft it considered, as `contest.Standing`; nothing if it is silent."""
    return list(getattr(selector, "standings", ()))


def check_selector(given: object) -> None:
    """Raise InputError, which says what is missing, unless `given` has every part of a `Selector`."""
    if isinstance(given, Method):
        raise InputError("method is a task, as Llm.task returns it: give it as task=")
    parts = ("start", "choose", "wants", "learn")
    missing = [f"{part}()" for part in parts if not callable(getattr(given, part, None))]
    if len(missing) == len(parts):
        raise InputError(
            "method must be a name of the table or a selector, an object with start(), choose(), wants() and learn() "
            f"as in conflayers.round.Selector, not {given!r}"
        )
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    if missing:
        raise InputError(f"the selector {name} lacks {', '.join(missing)}: see conflayers.round.Selector")
    if isinstance(given, type):
        raise InputError(f"method is the class {name} itself: give an object of it, method={name}(...)")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode: how tokens are proposed and how the skipped sublayers are chosen.

    Attributes:
        costs: what passes take, measured round by round; drafter and selector may decide by it.
        model: what it was made for; None for any.
    """

    name: str
    drafter: Drafter
    selector: Selector
    costs: Costs = field(default_factory=Costs)
    model: ModelIdentity | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None for plain decoding, and where the selector names none."""
        return plan_of(self.selector)

    @property
    def decisions(self) -> list[str]:
        """What the selector decided so far, in words."""
        return decisions_of(self.selector)

    def measure(self, done: Round) -> None:
        """Take in what a round cost and what its draft was worth, before the selector, which decides by it, learns."""
        self.costs.observe(
            done.plan,
            steps=done.steps,
            rows=done.rows,
            kept=done.kept,
            draft_seconds=done.draft_seconds,
            verify_seconds=done.verify_seconds,
        )
        self.drafter.learn(done)


def check_task(task: object, method: object, plan: object, options: Mapping[str, Any]) -> None:
    """Raise InputError if `task` is none, or comes together with what it already has."""
    if method is not None or plan is not None or options:
        raise InputError("a task already has its method, plan and options: give either a task or these")
    if not isinstance(task, Method):
        raise InputError(f"task must come from Llm.task, not {task!r}")
