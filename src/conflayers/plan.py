"""Plan: which sublayers a draft leaves out. Immutable, hashable, and a small JSON file bound to one model."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from conflayers.errors import PlanError
from conflayers.files import write_whole

FORMAT = 2
MAX_FILE_BYTES = 1 << 20
# Of what runs: as the model is, or a view of lower precision.
WHOLE = "whole"
NOTHING = "none"
PRECISIONS = (WHOLE, "int8", "int4", NOTHING)


@dataclass(frozen=True, slots=True)
class Plan:
    """The sublayers to skip, by layer index from 0, and the precision of what runs. `FULL` is the whole model.

    Attributes:
        attention: layers whose attention is skipped.
        mlp: layers whose MLP (or mixture of experts) is skipped.
        precision: "whole" as the model is, or of the weights' view, "int8" or "int4"; "none" where nothing of the model
            runs, as in `LOOKUP`.

    Raises:
        PlanError: something else than layer numbers, or no such precision.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()
    precision: str = WHOLE
    # Plans are looked up in every round, and sets of layers take a while to hash.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PlanError(f"precision must be {', '.join(map(repr, PRECISIONS))}, not {self.precision!r}")
        for name in ("attention", "mlp"):
            indices = getattr(self, name)
            if not isinstance(indices, frozenset):
                raise PlanError(f"{name} must be a frozenset of layer numbers, not {indices!r}")
            wrong = next((index for index in indices if type(index) is not int or index < 0), None)
            if wrong is not None:
                raise PlanError(f"the plan skips layer {wrong!r}, but layers are whole numbers from 0 on")
        # Of numbers only: a plan that was pickled elsewhere has the same.
        object.__setattr__(self, "_hash", hash((self.attention, self.mlp, PRECISIONS.index(self.precision))))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def layers(cls, indices: Iterable[int]) -> "Plan":
        """Skip whole decoder layers."""
        if not isinstance(indices, Iterable):
            raise PlanError(f"the layers of a plan are a list of whole numbers, not {indices!r}")
        skipped = frozenset(indices)
        return cls(skipped, skipped)

    @property
    def whole_layers(self) -> frozenset[int]:
        """Layers of which nothing runs."""
        return self.attention & self.mlp

    @property
    def skipped(self) -> int:
        """Number of sublayers skipped."""
        return len(self.attention) + len(self.mlp)

    def skip_ratio(self, layers: int) -> float:
        """Share of the 2 * `layers` sublayers that is skipped, 0 to 1."""
        if self.precision == NOTHING:
            return 1.0
        return self.skipped / (2 * layers)

    def at(self, precision: str) -> "Plan":
        """The same sublayers in another precision."""
        return replace(self, precision=precision)

    def as_dict(self) -> dict[str, Any]:
        """The plan as in its file."""
        return {"skip_attention": sorted(self.attention), "skip_mlp": sorted(self.mlp), "precision": self.precision}

    def check(self, layers: int) -> None:
        """Raise PlanError if the plan names a layer that a model of `layers` layers does not have."""
        outside = sorted(i for i in self.attention | self.mlp if not 0 <= i < layers)
        if outside:
            raise PlanError(f"the plan skips layer {outside[0]}, but the model has layers 0 to {layers - 1}")

    def __str__(self) -> str:
        if self == LOOKUP:
            return "runs nothing: looks up what came after the same words before"
        view = "" if self.precision == WHOLE else f" ({self.precision})"
        if not self.skipped:
            return f"skips nothing{view}"
        parts = [
            (name, sorted(indices))
            for name, indices in (
                ("layers", self.whole_layers),
                ("attention of", self.attention - self.mlp),
                ("MLP of", self.mlp - self.attention),
            )
            if indices
        ]
        return "skips " + "; ".join(f"{name} {', '.join(map(str, indices))}" for name, indices in parts) + view


FULL = Plan()
# Drafts come from the text alone.
LOOKUP = Plan(precision=NOTHING)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What ties a plan to a model: its class, its shape and a digest of a sample of its weights.

    The digest is taken in bfloat16, so the same checkpoint loaded in another precision is the same model.
    """

    architecture: str
    layers: int
    hidden_size: int
    vocab_size: int
    weights_digest: str


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan as in its file: with the model it is for, and how it was found."""

    plan: Plan
    model: ModelIdentity
    provenance: dict[str, Any]


