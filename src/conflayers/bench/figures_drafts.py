"""The plots of a report that are about drafts: what they skip, how many are accepted, how far and where."""

import math
from collections.abc import Sequence
from typing import Any

from conflayers.bench.look import Look, wrapped
from conflayers.bench.values import Row, counts, number, numbers, totals

COLUMNS = 4


def acceptance_by_skipping(look: Look, rows: Sequence[Row]) -> Any:
    """Acceptance rate against skip ratio, a dot a method; None if nothing was drafted."""
    points = []
    for row in totals(rows):
        skipped, accepted = number(row.get("skip_ratio")), number(row.get("acceptance_rate"))
        if skipped is not None and accepted is not None:
            points.append((row["method"], skipped, accepted))
    if not points:
        return None
    figure, panels = look.panels(4.2 + 0.13 * len(points))
    panel, handles = panels[0], []
    for index, (method, skipped, accepted) in enumerate(points):
        style = look.styles[method]
        # Smaller and smaller, so that one behind another still shows.
        size = 13 - 6 * index / len(points)
        handles += panel.plot(
            [skipped], [accepted], style.marker, color=style.colour, ms=size, markeredgecolor=look.theme.paper, zorder=3
        )
    panel.set_xlabel("skip ratio: share of sublayers that draft steps skip")
    panel.set_ylabel("acceptance rate")
    panel.margins(0.08)
    look.legend(figure, handles, [method for method, _, _ in points])
    return figure


def accepted_lengths(look: Look, rows: Sequence[Row]) -> Any:
    """How many drafted tokens verifications accepted, a panel a method; None if nothing was drafted."""
    found = {row["method"]: counts(row.get("acceptance_histogram")) for row in totals(rows)}
    found = {method: lengths for method, lengths in found.items() if sum(lengths.values()) > 0}
    if not found:
        return None
    across = min(COLUMNS, len(found))
    down = math.ceil(len(found) / across)
    figure, panels = look.panels(0.7 + 2.1 * down, down, across, sharex=True, sharey=True)
    for panel in panels[len(found) :]:
        panel.remove()
    for index, (method, lengths) in enumerate(found.items()):
        panel, total = panels[index], sum(lengths.values())
        style = look.styles[method]
        panel.bar(list(lengths), [100 * n / total for n in lengths.values()], 0.85, **style.bar(look.theme))
        mean = sum(length * n for length, n in lengths.items()) / total
        panel.axvline(mean, color=look.theme.ink, linewidth=1.0, linestyle="--")
        panel.set_title(wrapped(method, 118 // across, 2), fontsize=8)
        panel.xaxis.get_major_locator().set_params(integer=True)
        # The panels that have none below them, which a last row may leave in the one before.
        panel.tick_params(labelbottom=index + across >= len(found))
        panel.grid(visible=False, axis="x")
    figure.supxlabel("drafted tokens accepted", fontsize=10, color=look.theme.ink)
    figure.supylabel("% of verifications", fontsize=10, color=look.theme.ink)
    return figure


def acceptance_by_position(look: Look, rows: Sequence[Row]) -> Any:
    """Share of drafts accepted at each position they reach, a line a method; None if nothing was drafted."""
    found = {row["method"]: numbers(row.get("acceptance_by_position")) for row in totals(rows)}
    found = {method: rates for method, rates in found.items() if rates}
    if not found:
        return None
    figure, panels = look.panels(4.2 + 0.13 * len(found))
    panel, handles = panels[0], []
    for method, rates in found.items():
        style = look.styles[method]
        handles += panel.plot(range(1, len(rates) + 1), rates, marker=style.marker, ms=5, **style.curve())
    panel.set_xlabel("position in the draft")
    panel.set_ylabel("share of drafts as deep")
    panel.set_ylim(0, 1.02)
    panel.xaxis.get_major_locator().set_params(integer=True)
    look.legend(figure, handles, list(found))
    return figure
