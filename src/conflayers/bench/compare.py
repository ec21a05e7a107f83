"""Two benchmarks of the same work compared: what became better or worse by more than noise."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conflayers.bench.paired import Array, Quantity, change, excludes_nothing_changed
from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.bench.rows import label
from conflayers.bench.values import PLAIN, TOTAL, number
from conflayers.errors import InputError

THRESHOLD, MEMORY_THRESHOLD = 0.02, 0.05
BETTER, WORSE, SAME, UNCLEAR, UNKNOWN = "better", "worse", "same", "unclear", "unknown"
# What has to agree, and what makes one machine slower than another.
WORK = ("data", "digests", "max_new_tokens", "temperature", "seed", "turns")
MACHINE_SETTINGS, MACHINE = ("device", "threads"), ("processor", "cores", "accelerator", "system")
# The columns of sums.
_SECONDS, _TOKENS, _PLAIN_SECONDS, _PLAIN_TOKENS, _DRAFTED, _ON_CHAIN, _ACCEPTED, _PASSES, _SELECT = range(9)

QUANTITIES: dict[str, Quantity] = {
    "tokens_per_second": lambda s: _over(s[..., _TOKENS], s[..., _SECONDS]),
    "speedup": lambda s: _over(s[..., _PLAIN_SECONDS] * s[..., _TOKENS], s[..., _PLAIN_TOKENS] * s[..., _SECONDS]),
    "acceptance_rate": lambda s: _over(s[..., _ON_CHAIN], s[..., _DRAFTED]),
    "mean_accepted_tokens": lambda s: 1 + _over(s[..., _ACCEPTED], s[..., _PASSES]),
    "select_share": lambda s: _over(s[..., _SELECT], s[..., _SECONDS]),
}
LESS_IS_BETTER = ("select_share", "peak_memory_mb")
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One quantity of one method in one category.

    Attributes:
        method, category, quantity: which.
        before, after: over the requests that both have; `peak_memory_mb` and `identical` are of everything each has.
        change: ratio of the two less 1, of `select_share` the difference; None where it has no meaning.
        interval: 95%, by the bootstrap over samples; None for memory, which is measured once, and where it cannot be.
        samples: that both have.
        verdict: "better" or "worse", where the change reaches the threshold and is beyond noise, all that was looked at
            being taken into account: of the totals, or of the categories; "unclear" where it reaches the threshold and
            noise may be the reason; "same" where it does not reach it; "unknown" where it cannot be told: too few
            samples, or not measured on both sides.
        counts: whether a "worse" is a regression; tokens per second of different machines are not.
    """

    method: str
    category: str
    quantity: str
    before: float | bool | None
    after: float | bool | None
    change: float | None
    interval: tuple[float, float] | None
    samples: int
    verdict: str
    counts: bool = True


def compare(before: Results, after: Results, threshold: float = THRESHOLD) -> list[Change]:
    """Compare the methods that both have, by the requests that both have.

    Args:
        before, after: two benchmarks of the same model and data.
        threshold: the least change that is called one, as a share: 0.02 is 2%. Of memory it is 5%.

    Raises:
        InputError: model, data or number of new tokens differ, or they have no request in common.
    """
    check_same_work(before, after)
    sides = Side(before), Side(after)
    comparable = not machine_differences(before, after)
    several = len({record.data for side in sides for record in side.records}) > 1
    changes: list[Change] = []
    for method in (name for name in sides[0].methods if name in sides[1].methods):
        ours = [side.sums(method) for side in sides]
        requests = [request for request in ours[0] if request in ours[1]]
        labels = {request: label(sides[0].about[request], several) for request in requests}
        kinds = sorted(set(labels.values()))
        for category in [TOTAL, *kinds] if len(kinds) > 1 else [TOTAL] if kinds else []:
            chosen = [request for request in requests if category in (TOTAL, labels[request])]
            pair = tuple(_by_sample(sums, chosen) for sums in ours)
            changes += _changes(method, category, pair[0], pair[1], comparable)
            changes += _identical(method, category, sides, several, len(pair[0]))
        if not requests:
            changes.append(Change(method, TOTAL, "tokens_per_second", None, None, None, None, 0, UNKNOWN))
        changes += _memory(method, before, after)
    if not any(one.samples for one in changes):
        raise InputError("the two benchmarks have no request in common: was one of them stopped at its first?")
    return _judged(changes, threshold)


