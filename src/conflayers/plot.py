"""The published picture of the rule at work: confidence, local threshold, window, and the layers skipped."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conflayers.errors import ConfLayersError, InputError
from conflayers.selectors.valley import Valleys

FORMATS = (".pdf", ".png", ".svg")
SCORE, THRESHOLD, SKIPPED, WINDOW = "#1f4e79", "#e08214", "#b2182b", "#7a9cc0"


def check_plotting(path: str | Path) -> None:
    """Raise ConfLayersError if pictures cannot be drawn here, InputError if not in this format."""
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw to {path}: its name must end in one of {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfLayersError("drawing needs matplotlib: pip install 'conflayers[plot]'") from error


def draw_valleys(path: str | Path, valleys: Sequence[Valleys], layers: int, title: str) -> None:
    """Draw the rule at work on one model to a file.

    Args:
        path: the picture, .png, .svg or .pdf.
        valleys: once for whole layers, or for attention and MLP in this order.
        layers: decoder layers of the model; the first and the last are no candidates.
        title: what the picture says on top.
    """
    check_plotting(path)
    from matplotlib.figure import Figure

    names = ["layer"] if len(valleys) == 1 else ["attention of layer", "MLP of layer"]
    width = min(max(7.0, 0.27 * layers + 2), 16.0)
    figure = Figure(figsize=(width, 2.0 + 4.2 * len(valleys)), layout="constrained")
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(11 * width))]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    panels = figure.subplots(2 * len(valleys), 1, sharex=True, squeeze=False, height_ratios=[3, 1] * len(valleys))[:, 0]
    for index, (name, found) in enumerate(zip(names, valleys, strict=True)):
        _draw_scores(panels[2 * index], found, layers)
        _draw_windows(panels[2 * index + 1], found, layers)
        panels[2 * index + 1].set_xlabel(name)
    figure.savefig(path, dpi=150)


def _draw_scores(panel: Any, found: Valleys, layers: int) -> None:
    depth = np.arange(1, found.scores.size + 1)
    skipped = found.skipped
    for edge in (0, layers - 1):
        panel.axvspan(edge - 0.5, edge + 0.5, color="0.9", lw=0, label="always runs" if not edge else None)
    for index, layer in enumerate(depth[skipped]):
        panel.axvspan(layer - 0.5, layer + 0.5, color=SKIPPED, alpha=0.10, lw=0, label=None if index else "skipped")
    # A candidate without neighbours has no threshold.
    thresholds = np.where(np.isfinite(found.thresholds), found.thresholds, np.nan)
    edges = np.arange(depth.size + 1) + 0.5
    panel.stairs(thresholds, edges, baseline=None, color=THRESHOLD, lw=1.6, label="local threshold")
    panel.plot(depth, found.scores, color=SCORE, lw=1.2, marker="o", ms=4.5, label="confidence, standardised")
    panel.plot(depth[skipped], found.scores[skipped], "o", ms=6.5, color=SKIPPED)
    panel.set_ylabel("score")
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8, frameon=False)


def _draw_windows(panel: Any, found: Valleys, layers: int) -> None:
    depth = np.arange(1, found.scores.size + 1)
    halves = found.windows // 2
    panel.bar(depth, halves, width=0.8, color=[SKIPPED if skipped else WINDOW for skipped in found.skipped])
    panel.set_ylabel("half window")
    panel.set_ylim(0, max(int(halves.max(initial=1)), 1) * 1.1)
    panel.set_xlim(-0.6, layers - 0.4)
    panel.yaxis.get_major_locator().set_params(integer=True)
    panel.set_xticks(range(0, layers, 1 if layers <= 40 else 5))
    panel.tick_params(axis="x", labelsize=8, labelbottom=True)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
