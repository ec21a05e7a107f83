"""From what is named on the command line to ways to decode: `name:option=value:option=value`."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from conflayers.api import Llm
from conflayers.bench.peers import PEERS
from conflayers.bench.sweeps import SWEEPS
from conflayers.bench.values import PLAIN
from conflayers.bench.ways import Ours, Way
from conflayers.errors import InputError
from conflayers.methods import METHODS
from conflayers.options import option_pairs, pieces, unescaped


def expand(methods: str, sweeps: Sequence[str] = ()) -> list[str]:
    """The names of the rows, plain decoding first: what everything is compared with is always among them.

    Args:
        methods: separated by commas; a comma behind a backslash is a part of a name, as in the path of a plan.
        sweeps: names of `sweeps.SWEEPS`, whose rows are added.

    Raises:
        InputError: no such method or sweep, or one named twice.
    """
    names = pieces(methods, ",") if methods else []
    for sweep in sweeps:
        if sweep not in SWEEPS:
            raise InputError(f"no sweep {sweep!r}{_near(sweep, SWEEPS)}; there are: {', '.join(SWEEPS)}")
        names += SWEEPS[sweep].methods
    for name in names:
        method, _ = split(name)
        there = [*METHODS, *PEERS]
        if method not in there:
            raise InputError(f"no method {method!r}{_near(method, there)}; there are: {', '.join(there)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and not sweeps:
        raise InputError(f"named twice: {', '.join(twice)}")
    return list(dict.fromkeys([PLAIN, *names]))


def split(name: str) -> tuple[str, dict[str, Any]]:
    """A row's name as its method and its options; a colon behind a backslash is a part of an option.

    Raises:
        InputError: an option that is not NAME=VALUE, or is given twice.
    """
    method, *pairs = pieces(name, ":")
    return method, option_pairs([unescaped(pair) for pair in pairs], f"method {name!r}")


def make_ways(llm: Llm, names: Sequence[str], choice: dict[str, Any], fresh: bool) -> list[Way]:
    """The ways to decode, in the order of their names.

    Args:
        llm: the model.
        names: of the rows, as `expand` returns them.
        choice: how tokens are chosen: `temperature` and `seed`; empty for greedy.
        fresh: begin every request with nothing learnt.

    Raises:
        InputError: an option that a method does not have, a value out of range, or a package that is missing.
        PlanError: a plan that does not fit the model.
    """
    ways: list[Way] = []
    for name in names:
        method, options = split(name)
        if method in PEERS:
            ways.append(PEERS[method](llm, name, options, choice))
        else:
            ways.append(Ours(name, llm, method, options, choice, fresh))
    return ways


def _near(name: str, names: Sequence[str] | dict[str, Any]) -> str:
    near = get_close_matches(name, names, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
