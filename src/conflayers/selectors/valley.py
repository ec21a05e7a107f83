"""The published rule that turns confidences into a skip set (ConfLayers, arXiv 2604.14612).

A layer is skipped when its confidence lies in a valley: below the mean of its neighbours by more than lambda of their
standard deviations. How many neighbours count depends on how the confidences curve there, and on the depth.

Everything is in numpy and knows no model. Where the paper is silent the choice is ours and says so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

LAMBDA_STEP = 0.05
RATIO_BAND = 0.25
# A score equal to its neighbours' mean must not become a valley by the rounding of that mean.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Valleys:
    """The rule at work on one set of scores, everything the paper's figure shows; arrays are per candidate.

    Attributes:
        scores: standardised confidences.
        windows: neighbours looked at, both sides together.
        thresholds: what the score has to lie under.
        skipped: whether it does.
    """

    scores: Array
    windows: NDArray[np.int64]
    thresholds: Array
    skipped: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Landscape:
    """Scores with the mean and standard deviation of each candidate's neighbours, from which any lambda can be tried.

    Attributes:
        scores, windows: as in `Valleys`.
        means, spreads: of the neighbours' scores. The population standard deviation: the paper does not say which.
    """

    scores: Array
    windows: NDArray[np.int64]
    means: Array
    spreads: Array

    def valleys(self, lam: float) -> Valleys:
        """Which candidates lie under the mean of their neighbours by more than `lam` standard deviations."""
        thresholds = self.means - lam * self.spreads
        below = self.scores.astype(np.float64) < thresholds - ROUNDING
        return Valleys(self.scores, self.windows, thresholds, below)


def standardise(confidences: Array) -> Array:
    """(c - mean) / (standard deviation + 1e-6), in the precision of `confidences`.

    The sample standard deviation, as in the released code; the rule itself does not depend on this scale.
    """
    if confidences.size < 2 or np.ptp(confidences) == 0:
        return np.zeros_like(confidences)
    spread = confidences.std(ddof=1, dtype=np.float64).astype(confidences.dtype)
    mean = confidences.mean(dtype=np.float64).astype(confidences.dtype)
    return np.asarray((confidences - mean) / (spread + confidences.dtype.type(1e-6)))


def curvature(scores: Array) -> Array:
    """The second-order gradient along the depth; zero where there are too few layers for one."""
    return np.gradient(np.gradient(scores)) if scores.size >= 2 else np.zeros_like(scores)


def leading_run(curve: Array, tolerance: float) -> int:
    """How many leading entries equal the first, within `tolerance` of the curve's range.

    The published rule compares exactly (tolerance 0), which in float16 depends on rounding.
    """
    if not curve.size:
        return 0
    differs = np.abs(curve - curve[0]) > tolerance * (curve.max() - curve.min())
    return int(differs.argmax()) if differs.any() else int(curve.size)


def normalise(curve: Array) -> Array:
    """Scale to 0..1 and then about the mean, so that the mean is 0.5; 0.5 everywhere if all are as good as equal."""
    span = curve.max() - curve.min() if curve.size else 0.0
    # What is smaller has no inverse.
    if not span > np.finfo(np.float64).tiny:
        return np.full(curve.shape, 0.5)
    unit = (curve.astype(np.float64) - curve.min()) / (span + 1e-8)
    mean, most, least = unit.mean(), unit.max(), unit.min()
    slope = min(0.5 / (most - mean), 0.5 / (mean - least))
    return np.asarray(np.clip(slope * unit + 0.5 - slope * mean, 0, 1))


def adaptive_windows(scores: Array, layers: int, tolerance: float) -> NDArray[np.int64]:
    """Neighbours to look at for each candidate: 2 and up, more where the scores curve and towards the last layer.

    Args:
        scores: standardised confidences of layers 1 .. `layers` - 2.
        layers: decoder layers of the model, the two that are never skipped included.
        tolerance: see `leading_run`.
    """
    curve = curvature(scores)
    widest = 5 * leading_run(curve, tolerance)
    depth = np.arange(1, scores.size + 1) / layers
    return 2 + (widest * normalise(curve) * depth).astype(np.int64)


def survey(confidences: Array, layers: int, *, window: int | None = None, tolerance: float = 0.0) -> Landscape:
    """Standardise the candidates' confidences and look around each of them.

    Args:
        confidences: of layers 1 .. `layers` - 2; the first and the last layer are no candidates.
        layers: decoder layers of the model.
        window: the same number of neighbours for every layer, 2 or more; None for the adaptive window.
        tolerance: see `leading_run`.
    """
    scores = standardise(confidences)
    count = scores.size
    windows = adaptive_windows(scores, layers, tolerance) if window is None else np.full(count, window, dtype=np.int64)
    wide = scores.astype(np.float64)
    places = np.arange(count)
    distances = np.abs(places[:, None] - places)
    near = (distances > 0) & (distances <= windows[:, None] // 2)
    neighbours = near.sum(1)
    # A candidate without neighbours lies in no valley.
    some = np.maximum(neighbours, 1)
    means = np.where(neighbours, near @ wide / some, -np.inf)
    apart = np.where(near, wide - np.where(neighbours, means, 0.0)[:, None], 0.0)
    return Landscape(scores, windows, means, np.sqrt((apart**2).sum(1) / some))


def adapt_lambda(lam: float, ratio: float, least_ratio: float) -> float:
    """One step of the published adaptation: skip more below the least ratio, less when 0.25 above it."""
    if ratio > least_ratio + RATIO_BAND:
        return lam + LAMBDA_STEP
    if ratio < least_ratio:
        return lam - LAMBDA_STEP
    return lam
