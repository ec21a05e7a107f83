"""Checks of options: whatever cannot be honoured names the option and says what it takes, or where it belongs."""

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