def check_same_work(before: Results, after: Results) -> None:
    """Raise InputError, which names what differs, unless both are of the same model, data and number of new tokens."""
    # Without a temperature and with one of 0 texts are greedy.
    settings = [{**one.settings, "temperature": one.settings.get("temperature") or None} for one in (before, after)]
    # The same weights may lie in different places.
    known = all(one.get("identity") is not None for one in settings)
    names = ("identity" if known else "model", *WORK)
    differing = [name for name in names if settings[0].get(name) != settings[1].get(name)]
    if differing:
        shown = ["model" if name == "identity" else name for name in differing]
        what = "; ".join(f"{name} {settings[0].get(name)!r} and {settings[1].get(name)!r}" for name in shown)
        raise InputError(
            f"these benchmarks are not of the same work, {', '.join(shown)} differ: {what}; compare two of one kind"
        )


def machine_differences(before: Results, after: Results) -> list[str]:
    """Names of what differs of the machine and its software; our own version is what is compared, and not among it."""
    found = [name for name in MACHINE_SETTINGS if before.settings.get(name) != after.settings.get(name)]
    found += [name for name in MACHINE if before.provenance.get(name) != after.provenance.get(name)]
    versions = [_versions(results) for results in (before, after)]
    names = [name for name in {**versions[0], **versions[1]} if name != "conflayers"]
    return found + [f"versions.{name}" for name in names if versions[0].get(name) != versions[1].get(name)]


def setting_differences(before: Results, after: Results) -> list[str]:
    """Names of other settings that differ; where the model lies and which methods there are is not among them."""
    apart = ("model", "identity", "methods", *WORK, *MACHINE_SETTINGS)
    names = [name for name in {**before.settings, **after.settings} if name not in apart]
    return [name for name in names if before.settings.get(name) != after.settings.get(name)]


def only_in_one(before: Results, after: Results) -> tuple[list[str], list[str]]:
    """Methods that only the first has, and those that only the second has."""
    names = [list(dict.fromkeys(record.method for record in results.records)) for results in (before, after)]
    return [name for name in names[0] if name not in names[1]], [name for name in names[1] if name not in names[0]]


class Side:
    """The records of one benchmark, by what a request is called in any other of the same data."""

    def __init__(self, results: Results) -> None:
        self.records = results.records
        self.methods = list(dict.fromkeys(record.method for record in results.records))
        self._names = _sample_names(results.samples)
        self.about: dict[tuple[Key, int], Record] = {}
        for record in results.records:
            self.about.setdefault(self._request(record), record)
        self._plain = self._times(PLAIN)

    def sums(self, method: str) -> dict[tuple[Key, int], Array]:
        """By request, the mean over repeats of what sums are made of."""
        rows: dict[tuple[Key, int], list[list[float]]] = {}
        for record in self.records:
            if record.method == method:
                request, stats = self._request(record), record.stats
                on_chain = stats.num_accepted_draft_tokens - stats.num_accepted_sibling_tokens
                rows.setdefault(request, []).append(
                    [
                        record.seconds,
                        stats.new_tokens,
                        *self._plain.get(request, (float("nan"), float("nan"))),
                        stats.num_draft_tokens,
                        on_chain,
                        stats.num_accepted_draft_tokens,
                        stats.num_spec_steps + stats.num_plain_steps,
                        stats.select_seconds,
                    ]
                )
        return {request: np.asarray(some, dtype=np.float64).mean(0) for request, some in rows.items()}

    def _times(self, method: str) -> dict[tuple[Key, int], tuple[float, float]]:
        found: dict[tuple[Key, int], list[Record]] = {}
        for record in self.records:
            if record.method == method:
                found.setdefault(self._request(record), []).append(record)
        return {
            request: (sum(r.seconds for r in some) / len(some), sum(r.stats.new_tokens for r in some) / len(some))
            for request, some in found.items()
        }

    def _request(self, record: Record) -> tuple[Key, int]:
        known = 0 <= record.sample < len(self._names)
        return self._names[record.sample] if known else (record.data, "", record.sample), record.turn


