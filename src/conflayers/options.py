"""Checks of option values: whatever cannot be honoured names the option and says what it takes."""

from typing import Any

from conflayers.errors import InputError


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
