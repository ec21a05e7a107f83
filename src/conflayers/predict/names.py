"""Finding something by name, with the nearest names where there is none."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from conflayers.errors import InputError

T = TypeVar("T")
SHOWN = 4


def find(what: str, name: str, table: Mapping[str, T], advice: str = "") -> T:
    """The entry of that name.

    Args:
        what: what the table has, for the message.
        advice: what else could be done, for the message.

    Raises:
        InputError: there is none; it has the nearest names, or all where none is near.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, SHOWN, 0.5)
    names = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(table)}"
    raise InputError(f"no {what} {name!r} in the table: {names}" + (f" ({advice})" if advice else ""))
