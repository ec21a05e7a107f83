"""Checks of options: whatever cannot be honoured names the option and says what it takes, or where it belongs."""

import json
import re
from collections.abc import Sequence
from typing import Any

from conflayers.errors import InputError

# Settings of transformers' `generate` that people try here.
_ELSEWHERE = "give it to model.generate(..., custom_generate=conflayers.SelfSpeculative())"
NOT_HERE = {
    "num_beams": "one text is decoded at a time, without beams",
    "num_return_sequences": "one text is decoded at a time; call once for each",
    "streamer": f"iterate over Llm.stream(), or {_ELSEWHERE}",
    "generation_config": f"name the settings themselves, or {_ELSEWHERE}",
    "stopping_criteria": f"use stop_strings or max_new_tokens, or {_ELSEWHERE}",
    "max_time": _ELSEWHERE,
    "max_length": "say how many tokens are to be generated with max_new_tokens",
    "max_tokens": "the name is max_new_tokens",
    "stop": "the name is stop_strings",
}


def whole(name: str, value: Any, least: int) -> None:
    """Raise InputError unless `value` is a whole number of `least` or more."""
    if type(value) is not int or value < least:
        raise InputError(f"{name} must be a whole number of {least} or more, not {value!r}")


def share(name: str, value: Any) -> None:
    """Raise InputError unless `value` is a number between 0 and 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number between 0 and 1, not {value!r}")


def number(name: str, value: Any, least: float) -> None:
    """Raise InputError unless `value` is a number of `least` or more."""
    if type(value) not in (int, float) or not value >= least:
        raise InputError(f"{name} must be a number of {least} or more, not {value!r}")


def yes_or_no(name: str, value: Any) -> None:
    """Raise InputError unless `value` is True or False."""
    if type(value) is not bool:
        raise InputError(f"{name} must be true or false, not {value!r}")


def pieces(text: str, mark: str) -> list[str]:
    """What stands between marks, without blanks around it; a mark behind a backslash is a part of what it stands in."""
    return [piece.strip() for piece in re.split(rf"(?<!\\){re.escape(mark)}", text)]


def unescaped(text: str) -> str:
    """Without the backslashes in front of commas and colons."""
    return re.sub(r"\\([,:])", r"\1", text)


def option_pairs(pairs: Sequence[str], where: str) -> dict[str, Any]:
    """Options from NAME=VALUE texts.

    Args:
        pairs: the texts.
        where: what to call their place in errors.

    Raises:
        InputError: not of this form, or a name given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise InputError(f"{where} takes NAME=VALUE, not {pair!r}")
        if name in options:
            raise InputError(f"{where}: option {name!r} is given twice")
        options[name] = option_value(value.strip())
    return options


def option_value(text: str) -> Any:
    """A number, true, false or none; anything else is a text."""
    named = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) else text
