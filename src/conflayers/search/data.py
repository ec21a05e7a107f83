"""A file of prompts: one JSON object a line, with the prompt or the turns of a conversation."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conflayers.errors import InputError

# A line of a message says where, and no more of the line than this.
SHOWN = 60


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
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the prompts in {path}: {error.strerror or error}") from error
    found: list[tuple[int, str]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            found.append((number, _prompt(line, f"{path}, line {number}")))
    if not found:
        raise InputError(f"there are no prompts in {path}")
    taken = found[:limit]
    return PromptFile(
        Path(path).name,
        hashlib.sha256(content).hexdigest(),
        tuple(text for _, text in taken),
        tuple(number for number, _ in taken),
    )


def _prompt(line: bytes, where: str) -> str:
    try:
        # The mark that some editors put before a text is no part of it.
        value: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); every line must be one JSON object") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a line must be a JSON object with 'prompt' or 'turns', not {_short(value)}")
    if ("prompt" in value) == ("turns" in value):
        raise InputError(f"{where}: the object must have either 'prompt' or 'turns'")
    if "prompt" in value:
        text, what = value["prompt"], "'prompt'"
    else:
        turns, what = value["turns"], "the first of 'turns'"
        if not isinstance(turns, list) or not turns:
            raise InputError(f"{where}: 'turns' must be a list of texts that is not empty, not {_short(turns)}")
        text = turns[0]
    if not isinstance(text, str) or not text:
        raise InputError(f"{where}: {what} must be a text that is not empty, not {_short(text)}")
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