def save_plan(path: str | os.PathLike[str], plan: Plan, model: ModelIdentity, provenance: dict[str, Any]) -> None:
    """Write a plan with the model it is for and how it was found. The file appears whole or not at all.

    Raises:
        PlanError: the place cannot be written, or `provenance` holds what JSON does not.
    """
    document = {
        "format": FORMAT,
        "model": asdict(model),
        **plan.as_dict(),
        "provenance": provenance,
    }
    try:
        text = json.dumps(document, indent=1) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"a plan's provenance takes numbers, texts, lists and objects only: {error}") from error
    if "\0" in str(path):
        raise PlanError(f"cannot write the plan to {str(path)!r}: no path has a null character")
    # Through links, and never in place of a device or a pipe.
    try:
        target = Path(path).resolve()
        if target.exists() and not target.is_file():
            raise PlanError(f"cannot write the plan to {target}: it is not a regular file")
        write_whole(target, text)
    except OSError as error:
        raise PlanError(f"cannot write the plan to {path}: {error.strerror or error}") from error


def load_plan(path: str | os.PathLike[str], model: ModelIdentity) -> Plan:
    """Read a plan that was saved for `model`.

    Raises:
        PlanError: the file is unreadable, damaged, of another version, or for another model; the message says which.
    """
    return read_plan(_read_document(Path(path)), model, path)


def read_saved(path: str | os.PathLike[str]) -> SavedPlan:
    """Read a saved plan with all that is in its file, whatever model it is for.

    Raises:
        PlanError: the file is unreadable, damaged or of another version; the message says which.
    """
    document = _read_document(Path(path))
    given = document.get("model")
    if not isinstance(given, dict):
        raise PlanError(f"{path} is not a plan file: it does not describe a model")
    kinds = {item.name: item.type for item in fields(ModelIdentity)}
    _same_keys(path, "'model'", set(given), set(kinds))
    wrong = [name for name, kind in kinds.items() if type(given[name]) is not kind]
    if wrong:
        raise PlanError(f"{path} does not describe its model: {wrong[0]} is {given[wrong[0]]!r}")
    model = ModelIdentity(**given)
    plan = read_plan(document, model, path)
    if not isinstance(document["provenance"], dict):
        raise PlanError(f"{path}: provenance must be an object")
    return SavedPlan(plan, model, document["provenance"])


def read_plan(document: Mapping[str, Any], model: ModelIdentity, path: str | os.PathLike[str] = "the plan") -> Plan:
    """The plan of a saved plan's JSON document.

    Args:
        document: what the file at `path` holds.
        model: what it must have been saved for.

    Raises:
        PlanError: as `load_plan`.
    """
    expected = {"format", "model", "skip_attention", "skip_mlp", "precision", "provenance"}
    if "format" in document and (type(document["format"]) is not int or document["format"] != FORMAT):
        raise PlanError(f"{path} has plan format {document['format']!r}; this version reads format {FORMAT}")
    _same_keys(path, "the plan", set(document), expected)
    if not isinstance(document["model"], dict):
        raise PlanError(f"{path} does not describe its model: 'model' must be an object")
    wanted = asdict(model)
    _same_keys(path, "'model'", set(document["model"]), set(wanted))
    for key, value in wanted.items():
        if type(document["model"][key]) is not type(value) or document["model"][key] != value:
            raise PlanError(
                f"{path} was made for another model: its {key} is {document['model'][key]!r}, "
                f"this model's is {value!r}; search again for this model"
            )
    attention, mlp = (_indices(path, document, key) for key in ("skip_attention", "skip_mlp"))
    plan = Plan(attention, mlp, document["precision"])
    plan.check(model.layers)
    return plan


def _read_document(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise PlanError(f"no plan file at {path}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PlanError(f"{path} is larger than 1 MB: not a plan file")
        document = json.loads(path.read_text(encoding="utf-8"))
    except PlanError:
        raise
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not a plan file: {error}") from error
    if not isinstance(document, dict):
        raise PlanError(f"{path} is not a plan file: expected a JSON object")
    return document


def _same_keys(path: str | os.PathLike[str], what: str, found: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - found):
        raise PlanError(f"{path} is incomplete: {what} lacks {', '.join(missing)}")
    if unknown := sorted(found - expected):
        raise PlanError(f"{path} has unknown entries in {what}: {', '.join(unknown)}")


def _indices(path: str | os.PathLike[str], document: Mapping[str, Any], key: str) -> frozenset[int]:
    values = document[key]
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise PlanError(f"{path}: {key} must be a list of layer numbers")
    return frozenset(values)
