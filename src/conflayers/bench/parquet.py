"""Single rows out of large Parquet files, without reading all of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def count(paths: Sequence[Path]) -> int:
    """Rows of the files together."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def read_rows(paths: Sequence[Path], wanted: Sequence[int]) -> list[dict[str, Any]]:
    """The rows with these numbers, counted from 0 through all files, in the order asked for."""
    places = {row: place for place, row in enumerate(wanted)}
    found: list[dict[str, Any]] = [{}] * len(wanted)
    start = 0
    for file, group, rows in _groups(paths):
        here = [row for row in range(start, start + rows) if row in places]
        if here:
            table = file.read_row_group(group).take([row - start for row in here])
            for row, values in zip(here, table.to_pylist(), strict=True):
                found[places[row]] = values
        start += rows
    return found


def _groups(paths: Sequence[Path]) -> Iterator[tuple[Any, int, int]]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file, group, file.metadata.row_group(group).num_rows
