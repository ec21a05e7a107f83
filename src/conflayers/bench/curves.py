"""What a benchmark's records and names say in order: the speedup along the stream, and along lambda."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conflayers.bench.record import Record
from conflayers.bench.values import PLAIN

Request = tuple[int, int, int]
_LAMBDA = re.compile(r":lam=([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=:|$)")


@dataclass(frozen=True, slots=True)
class Curve:
    """One method along the stream.

    Attributes:
        places: of its requests, from 1.
        speedups: after each of them: plain decoding's time per token over its own, of all requests until there.
        settled: places of the last requests at which its plan changed, one for each time it began with nothing
            learnt; none where it never searched or the plan was still changing in the end.
    """

    places: list[int]
    speedups: list[float]
    settled: list[int]


@dataclass(frozen=True, slots=True)
class Stream:
    """A benchmark along its requests, in the order they were decoded in; places count from 1.

    Attributes:
        curves: by method, plain decoding left out.
        data: the places at which another data set begins, and its name; the first is at 1.
        repeats: the places at which another repeat begins.
        restarts: the places before which the benchmark was interrupted.
    """

    curves: dict[str, Curve]
    data: list[tuple[int, str]]
    repeats: list[int]
    restarts: list[int]


def stream(records: Sequence[Record], restarts: Sequence[int], fresh: bool = False) -> Stream:
    """Follow the methods along the stream.

    Args:
        records: in the order they were made.
        restarts: number of records there were at each interruption.
        fresh: whether methods forget everything after each request, so that no search has an end.
    """
    places: dict[Request, int] = {}
    kinds: list[tuple[int, str]] = []
    for record in records:
        if record.request not in places:
            places[record.request] = len(places) + 1
            kinds.append((record.repeat, record.data))
    begun = [len({record.request for record in records[:count]}) + 1 for count in restarts]
    repeats = [i + 1 for i in range(1, len(kinds)) if kinds[i][0] != kinds[i - 1][0]]
    data = [(i + 1, name) for i, (_, name) in enumerate(kinds) if not i or name != kinds[i - 1][1]]
    plain = {record.request: record for record in records if record.method == PLAIN}
    curves = {}
    for method in dict.fromkeys(record.method for record in records if record.method != PLAIN):
        mine = [record for record in records if record.method == method and record.request in plain]
        if mine:
            settled = [] if fresh else _settled(mine, places, {*repeats, *begun})
            curves[method] = Curve([places[r.request] for r in mine], _speedups(mine, plain), settled)
    return Stream(curves, data, repeats, [place for place in begun if place <= len(places)])


def lambdas(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Rows whose methods differ in nothing but `lam=VALUE`, by their common name, along lambda; two at least."""
    found: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in rows:
        match = _LAMBDA.search(row["method"])
        if match:
            common = row["method"][: match.start()] + row["method"][match.end() :]
            found.setdefault(common, []).append((float(match[1]), row))
    return {name: sorted(some, key=lambda one: one[0]) for name, some in found.items() if len(some) > 1}


def _speedups(mine: Sequence[Record], plain: Mapping[Request, Record]) -> list[float]:
    seconds = tokens = plain_seconds = plain_tokens = 0.0
    found = []
    for record in mine:
        other = plain[record.request]
        seconds, tokens = seconds + record.seconds, tokens + record.stats.new_tokens
        plain_seconds, plain_tokens = plain_seconds + other.seconds, plain_tokens + other.stats.new_tokens
        below = seconds * plain_tokens
        found.append(plain_seconds * tokens / below if below > 0 else float("nan"))
    return found


def _settled(mine: Sequence[Record], places: Mapping[Request, int], beginnings: set[int]) -> list[int]:
    """For every stretch of the stream that begins with nothing learnt, where the plan changed for the last time."""
    stretches: list[list[Record]] = []
    for record in mine:
        if not stretches or places[record.request] in beginnings:
            stretches.append([])
        stretches[-1].append(record)
    found = []
    for some in stretches:
        # At the first request a plan is either given or decided on, and decisions are written down.
        changed = [0] if some[0].stats.decisions else []
        changed += [i for i in range(1, len(some)) if some[i].plan != some[i - 1].plan]
        if changed and changed[-1] < len(some) - 1:
            found.append(places[some[changed[-1]].request])
    return found
