"""How the plots of a report look: light and dark, one colour a method in all of them, names that cannot run away.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell apart, without the
yellow that no white page shows; where methods outnumber them, markers, lines and hatches differ. Nothing here touches
matplotlib's global state.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from conflayers.bench.values import PLAIN, TRANSFORMERS
from conflayers.errors import InputError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
# By how often the colours have been gone through.
MARKERS, LINES, HATCHES = ("o", "s", "^", "D"), ("-", "--", ":", "-."), ("", "////", "..", "xxx")
BASELINES = {PLAIN: "#808080", TRANSFORMERS: "#a6761d"}
WIDTH, DPI = 10.0, 144


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of what is not data."""

    paper: str
    ink: str
    grid: str


LIGHT, DARK = Theme("#ffffff", "#1c1f23", "#e3e5e8"), Theme("#16191d", "#e4e6e8", "#363b41")


@dataclass(frozen=True, slots=True)
class Style:
    """What stands for one method in every plot."""

    colour: str
    marker: str
    line: str
    hatch: str

    def bar(self, theme: Theme) -> dict[str, Any]:
        """Arguments for a bar."""
        return {"color": self.colour, "hatch": self.hatch, "edgecolor": theme.paper, "linewidth": 0.4}

    def curve(self) -> dict[str, Any]:
        """Arguments for a line."""
        return {"color": self.colour, "linestyle": self.line, "linewidth": 1.7}


@dataclass(frozen=True, slots=True)
class Look:
    """A theme, and the style of every method of a report."""

    theme: Theme
    styles: dict[str, Style]

    def panels(self, height: float, rows: int = 1, columns: int = 1, **arguments: Any) -> tuple[Any, list[Any]]:
        """A figure of the page's width, `height` inches high, and its panels row by row."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor=self.theme.paper)
        FigureCanvasAgg(figure)
        found = list(figure.subplots(rows, columns, squeeze=False, **arguments).flat)
        for panel in found:
            self._dress(panel)
        return figure, found

    def legend(self, figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
        """Below everything, in as many columns as the longest name leaves room for."""
        shown = [short(name) for name in names]
        columns = max(1, min(len(shown), int(130 / (max(map(len, shown), default=0) + 9))))
        # Texts come afterwards: matplotlib leaves out labels that begin with an underscore.
        drawn = figure.legend(
            handles, ["x"] * len(shown), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
        for text, name in zip(drawn.get_texts(), shown, strict=True):
            text.set(text=name, parse_math=False, color=self.theme.ink)

    def tick_names(self, axis: Any, places: Sequence[float], names: Sequence[str]) -> None:
        """Put names at places of an axis."""
        axis.set_ticks(list(places), labels=list(names))
        for text in axis.get_ticklabels():
            text.set_parse_math(False)

    def write(self, panel: Any, x: float, y: float, words: str, **arguments: Any) -> Any:
        """Text in a panel."""
        return panel.text(x, y, words, **{"color": self.theme.ink, "fontsize": 8, "parse_math": False, **arguments})

    def _dress(self, panel: Any) -> None:
        ink = self.theme.ink
        panel.set_facecolor(self.theme.paper)
        panel.tick_params(colors=ink, labelsize=9)
        for side, spine in panel.spines.items():
            spine.set(visible=side in ("left", "bottom"), color=ink, linewidth=0.7)
        for part in (panel.xaxis.label, panel.yaxis.label, panel.title):
            part.set(color=ink, fontsize=10)
        panel.title.set_parse_math(False)
        panel.grid(color=self.theme.grid, linewidth=0.7)
        panel.set_axisbelow(True)


def check_matplotlib() -> None:
    """Raise InputError if nothing can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("a report's plots need matplotlib: pip install 'conflayers[plot]'") from error


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """The style of each method, by its place in the list."""
    found = {name: Style(colour, "x", "-", "") for name, colour in BASELINES.items()}
    others = [name for name in dict.fromkeys(methods) if name not in BASELINES]
    for index, name in enumerate(others):
        again = index // len(COLOURS) % len(MARKERS)
        found[name] = Style(COLOURS[index % len(COLOURS)], MARKERS[again], LINES[again], HATCHES[again])
    return found


def png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def short(name: str, length: int = 60) -> str:
    """A name on one line, the middle of a long one left out: names of one family differ at their ends."""
    line = printable(name)
    if len(line) <= length:
        return line
    head = (length - 1) // 3
    return f"{line[:head]}…{line[head + 1 - length :]}"


def wrapped(name: str, width: int, lines: int = 3) -> str:
    """A name on a few lines, broken behind a colon or a space where one is near."""
    found = [""]
    for part in re.findall(r"[^: ]*[: ]?", short(name, width * lines)):
        if len(found[-1]) + len(part.rstrip()) > width and found[-1]:
            found.append("")
        found[-1] += part
        while len(found[-1].rstrip()) > width:
            found[-1:] = [found[-1][:width], found[-1][width:]]
    return "\n".join(line.strip() for line in found)


def printable(text: str) -> str:
    """Text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def pictures(draw: Callable[..., Any], names: Sequence[str], *shown: Any) -> tuple[bytes, bytes] | None:
    """What `draw` makes of a look and of what is to be shown, light and dark; None if there is nothing to show."""
    drawn = [draw(Look(theme, styles(names)), *shown) for theme in (LIGHT, DARK)]
    return None if drawn[0] is None else (png(drawn[0]), png(drawn[1]))
