"""Single prices from what was measured: medians of the latest, and what one more row of a pass adds."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

# Medians over this many recent measurements follow a growing context and shrug off a disturbed one.
RECENT = 15
# A row is never taken to be free, whatever the clock says: this share of a plain step.
LEAST_ROW = 0.01
# What a row is taken to cost at most until passes of two sizes beyond one row are known, as a share of a plain step:
# little, for drafts that stay short for fear of it would never find out.
DEAREST_ROW = 0.02
# Passes dearer than this many times the typical one were disturbed.
DISTURBED = 3.0


@dataclass(slots=True)
class Recent:
    """The last measurements of one price."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _median: float | None = None  # as long as nothing was added

    @property
    def median(self) -> float:
        """Of all that are kept; 0 if there are none."""
        if self._median is None:
            ordered = sorted(self.values)
            # Twice the same where there is one in the middle.
            self._median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2 if ordered else 0.0
        return self._median

    def add(self, seconds: float) -> None:
        """Take one in."""
        self.values.append(seconds)
        self._median = None

    def shorten(self, count: int) -> None:
        """Keep the latest `count` only."""
        while len(self.values) > count:
            self.values.popleft()
        self._median = None


@dataclass(slots=True)
class Lately:
    """Seconds and tokens of the last rounds."""

    rounds: deque[tuple[float, int]] = field(default_factory=deque)
    seconds: float = 0.0
    tokens: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        """Take one in, and let go of the oldest."""
        if len(self.rounds) == RECENT:
            gone, fewer = self.rounds.popleft()
            self.seconds -= gone
            self.tokens -= fewer
        self.rounds.append((seconds, tokens))
        self.seconds += seconds
        self.tokens += tokens


def row_price(sizes: Iterable[tuple[int, float]], before: float | None) -> float | None:
    """Seconds a row, by least squares over (rows, seconds); what it was `before` where all are of one size.

    A pass over one row is cheaper than the line through the others tells, since it needs no mask. It counts only where
    there is but one other size, and then little of the difference is taken for the price of a row.
    """
    points = list(sizes)
    limit = DISTURBED * median(seconds for _, seconds in points)
    points = [(rows, seconds) for rows, seconds in points if seconds <= limit]
    several = [(rows, seconds) for rows, seconds in points if rows > 1]
    if len({rows for rows, _ in several}) > 1:
        return _slope(several)
    single = [seconds for rows, seconds in points if rows == 1]
    if not single or not several:
        return before
    return min(_slope(points), DEAREST_ROW * median(single))


def _slope(points: list[tuple[int, float]]) -> float:
    middle = sum(rows for rows, _ in points) / len(points)
    spread = sum((rows - middle) ** 2 for rows, _ in points)
    return sum((rows - middle) * seconds for rows, seconds in points) / spread
