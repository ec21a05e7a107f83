"""What a plan is worth before it was ever drafted with: from its acceptance and from what sublayers cost here."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from conflayers.body.contract import Body, Pass
from conflayers.costs import Costs
from conflayers.expected import Savings
from conflayers.plan import FULL, WHOLE, Plan
from conflayers.selectors.agreement import SIBLINGS

Array = NDArray[np.float64]

# Draft lengths considered.
LONGEST = 16
LENGTHS = np.arange(1, LONGEST + 1)
# What one more row is taken to add to a verification until two sizes are known, as a share of a plain step.
ROW = 0.02


def measure(
    body: Body,
    token: int,
    plain_step: float,
    clock: Callable[[], float] = time.perf_counter,
    precision: str = WHOLE,
    steps: int = 1,
) -> Savings:
    """Time steps without the inner layers' attentions, and without these layers. The cache stays as it is.

    Args:
        body: with a text in its cache, and more than two layers.
        token: to step with.
        plain_step: seconds.
        clock: seconds.
        precision: of the draft steps.
        steps: of each draft that is timed.
    """
    inner = frozenset(range(1, body.layers - 1))
    tried = (Plan.layers(inner).at(precision), Plan(attention=inner).at(precision))
    bare, without_attention = (step_seconds(body, token, plan, clock, steps) for plan in tried)
    plain = max(plain_step, without_attention, 1e-9)
    full = plain
    if precision != WHOLE:
        full = max(step_seconds(body, token, FULL.at(precision), clock, steps), without_attention)
    spared = max(full - bare, 0.0) / plain / len(inner)
    attention = min(max(full - without_attention, 0.0) / plain / len(inner), spared)
    return Savings(attention, spared - attention, full / plain)


def step_seconds(body: Body, token: int, plan: Plan, clock: Callable[[], float], steps: int = 1) -> float:
    """A step of a draft of so many, the faster of two: the first one has to warm up. The cache stays as it is."""
    length, best = body.length, float("inf")

    def following(step: Pass) -> int:
        float(step.logits[0, 0])  # waits for the device
        return token

    with body.running(plan):
        for _ in range(2):
            begun = clock()
            body.chain([token], steps, following)
            best = min(best, (clock() - begun) / steps)
            body.rollback(length)
    return best


def speedups(acceptance: Array, draft_step: Array, costs: Costs, nearly: float = 0.0) -> Array:
    """Expected tokens per second over plain decoding's, each at its best draft length; below 1 where none pays.

    A chain of length g brings (1 - a^(g + 1)) / (1 - a) tokens a round on average, if each token is accepted with
    probability a once all before it are, and takes g draft steps and a pass over g + 1 rows. Where siblings are
    verified, a share `nearly` of the first misses is made good, for some more rows.

    Args:
        acceptance: of each candidate, 0 to 1.
        draft_step: of each candidate, in plain steps.
        costs: what verifications take.
        nearly: of the tokens that a draft does not name, the share that its siblings hold, 0 to 1.
    """
    powers = np.cumprod(np.repeat(acceptance[:, None], LONGEST, 1), axis=1)
    tokens = 1 + np.cumsum(powers, axis=1)
    seconds = LENGTHS * draft_step[:, None]
    best: Array = (tokens / (seconds + _verifications(LENGTHS + 1, costs))).max(axis=1)
    if nearly:
        more = tokens + nearly * (1 - powers)
        trees = more / (seconds + _verifications(LENGTHS * (1 + SIBLINGS) + 1, costs))
        best = np.maximum(best, trees.max(axis=1))
    return best


def _verifications(rows: NDArray[np.int_], costs: Costs) -> Array:
    """Passes over so many rows, in plain steps."""
    plain = costs.plain_step
    if not costs.row_known or not plain > 0:
        return np.asarray(1 + ROW * (rows - 1))
    # Beyond the sizes that were measured the price of a row goes on.
    line = plain + costs.row_seconds * (rows - 1)
    return np.asarray(np.maximum(costs.verifications(rows), line) / plain)
