"""Times that no machine measures: a pass takes what its sublayers weigh, so that methods decide alike everywhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from conflayers import api
from conflayers.api import Llm
from conflayers.body.contract import Following, one_by_one
from conflayers.decoding import decode
from conflayers.plan import FULL, Plan
from conflayers.selectors import knapspec

# An MLP of the models here has about twice the weights of an attention, and the head those of a few.
SUBLAYERS = knapspec.Times(attention=1.0, mlp=2.0)
HEAD = 4.0
# Each more row of a pass adds this share of it.
ROW = 0.02


class SteadyBody:
    """A body whose passes take known times.

    Attributes:
        now: what all of them took so far.
    """

    def __init__(self, body: Any) -> None:
        self._body, self._plan, self.now = body, FULL, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """As the body, and cheaper by what is left out."""
        before, self._plan = self._plan, plan
        try:
            with self._body.running(plan):
                yield
        finally:
            self._plan = before

    def forward(self, tokens: Sequence[int], **arguments: Any) -> Any:
        """As the body."""
        self._take(len(tokens))
        return self._body.forward(tokens, **arguments)

    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        """As the body, pass by pass."""
        one_by_one(self.forward, tokens, most, following)

    def replay(self, tokens: Sequence[int]) -> Any:
        """As the body."""
        self._take(len(tokens))
        return self._body.replay(tokens)

    def _take(self, rows: int) -> None:
        attentions = self._body.layers - len(self._plan.attention)
        mlps = self._body.layers - len(self._plan.mlp)
        once = HEAD + SUBLAYERS.attention * attentions + SUBLAYERS.mlp * mlps
        self.now += once * (1 + ROW * (rows - 1))


@contextmanager
def steadily(llm: Llm) -> Iterator[Callable[[], float]]:
    """Inside this context requests run on a clock that only passes move; gives the clock."""
    body = SteadyBody(llm.body)

    def clock() -> float:
        return body.now

    with (
        patch.object(llm, "body", body),
        patch.object(api, "decode", partial(decode, clock=clock)),
        patch.object(knapspec, "measure", lambda state: SUBLAYERS),
    ):
        yield clock
