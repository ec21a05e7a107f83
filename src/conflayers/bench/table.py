"""The totals of a benchmark as a table for a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from conflayers.bench.values import TOTAL


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a method; categories are in the results."""
    # This fits a terminal of 80 columns.
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("method", overflow="fold", min_width=12)
    titles = ("tokens/s", "speed up", "95%", "over hf", "mean acc.", "acc. rate", "skip ratio", "search", "MB")
    for title in titles:
        drawn.add_column(title.replace(" ", "\n"), justify="right", no_wrap=True)
    drawn.add_column("same\ntext", no_wrap=True)
    for row in rows:
        if row["category"] != TOTAL:
            continue
        interval = row["speedup_interval"]
        drawn.add_row(
            row["method"],
            f"{row['tokens_per_second']:.1f}",
            _number(row["speedup"]),
            "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}",
            _number(row["speedup_over_hf"]),
            _number(row["mean_accepted_tokens"]),
            _number(row["acceptance_rate"]),
            _number(row["skip_ratio"]),
            f"{row['select_share']:.1%}",
            "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}",
            "" if row["identical"] is None else "yes" if row["identical"] else f"{row['differing']} not",
        )
    return drawn


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
