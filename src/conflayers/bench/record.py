"""What one method did on one request: the atoms that every number of a benchmark is made of."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from conflayers.stats import Stats

PHASES = ("prefill", "draft", "verify", "select", "other")
_FROM_TEXT = ("acceptance_histogram", "chain_histogram", "draft_histogram")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a text first differs from plain decoding's.

    Attributes:
        position: among the new tokens, from 0.
        token, plain_token: what stands there; None behind the end of a text.
        logit_gap: the whole model's logit of `plain_token` less that of `token` behind the tokens they share; None
            where one of them is missing. A gap of rounding's size is a tie that rounding decided.
    """

    position: int
    token: int | None
    plain_token: int | None
    logit_gap: float | None = None


@dataclass(slots=True)
class Record:
    """One request by one method.

    Attributes:
        method: the row it belongs to, as named on the command line.
        data, category: of the sample.
        sample, turn, repeat: which request it is: index of the sample, of the turn in its dialogue, and of the repeat.
        seconds: wall time of the whole request, search included.
        first_token_seconds: of these, until the first new token was there.
        stats: counts and times by phase; peers that are not ours have only what can be seen from outside.
        token_ids: the new tokens, those behind the end of the text left out.
        plan: the plan in use at the end, in words; None for plain decoding.
        identical: whether `token_ids` are plain decoding's on the same request; None where they need not be.
        difference: if not, where and by how much.
        rouge_to_plain, rouge_to_reference: ROUGE-2 F1, 0 to 1; None where there is nothing to compare with.
        passed: whether the program that was asked for passes its tests; None where none was run.
    """

    method: str
    data: str
    category: str
    sample: int
    turn: int
    repeat: int
    seconds: float
    first_token_seconds: float
    stats: Stats
    token_ids: list[int]
    plan: str | None = None
    identical: bool | None = None
    difference: Difference | None = None
    rouge_to_plain: float | None = None
    rouge_to_reference: float | None = None
    passed: bool | None = None

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What no other record of a benchmark has: method, repeat, sample and turn."""
        return self.method, self.repeat, self.sample, self.turn

    @property
    def request(self) -> tuple[int, int, int]:
        """What it shares with the other methods' records of the same request: repeat, sample and turn."""
        return self.repeat, self.sample, self.turn

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase; what no phase accounts for is `other`."""
        known = {name: getattr(self.stats, f"{name}_seconds") for name in PHASES[:-1]}
        return {**known, "other": max(self.seconds - sum(known.values()), 0.0)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["stats"] = {item.name: getattr(self.stats, item.name) for item in fields(Stats)}
        for name in _FROM_TEXT:
            values["stats"][name] = {str(k): v for k, v in sorted(values["stats"][name].items())}
        if self.difference is not None:
            values["difference"] = asdict(self.difference)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `as_dict` made.

        Raises:
            KeyError, TypeError, ValueError: it is no record.
        """
        values = dict(values)
        stats = dict(values["stats"])
        for name in _FROM_TEXT:
            stats[name] = Counter({int(k): int(v) for k, v in stats[name].items()})
        values["stats"] = Stats(**stats)
        if values["difference"] is not None:
            values["difference"] = Difference(**values["difference"])
        found = cls(**values)
        found.check()
        return found

    def check(self) -> None:
        """Raise ValueError for what no benchmark writes."""
        texts = (self.method, self.data, self.category)
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.plan, str | None):
            raise ValueError("a name is no text")
        numbers = [
            getattr(self.stats, item.name) for item in fields(Stats) if item.type in ("int", "float", int, float)
        ]
        for value in (self.sample, self.turn, self.repeat, self.seconds, self.first_token_seconds, *numbers):
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"{value!r} is no count and no time")
        if not isinstance(self.token_ids, list) or not all(type(token) is int for token in self.token_ids):
            raise ValueError("token_ids are no list of tokens")
