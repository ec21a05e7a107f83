"""Sweeps over one setting, each reproducing a figure of the paper on whatever model is at hand.

Numbers of sections and figures are those of arXiv 2604.14612. Greedy runs of `conflayers bench MODEL --sweep NAME`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rows that differ in one setting.

    Attributes:
        question: what it answers.
        methods: the names of the rows.
    """

    question: str
    methods: tuple[str, ...]


def _rows(base: str, option: str, values: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(f"{base}:{option}={value}" for value in values)


PAPER, RULE = "conflayers:variant=paper", "conflayers:variant=rule"

SWEEPS = {
    "lambda": Sweep("how lambda trades layers for acceptance", _rows(RULE, "lam", (-0.4, -0.2, 0, 0.2, 0.4))),
    "window": Sweep(
        "whether the adaptive window is better than one for all layers", (*_rows(PAPER, "window", (10, 20)), PAPER)
    ),
    "skip-ratio": Sweep("how much has to be skipped at least", _rows(PAPER, "skip_ratio", (0.2, 0.3, 0.4, 0.5, 0.6))),
    "interval": Sweep("how long a candidate is tried", _rows(PAPER, "interval", (5, 15, 25, 30, 35, 50))),
    "context-window": Sweep(
        "over how many tokens confidences are averaged", _rows(PAPER, "context_window", (10, 25, 50, 100, 150))
    ),
    "confidence": Sweep(
        "whether it is the layers of low confidence that can be spared",
        (f"{RULE}:lam=0:confidence=low", f"{RULE}:lam=0:confidence=high"),
    ),
}
