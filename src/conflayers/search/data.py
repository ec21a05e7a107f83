"""Prompts to search with: a file of one JSON object a line, or a data set of the benchmark by its name."""

import os
from dataclasses import dataclass
from pathlib import Path

from conflayers.bench.data import DATA_SETS, read_data
from conflayers.errors import InputError
from conflayers.prompt_lines import read_lines


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The prompts of a file.

    Attributes:
        name: the file's name, without its folder, or the data set's.
        digest: SHA-256 of all its bytes, in hexadecimal.
        prompts: the texts, in the file's order; never empty.
        lines: the line of each, from 1; in a data set its place.
    """

    name: str
    digest: str
    prompts: tuple[str, ...]
    lines: tuple[int, ...]


def read_task(source: str, limit: int | None = None) -> PromptFile:
    """The prompts of a file, or of a data set by its name in `conflayers.bench.data.DATA_SETS`.

    Args:
        source: a path or a name; a file of that name comes first.
        limit: prompts at most, 1 or more; all by default.

    Raises:
        InputError: as `read_prompts` and `read_data`.
    """
    if source not in DATA_SETS or Path(source).exists():
        return read_prompts(source, limit)
    found = read_data(source, limit)
    return PromptFile(
        found.name,
        found.digest,
        tuple(sample.turns[0] for sample in found.samples),
        tuple(range(1, len(found.samples) + 1)),
    )


def read_prompts(path: str | os.PathLike[str], limit: int | None = None) -> PromptFile:
    """Read a file of prompts.

    Args:
        path: a JSON Lines file in UTF-8. Every line is an object with a text `prompt`, or with `turns`, a list of
            texts of which the first is taken; anything else in it is passed over. Empty lines are allowed.
        limit: prompts taken at most, the first ones of the file, 1 or more; all by default. Every line is checked.

    Raises:
        InputError: the file cannot be read, a line is not of this form, or there is no prompt; it names file and line.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"limit must be a whole number of 1 or more, not {limit!r}")
    found = read_lines(path)
    taken = found.lines[:limit]
    return PromptFile(
        Path(path).name,
        found.digest,
        tuple(line.turns[0] for line in taken),
        tuple(line.number for line in taken),
    )
