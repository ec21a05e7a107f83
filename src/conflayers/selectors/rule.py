"""From confidences to a plan by the rule of ConfLayers (arXiv 2604.14612), for whole layers or for sublayers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from conflayers.errors import InputError
from conflayers.options import number, share, whole
from conflayers.plan import Plan
from conflayers.selectors.valley import Landscape, adapt_lambda, survey

Unit = Literal["layer", "sublayer"]

# Confidences below this are rounding of float32 and carry no order.
FLOOR = 1e-7
# Leading curvatures count as equal within this share of their range; exact equality has no meaning in float64.
RUN_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of ConfLayers as published, with the published defaults.

    Attributes:
        unit: skip whole layers, as published, or attention and MLP separately.
        skip_ratio: least share of the candidate layers to skip, 0 to 1.
        interval: rounds of a trial.
        context_window: tokens whose confidences are averaged.
        max_iterations: candidates tried before the search ends.
        max_score: the search ends when a candidate's mean acceptance exceeds this ... (published search only)
        min_accepted: ... and its mean accepted tokens exceed this (published search only).
        window: the same window for every layer instead of the adaptive one; 2 or more.
    """

    unit: Unit = "layer"
    skip_ratio: float = 0.4
    interval: int = 30
    context_window: int = 100
    max_iterations: int = 100
    max_score: float = 0.95
    min_accepted: float = 4.0
    window: int | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("layer", "sublayer"):
            raise InputError(f"unit must be 'layer' or 'sublayer', not {self.unit!r}")
        for name in ("skip_ratio", "max_score"):
            share(name, getattr(self, name))
        for name in ("interval", "context_window", "max_iterations"):
            whole(name, getattr(self, name), 1)
        number("min_accepted", self.min_accepted, 0)
        if self.window is not None:
            whole("window", self.window, 2)


def landscapes(confidences: torch.Tensor, settings: Settings, *, published: bool) -> list[Landscape]:
    """What the rule sees: once for whole layers, or for attention and MLP in this order.

    Args:
        confidences: of every attention and MLP, [2, layers].
        published: float16 scores on a linear scale, as in the released code; otherwise float64 on a log scale, where
            the few last layers do not decide the scale for all.
    """
    parts = confidences.half() if published else confidences.double()
    rows = [parts[0] + parts[1]] if settings.unit == "layer" else list(parts)
    if not published:
        rows = [row.clamp(min=FLOOR).log() for row in rows]
    tolerance = 0.0 if published else RUN_TOLERANCE
    layers = confidences.shape[1]
    return [survey(row[1:-1].numpy(), layers, window=settings.window, tolerance=tolerance) for row in rows]


def skip_set(seen: list[Landscape], lam: float) -> Plan:
    """The rule: skip what lies in a valley. The first and the last layer always run.

    Args:
        seen: what `landscapes` returned.
        lam: lambda; higher skips less.
    """
    indices = [frozenset((np.flatnonzero(one.valleys(lam).skipped) + 1).tolist()) for one in seen]
    return Plan(indices[0], indices[-1])


def fit_lambda(seen: list[Landscape], lam: float, least_ratio: float) -> tuple[float, Plan]:
    """The published adaptation of lambda, repeated on the same scores until it comes to rest, and the plan there.

    Args:
        seen: what `landscapes` returned.
        lam: where to begin.
        least_ratio: least share of the candidates to skip.
    """
    plan = skip_set(seen, lam)
    candidates = max(2 * seen[0].scores.size, 1)
    # Flat scores never meet a ratio; and past 2 nothing changes any more.
    for _ in range(40):
        adapted = adapt_lambda(lam, plan.skipped / candidates, least_ratio)
        if adapted == lam or abs(adapted) > 2:
            break
        lam, plan = adapted, skip_set(seen, adapted)
    return lam, plan


def every_second_layer(layers: int) -> Plan:
    """The published start: layers 1, 3, 5, ... up to the last but one."""
    return Plan.layers(range(1, layers - 1, 2))
