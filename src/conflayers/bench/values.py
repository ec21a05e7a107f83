"""What the rows of a result hold, read with care: anything may be missing, and a file may say anything."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conflayers.errors import InputError

TOTAL = "all"
PLAIN = "vanilla"
TRANSFORMERS = "hf"
Row = Mapping[str, Any]


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def pair(value: Any) -> tuple[float, float] | None:
    """Two finite numbers, or None for anything else."""
    found = numbers(value)
    return (found[0], found[1]) if len(found) == 2 else None


def numbers(value: Any) -> list[float]:
    """A list of finite numbers; empty if anything in it is none, for the places in it have a meaning."""
    if not isinstance(value, list | tuple):
        return []
    found = [number(item) for item in value]
    known = [item for item in found if item is not None]
    return known if len(known) == len(found) else []


def counts(value: Any) -> dict[int, float]:
    """A histogram with whole numbers from 0 for keys, in their order; empty for anything else."""
    if not isinstance(value, Mapping):
        return {}
    found = {str(key): number(count) for key, count in value.items()}
    if not all(key.isascii() and key.isdigit() and count is not None for key, count in found.items()):
        return {}
    return dict(sorted((int(key), count) for key, count in found.items() if count is not None))


def checked(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows, each with the texts `method` and `category`.

    Raises:
        InputError: one of them is no such row.
    """
    found = []
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("method", "category")):
            raise InputError(f"the results hold a row without method and category, {str(row)[:80]}: they are damaged")
        found.append(row)
    return found


def totals(rows: Sequence[Row]) -> list[Row]:
    """The rows over all categories."""
    return [row for row in rows if row["category"] == TOTAL]


def categories(rows: Sequence[Row]) -> list[str]:
    """The categories other than the total, in the order they come in."""
    return list(dict.fromkeys(str(row["category"]) for row in rows if row["category"] != TOTAL))


def verdict(row: Row) -> str:
    """In words, what a row's speedup over plain decoding and its interval show; "" where there is no speedup."""
    speedup, interval = number(row.get("speedup")), pair(row.get("speedup_interval"))
    if row["method"] == PLAIN or speedup is None:
        return ""
    if interval is None:
        return "slower than plain decoding (no interval)" if speedup < 1 else "no interval"
    if interval[1] < 1:
        return "slower than plain decoding"
    return "faster than plain decoding" if interval[0] > 1 else "no difference shown"


def kind(words: str) -> str:
    """Of a verdict: "good", "bad" or "unsure"; "" where there is none."""
    marks = {"no interval": "unsure", "no difference": "unsure", "faster": "good", "slower": "bad"}
    return next((mark for part, mark in marks.items() if part in words), "")
