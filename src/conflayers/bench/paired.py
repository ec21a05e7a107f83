"""How much a ratio of totals changed between two runs of the same requests, and how far noise alone could move it.

Samples are drawn anew, the same ones for both runs, so that what makes one sample slower than another drops out; the
repeats and turns of a sample stay together, since they are not independent. The bootstrap's interval is too narrow
where samples are few: as its least correction it is widened by Student's t over the normal distribution, and by the
missing degree of freedom (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015). A machine that was slower
for the whole of one run is no noise of this kind: it moves all samples alike, and ratios to plain decoding not at all.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Of the sums of a run to what is compared; the sums are [..., columns], and what comes out is [...].
Quantity = Callable[[Array], Array]
DRAWS = 2000
_NORMAL = 1.959964


def change(
    before: Array, after: Array, quantity: Quantity, share: bool = False
) -> tuple[float | None, tuple[float, float] | None]:
    """The change of a quantity and its 95% interval.

    Args:
        before, after: sums by sample, [samples, columns]; the same samples in the same order.
        quantity: what is made of the sums of all samples.
        share: take the difference of the quantity, which is a share; otherwise its ratio less 1.

    Returns:
        The change, 0 for none; None if it has no meaning, as where a ratio's divisor is 0. The interval is None where
        the change is, for fewer than two samples, and where some draws have no meaning.
    """
    found = float(_change(quantity(before.sum(0)), quantity(after.sum(0)), share))
    if not math.isfinite(found):
        return None, None
    count = len(before)
    if count < 2:
        return found, None
    times = _draws(count)
    drawn = _change(quantity(times @ before), quantity(times @ after), share)
    if not np.isfinite(drawn).all():
        return found, None
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    wider = widening(count)
    # Nothing can become less than nothing, however wide the interval.
    return found, (max(found - (found - low) * wider, -1.0), found + (high - found) * wider)


def speeds(sums: Array) -> Array:
    """A quantity: tokens a second, of sums whose columns are tokens and seconds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = sums[..., 0] / sums[..., 1]
    return found


def widening(samples: int) -> float:
    """What a bootstrap interval of so many samples, 2 or more, is too narrow by."""
    return student(0.05, samples - 1) / _NORMAL * math.sqrt(samples / (samples - 1))


def excludes_nothing_changed(found: float, interval: tuple[float, float], samples: int, among: int) -> bool:
    """Whether a change is beyond noise if it is one of `among` that were looked at.

    Of a hundred intervals of 95%, five exclude the truth. This asks for so much more that in 95 of 100 pairs of runs
    that differ by noise alone no interval at all does (Bonferroni).
    """
    wider = student(0.05 / among, samples - 1) / student(0.05, samples - 1)
    low, high = (found + (edge - found) * wider for edge in interval)
    return not low <= 0 <= high


@lru_cache(maxsize=1024)
def student(outside: float, degrees: int) -> float:
    """The number that Student's t exceeds in size with probability `outside` (0 to 1), for 1 degree of freedom or more.

    By bisection of the finite sums for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < 1 - outside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _inside(angle: float, degrees: int) -> float:
    """The probability that t is less than the root of the degrees of freedom times the angle's tangent in size."""
    odd = degrees % 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = 0.0
    for index in range(1 + odd, degrees, 2):
        total += term
        term *= math.cos(angle) ** 2 * index / (index + 1)
    return (angle + total) * 2 / math.pi if odd else total


def _change(before: Array, after: Array, share: bool) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return after - before if share else after / before - 1


@lru_cache(maxsize=32)
def _draws(count: int) -> Array:
    """How often each of `count` samples is in each draw, [draws, count]; the same every time."""
    source = np.random.default_rng(0)
    return source.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