def _changes(method: str, category: str, before: Array, after: Array, comparable: bool) -> Iterable[Change]:
    drafted = before[:, _DRAFTED].sum() + after[:, _DRAFTED].sum() > 0
    for quantity, value in QUANTITIES.items():
        if quantity != "tokens_per_second" and (method == PLAIN if quantity == "speedup" else not drafted):
            continue
        old, new = (number(float(value(side.sum(0)))) for side in (before, after))
        if old is None and new is None:
            continue
        found, interval = change(before, after, value, share=quantity == "select_share")
        counts = comparable or quantity != "tokens_per_second"
        yield Change(method, category, quantity, old, new, found, interval, len(before), UNKNOWN, counts)


def _judged(changes: Sequence[Change], threshold: float) -> list[Change]:
    """With the verdicts that depend on how much was looked at."""
    among = Counter(one.category == TOTAL for one in changes if one.interval is not None)
    return [
        replace(one, verdict=_verdict(one, threshold, among[one.category == TOTAL]))
        if one.quantity in QUANTITIES
        else one
        for one in changes
    ]


def _verdict(one: Change, threshold: float, among: int) -> str:
    found = one.change
    if found is None:
        return UNKNOWN
    if abs(found) < threshold or not found:
        return SAME
    if one.interval is None:
        return UNKNOWN
    if not excludes_nothing_changed(found, one.interval, one.samples, among):
        return UNCLEAR
    return BETTER if (found < 0) == (one.quantity in LESS_IS_BETTER) else WORSE


def _identical(method: str, category: str, sides: tuple[Side, Side], several: bool, samples: int) -> Iterable[Change]:
    """A text that differs is a regression wherever it is: requests that only one benchmark has are included."""
    values: list[bool | None] = []
    for side in sides:
        mine = (r for r in side.records if r.method == method and category in (TOTAL, label(r, several)))
        known = [record.identical for record in mine if record.identical is not None]
        values.append(all(known) if known else None)
    before, after = values
    if values != [None, None] and method != PLAIN:
        verdict = UNKNOWN if None in values else SAME if before == after else BETTER if after else WORSE
        yield Change(method, category, "identical", before, after, None, None, samples, verdict)


def _memory(method: str, before: Results, after: Results) -> Iterable[Change]:
    sides = [results.memory.get(method) for results in (before, after)]
    old, new = (number(side.get("peak_mb")) if isinstance(side, Mapping) else None for side in sides)
    if old is None and new is None:
        return
    found = new / old - 1 if old and new is not None else None
    verdict = UNKNOWN if found is None else SAME
    if found is not None and abs(found) >= MEMORY_THRESHOLD:
        verdict = WORSE if found > 0 else BETTER
    yield Change(method, TOTAL, "peak_memory_mb", old, new, found, None, 0, verdict)


def _by_sample(sums: Mapping[tuple[Key, int], Array], requests: Sequence[tuple[Key, int]]) -> Array:
    """The turns of each sample added up, [samples, columns]."""
    found: dict[Key, Array] = {}
    for sample, turn in requests:
        found[sample] = found.get(sample, np.zeros(_SELECT + 1)) + sums[sample, turn]
    return np.stack(list(found.values()))


def _sample_names(samples: Sequence[Any]) -> list[Key]:
    """Samples by data set and id, not by place, which another limit moves; equal ids are counted."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for index, sample in enumerate(samples):
        values = sample if isinstance(sample, dict) else {}
        name = str(values.get("data")), str(values.get("id", index))
        found.append((*name, seen[name]))
        seen[name] += 1
    return found


def _over(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b


def _versions(results: Results) -> dict[str, Any]:
    found = results.provenance.get("versions")
    return found if isinstance(found, dict) else {}
