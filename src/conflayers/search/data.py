"""A file of prompts to search with: one JSON object a line, with the prompt or the turns of a conversation."""

import os
from dataclasses import dataclass
from pathlib import Path

from conflayers.errors import InputError
from conflayers.prompt_lines import read_lines


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The prompts of a file.

    Attributes:
        name: the file's name, without its folder.
        digest: SHA-256 of all its bytes, in hexadecimal.
        prompts: the texts, in the file's order; never empty.
        lines: the line of each, from 1.
    """

    name: str
    digest: str
    prompts: tuple[str, ...]
    lines: tuple[int, ...]


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
