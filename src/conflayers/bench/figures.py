"""The plots of a report that are about time: by category, along the stream, by phase and along lambda."""

import math
from collections.abc import Sequence
from typing import Any

from conflayers.bench.curves import Curve, Stream, lambdas
from conflayers.bench.look import LINES, Look, short, wrapped
from conflayers.bench.record import PHASES
from conflayers.bench.values import PLAIN, TOTAL, Row, categories, number, pair, totals

BARS_A_ROW = 56
PHASE_COLOURS = ("#004488", "#DDAA33", "#BB5566", "#66AA77", "#999999")


def by_category(look: Look, rows: Sequence[Row]) -> Any:
    """Speedup over plain decoding, the total first, then by category; None if there is none."""
    shown = [row for row in rows if row["method"] != PLAIN and number(row.get("speedup")) is not None]
    groups = [name for name in [TOTAL, *categories(shown)] if any(row["category"] == name for row in shown)]
    if not shown:
        return None
    methods = list(dict.fromkeys(row["method"] for row in shown))
    a_row = max(1, BARS_A_ROW // (len(methods) + 1))
    count = math.ceil(len(groups) / a_row)
    a_row = math.ceil(len(groups) / count)
    figure, panels = look.panels(1.2 + 2.7 * count + 0.13 * len(methods), count, sharey=True)
    found = {(row["method"], row["category"]): row for row in shown}
    for index, panel in enumerate(panels):
        some = groups[index * a_row : (index + 1) * a_row]
        for place, group in enumerate(some):
            for at, method in enumerate(methods):
                if (method, group) in found:
                    width = 0.86 / len(methods)
                    _bar(look, panel, place - 0.43 + width * (at + 0.5), width, found[method, group])
        panel.axhline(1, color=look.theme.ink, linewidth=0.9)
        panel.set_xlim(-0.55, max(a_row, 1) - 0.45)
        panel.set_ylabel("speedup")
        panel.grid(visible=False, axis="x")
        look.tick_names(panel.xaxis, range(len(some)), [wrapped(name, max(10, 100 // a_row)) for name in some])
    patches = [_patch(look, method) for method in methods]
    look.legend(figure, patches, methods)
    return figure


def along_stream(look: Look, stream: Stream) -> Any:
    """Speedup of everything until a request, over requests in the order they were decoded in; None for fewer than 2."""
    curves = {name: curve for name, curve in stream.curves.items() if len(curve.places) > 1}
    if not curves:
        return None
    figure, panels = look.panels(4.6 + 0.13 * len(curves))
    panel, handles = panels[0], []
    for name, curve in curves.items():
        style = look.styles[name]
        handles += panel.plot(curve.places, curve.speedups, **style.curve())
        marked = [curve.speedups[curve.places.index(place)] for place in curve.settled]
        panel.plot(
            curve.settled, marked, style.marker, ms=7, color=style.colour, markeredgecolor=look.theme.paper, zorder=3
        )
    panel.axhline(1, color=look.theme.ink, linewidth=0.9)
    panel.set_xlabel("requests, in the order they were decoded in")
    panel.set_ylabel("speedup of everything until there")
    panel.xaxis.get_major_locator().set_params(integer=True)
    last = max(curve.places[-1] for curve in curves.values())
    panel.set_xlim(0.5, last + 0.5)
    _limit(panel, curves)
    _mark_switches(look, panel, stream, last)
    look.legend(figure, handles, list(curves))
    return figure


def by_phase(look: Look, rows: Sequence[Row]) -> Any:
    """Milliseconds by phase per new token, one bar a method; None if no row has them."""
    bars = []
    for row in totals(rows):
        phases, tokens = row.get("phases"), number(row.get("new_tokens"))
        if isinstance(phases, dict) and tokens:
            bars.append((row["method"], [1000 * (number(phases.get(name)) or 0.0) / tokens for name in PHASES]))
    if not any(any(times) for _, times in bars):
        return None
    names = [wrapped(name, 34, 2) for name, _ in bars]
    figure, panels = look.panels(1.3 + sum(max(0.42, 0.17 * name.count("\n") + 0.3) for name in names))
    panel, handles = panels[0], []
    for index, colour in enumerate(PHASE_COLOURS):
        lefts = [sum(times[:index]) for _, times in bars]
        widths = [times[index] for _, times in bars]
        handles.append(panel.barh(range(len(bars)), widths, 0.7, left=lefts, color=colour))
    for place, (_, times) in enumerate(bars):
        look.write(panel, sum(times), place, f" {sum(times):.3g}", va="center")
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.margins(x=0.06)
    panel.set_xlabel("milliseconds per new token")
    panel.grid(visible=False, axis="y")
    look.tick_names(panel.yaxis, range(len(bars)), names)
    look.legend(figure, handles, PHASES)
    return figure


def along_lambda(look: Look, rows: Sequence[Row]) -> Any:
    """Speedup and acceptance rate over lambda, where methods differ in nothing else; None if none do."""
    groups = lambdas(totals(rows))
    if not groups:
        return None
    figure, panels = look.panels(3.9 + 0.13 * len(groups), 1, 2)
    lines: list[Any] = []
    for panel, quantity, title in zip(
        panels, ("speedup", "acceptance_rate"), ("speedup", "acceptance rate"), strict=True
    ):
        for index, some in enumerate(groups.values()):
            points = [(at, value, row) for at, row in some if (value := number(row.get(quantity))) is not None]
            shape = {"color": look.theme.ink, "linestyle": LINES[index % len(LINES)], "linewidth": 1, "alpha": 0.6}
            line = panel.plot([p[0] for p in points], [p[1] for p in points], **shape)
            for at, value, row in points:
                own = look.styles[row["method"]]
                interval = pair(row.get(f"{quantity}_interval"))
                if interval is not None:
                    panel.plot([at, at], interval, color=own.colour, linewidth=1.2)
                panel.plot(at, value, own.marker, color=own.colour, ms=7)
            lines += line if panel is panels[0] else []
        panel.set_xlabel("lambda")
        panel.set_ylabel(title)
    panels[0].axhline(1, color=look.theme.ink, linewidth=0.9)
    look.legend(figure, lines, [f"{name}, lambda varied" for name in groups])
    return figure


def _bar(look: Look, panel: Any, x: float, width: float, row: Row) -> None:
    speedup, interval = number(row["speedup"]) or 0.0, pair(row.get("speedup_interval"))
    panel.bar(x, speedup, width, **look.styles[row["method"]].bar(look.theme))
    if interval is not None:
        panel.plot([x, x], interval, color=look.theme.ink, linewidth=1.0, solid_capstyle="butt")


def _patch(look: Look, method: str) -> Any:
    from matplotlib.patches import Patch

    style = look.styles[method]
    return Patch(facecolor=style.colour, hatch=style.hatch, edgecolor=look.theme.paper, linewidth=0)


def _limit(panel: Any, curves: dict[str, Curve]) -> None:
    """Let the first few requests, which may be anything, not flatten all that follows."""
    later = [value for curve in curves.values() for value in curve.speedups[len(curve.speedups) // 10 :]]
    known = [value for value in later if math.isfinite(value)] or [1.0]
    low, high = min(*known, 1.0), max(*known, 1.0)
    room = 0.08 * (high - low) + 0.02
    panel.set_ylim(low - room, high + room)


def _mark_switches(look: Look, panel: Any, stream: Stream, last: int) -> None:
    ink = look.theme.ink
    across = panel.get_xaxis_transform()
    for place in stream.repeats:
        panel.axvline(place - 0.5, color=ink, linewidth=1.1)
    for place in stream.restarts:
        panel.axvline(place - 0.5, color="#D55E00", linewidth=1.1, linestyle=":")
        look.write(panel, place - 0.5, 0.01, " interrupted", rotation=90, transform=across, va="bottom", ha="left")
    for number_, place in enumerate([1, *stream.repeats] if stream.repeats else [], 1):
        look.write(panel, place - 0.5, 1.065, f" repeat {number_}", transform=across, va="bottom")
    if len(stream.data) < 2 or len({name for _, name in stream.data}) < 2:
        return
    for index, (place, name) in enumerate(stream.data):
        if place > 1 and place not in stream.repeats:
            panel.axvline(place - 0.5, color=ink, linewidth=0.9, linestyle="--")
        end = stream.data[index + 1][0] if index + 1 < len(stream.data) else last + 1
        room = int(105 * (end - place) / last)
        if room >= 4:
            look.write(panel, place - 0.5, 1.01, " " + short(name, room), transform=across, va="bottom")
