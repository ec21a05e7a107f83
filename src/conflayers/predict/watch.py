"""What the rounds of real requests take, seen from the selector: it is asked at the beginning of each."""

from collections.abc import Callable
from dataclasses import dataclass, field

from conflayers.body.contract import Trace
from conflayers.plan import Plan
from conflayers.round import Round, State

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timed:
    """One round.

    Attributes:
        drafted, siblings: tokens drafted, one draft step each, and tokens verified beside them.
        draft: seconds of the draft: its passes, and choosing tokens, siblings and the length.
        rest: seconds of everything else up to the next round: verification, accepting, the cache, learning, text.
    """

    drafted: int
    siblings: int
    draft: float
    rest: float


@dataclass(slots=True)
class Watch:
    """A selector with one plan for every draft, which notes what the rounds take.

    Attributes:
        plan: of the drafts; None decodes plainly.
        clock: seconds, the clock that the requests themselves are timed by.
    """

    plan: Plan | None
    clock: Clock
    _rounds: list[Timed] = field(default_factory=list)
    _begun: float = 0.0
    _done: Round | None = None

    def start(self, state: State, prefill: Trace | None) -> None:
        """What comes before the first round belongs to none."""
        self._done = None

    def choose(self) -> Plan | None:
        """The plan; a round begins, and the one before is over."""
        self._close()
        self._begun = self.clock()
        return self.plan

    def wants(self) -> int:
        """No trace."""
        return 0

    def learn(self, state: State, done: Round) -> None:
        """Keep what the round did until it is over."""
        self._done = done

    def take(self) -> list[Timed]:
        """The rounds noted so far, now that a request is over; from here on others are noted."""
        self._close()
        found, self._rounds = self._rounds, []
        return found

    def _close(self) -> None:
        """What was the last round is over."""
        if (done := self._done) is None:
            return
        rest = self.clock() - self._begun - done.draft_seconds
        self._rounds.append(Timed(done.drafted, done.siblings, done.draft_seconds, rest))
        self._done = None
