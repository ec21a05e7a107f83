"""How far a search for a plan has come: a small JSON file beside the plan to be, written anew after every step."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from conflayers.errors import InputError, PlanError
from conflayers.files import write_whole
from conflayers.plan import Plan

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens, and the seconds they took."""

    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Speed") -> "Speed":
        return Speed(self.tokens + other.tokens, self.seconds + other.seconds)

    @property
    def per_second(self) -> float:
        """Tokens a second; 0 where nothing was measured."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class Progress:
    """What a search has done so far.

    Attributes:
        subject: what it is a search of (model, method, options, data and so on), by name: only the same goes on.
        seconds: that it has taken.
        prompts: prompts decoded, by methods that search while decoding.
        candidates: plans scored with their scores, tokens per second, by methods that search offline.
        used: by plan, None for plain decoding, what the rounds of decoding brought and took.
        plan: the plan in use by the method, None for plain decoding and for lookups.
        lookups: whether it is lookups that are in use.
        ended: whether the method's search ended by itself.
        compared: the plan that was compared with plain decoding, if any.
        pairs: the comparison: plain decoding and that plan, on one prompt after the other.
    """

    subject: dict[str, Any]
    seconds: float = 0.0
    prompts: int = 0
    candidates: list[tuple[Plan, float]] = field(default_factory=list)
    used: dict[Plan | None, Speed] = field(default_factory=dict)
    plan: Plan | None = None
    lookups: bool = False
    ended: bool = False
    compared: Plan | None = None
    pairs: list[tuple[Speed, Speed]] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self.prompts or self.candidates or self.pairs)

    def save(self, path: Path) -> None:
        """Write it to `path`, whole or not at all.

        Raises:
            PlanError: the place cannot be written.
        """
        document = {
            "format": FORMAT,
            "subject": self.subject,
            "seconds": self.seconds,
            "prompts": self.prompts,
            "candidates": [[_write_plan(plan), score] for plan, score in self.candidates],
            "used": [[_write_plan(plan), *_write_speed(speed)] for plan, speed in self.used.items()],
            "plan": _write_plan(self.plan),
            "lookups": self.lookups,
            "ended": self.ended,
            "compared": _write_plan(self.compared),
            "pairs": [[*_write_speed(plain), *_write_speed(drafted)] for plain, drafted in self.pairs],
        }
        try:
            write_whole(path, json.dumps(document) + "\n")
        except OSError as error:
            raise PlanError(f"cannot write the progress of the search to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path, subject: dict[str, Any], layers: int) -> Self:
        """The progress at `path`, or that of a search that has not begun where there is no such file.

        Args:
            path: the file.
            subject: what is searched now.
            layers: decoder layers of the model.

        Raises:
            InputError: the file is damaged or belongs to another search; the message says what differs and what to do.
        """
        if not path.exists():
            return cls(subject)
        otherwise = "remove it to begin anew, or give another --out"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            theirs = document["subject"]
            if document["format"] != FORMAT or not isinstance(theirs, dict):
                raise ValueError(f"format {document['format']!r}, and this version reads {FORMAT}")
        except OSError as error:
            raise InputError(f"cannot read the progress {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is no progress of a search ({error!r}): {otherwise}") from error
        # As JSON has it: (1, 2) and [1, 2] are the same there.
        ours: dict[str, Any] = json.loads(json.dumps(subject))
        differing = [name for name in {**ours, **theirs} if name not in ours or theirs.get(name) != ours[name]]
        if differing:
            what = "; ".join(f"{name} {theirs.get(name)!r}, not {ours.get(name)!r}" for name in differing)
            raise InputError(f"{path} is the progress of another search, with {what}: {otherwise}")
        try:
            return cls(subject, **_read(document, layers))
        except (ValueError, KeyError, TypeError, PlanError) as error:
            raise InputError(f"{path} is damaged ({error}): {otherwise}") from error


def _read(document: dict[str, Any], layers: int) -> dict[str, Any]:
    def plan(value: Any) -> Plan | None:
        if value is None:
            return None
        found = Plan(frozenset(value["skip_attention"]), frozenset(value["skip_mlp"]), value["precision"])
        found.check(layers)
        return found

    def scored(value: Any) -> tuple[Plan, float]:
        found = plan(value[0])
        if found is None:
            raise ValueError("a candidate is no plan")
        return found, _number(value[1])

    def speed(tokens: Any, seconds: Any) -> Speed:
        return Speed(_whole(tokens), _number(seconds))

    return {
        "seconds": _number(document["seconds"]),
        "prompts": _whole(document["prompts"]),
        "candidates": [scored(value) for value in document["candidates"]],
        "used": {plan(value): speed(*numbers) for value, *numbers in document["used"]},
        "plan": plan(document["plan"]),
        "compared": plan(document["compared"]),
        # Files of earlier versions lack it.
        "lookups": _checked(document.get("lookups", False), lambda value: type(value) is bool),
        "ended": _checked(document["ended"], lambda value: type(value) is bool),
        "pairs": [(speed(a, b), speed(c, d)) for a, b, c, d in document["pairs"]],
    }


def _whole(value: Any) -> int:
    return int(_checked(value, lambda value: type(value) is int and value >= 0))


def _number(value: Any) -> float:
    return float(_checked(value, lambda value: type(value) in (int, float) and math.isfinite(value) and value >= 0))


def _checked(value: Any, right: Callable[[Any], bool]) -> Any:
    if not right(value):
        raise ValueError(f"{value!r} is not what belongs there")
    return value


def _write_plan(plan: Plan | None) -> dict[str, list[int]] | None:
    return None if plan is None else plan.as_dict()


def _write_speed(speed: Speed) -> tuple[int, float]:
    return speed.tokens, speed.seconds
