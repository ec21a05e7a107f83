"""A selector that is watched while it chooses, and one that goes on where another stopped."""

from dataclasses import dataclass

from conflayers.body.contract import Trace
from conflayers.plan import Plan
from conflayers.round import Round, Selector, State, decisions_of, plan_of
from conflayers.search.progress import Speed


@dataclass(slots=True)
class Watched:
    """A selector with a count of what every plan brought; it chooses as if it were alone."""

    inner: Selector
    used: dict[Plan | None, Speed]

    @property
    def plan(self) -> Plan | None:
        """The plan in use."""
        return plan_of(self.inner)

    @property
    def decisions(self) -> list[str]:
        """What was decided, in words."""
        return decisions_of(self.inner)

    def start(self, state: State, prefill: Trace | None) -> None:
        """See `round.Selector`."""
        self.inner.start(state, prefill)

    def choose(self) -> Plan | None:
        """See `round.Selector`."""
        return self.inner.choose()

    def wants(self) -> int:
        """See `round.Selector`."""
        return self.inner.wants()

    def learn(self, state: State, done: Round) -> None:
        """See `round.Selector`."""
        plan = done.plan if done.drafted else None
        took = Speed(done.kept, done.draft_seconds + done.verify_seconds)
        self.used[plan] = self.used.get(plan, Speed()) + took
        self.inner.learn(state, done)


def go_on_with(selector: Selector, plan: Plan) -> None:
    """Make `plan` what `selector`, a new one, has found so far; its search is not over.

    What else an earlier selector had in mind is lost: scores, prices, and what it had rejected.
    """
    resume = getattr(selector, "resume", None)
    if resume is not None:
        resume(plan)
    else:
        setattr(selector, "plan", plan)  # noqa: B010
