"""Lines of prompts: one JSON object a line, with the prompt or the turns of a dialogue."""

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
class Line:
    """One line.

    Attributes:
        number: of the line, from 1.
        where: how errors name it: file and line.
        turns: what the user says, one text a turn; a `prompt` is the only turn.
        values: the whole object.
    """

    number: int
    where: str
    turns: tuple[str, ...]
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptLines:
    """The lines that hold something, in their order and never none, and the SHA-256 of all bytes in hexadecimal."""

    lines: tuple[Line, ...]
    digest: str


def read_lines(path: str | os.PathLike[str]) -> PromptLines:
    """Read a JSON Lines file.

    Raises:
        InputError: the file cannot be read, or `parse` finds fault with it; it names file and line.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the prompts in {path}: {error.strerror or error}") from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> PromptLines:
    """Read JSON Lines in UTF-8; empty lines are passed over.

    Args:
        content: every line is an object with a text `prompt`, or with `turns`, a list of texts.
        name: what errors call the whole.

    Raises:
        InputError: a line is not of this form, or there is none; it names the line.
    """
    lines = tuple(
        _line(number, line, f"{name}, line {number}")
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    )
    if not lines:
        raise InputError(f"there are no prompts in {name}")
    return PromptLines(lines, hashlib.sha256(content).hexdigest())


def short(value: Any) -> str:
    """What an error shows of a value."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _line(number: int, line: bytes, where: str) -> Line:
    try:
        # The mark that some editors put before a text is no part of it.
        value: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); every line must be one JSON object") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a line must be a JSON object with 'prompt' or 'turns', not {short(value)}")
    if ("prompt" in value) == ("turns" in value):
        raise InputError(f"{where}: the object must have either 'prompt' or 'turns'")
    if "prompt" in value:
        return Line(number, where, (_text(value["prompt"], "'prompt'", where),), value)
    turns = value["turns"]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: 'turns' must be a list of texts that is not empty, not {short(turns)}")
    names = ("the first of 'turns'", *(f"number {index} of 'turns'" for index in range(2, len(turns) + 1)))
    texts = tuple(_text(text, what, where) for text, what in zip(turns, names, strict=True))
    return Line(number, where, texts, value)


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {what} must be a text that is not empty, not {short(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {what} holds half a character at {error.start} ({error.reason})") from error
    return value
