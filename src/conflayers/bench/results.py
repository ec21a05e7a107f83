"""The results of a benchmark: one JSON file, whole at any moment, from which an interrupted benchmark goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from conflayers.bench.record import Record
from conflayers.errors import InputError
from conflayers.files import write_whole

FORMAT = 1
FILE = "results.json"
# Settings that a benchmark which goes on may change.
FREE = ("repeat",)
# What has to be the same machine and the same code in all of one benchmark.
SAME = ("versions", "system", "processor", "cores", "accelerator", "git")
KINDS: dict[str, type] = {
    "settings": dict,
    "provenance": dict,
    "samples": list,
    "memory": dict,
    "restarts": list,
    "left_out": list,
    "rows": list,
}


@dataclass(slots=True)
class Results:
    """Everything a benchmark found out.

    Attributes:
        settings: what was asked for, by name: `model`, `identity`, `layers`, `body`, `dtype`, `device`, `threads`,
            `methods` (names of the rows, "vanilla" first), `data` (names), `digests` of these, `limit`,
            `max_new_tokens`, `repeat`, `temperature`, `seed`, `turns`, `fresh`, `chat`, `run_code`.
        provenance: `versions`, `processor`, `cores`, `memory_mb`, `git`, `command`, `started`, `finished`.
        samples: `id`, `data` and `category` of each sample, in the order they are decoded in.
        records: in the order they were made.
        memory: by method, peak memory in MB and what it is more than plain decoding's: `peak_mb`, `extra_mb`.
        restarts: number of records there were at each interruption; methods began again with nothing learnt.
        left_out: `sample`, `data`, `id`, `turn` and `tokens` of what leaves no room for an answer in the context;
            the turns behind it are not asked for either.
        rows: what all this comes to, as `rows.summarise` makes it.
    """

    settings: dict[str, Any]
    provenance: dict[str, Any]
    samples: list[dict[str, Any]]
    records: list[Record] = field(default_factory=list)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    restarts: list[int] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "provenance": self.provenance,
            "samples": self.samples,
            "memory": self.memory,
            "restarts": self.restarts,
            "left_out": self.left_out,
            "rows": self.rows,
            "records": [record.as_dict() for record in self.records],
        }

    def save(self, folder: Path) -> None:
        """Write it to the folder, whole or not at all.

        Raises:
            InputError: the place cannot be written; what was there before is still there.
        """
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(self.as_dict()) + "\n")
        except OSError as error:
            raise InputError(f"cannot write the results to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, source: Path) -> Self:
        """Read what `save` wrote; `source` is the folder or the file.

        Raises:
            InputError: there are no results, they are damaged, or another version wrote them.
        """
        path = source / FILE if source.is_dir() else source
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"there are no results in {source}: give a folder that `conflayers bench` wrote"
            ) from error
        except OSError as error:
            raise InputError(f"cannot read the results {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no result of `conflayers bench`, or is damaged: {error}") from error
        found = document.get("format") if isinstance(document, dict) else None
        if found != FORMAT:
            raise InputError(f"{path} has format {found!r}, and this version reads {FORMAT}: run the benchmark again")
        try:
            return cls._read(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error!r}): remove it, or give another folder") from error

    @classmethod
    def _read(cls, document: dict[str, Any]) -> Self:
        values = {name: document[name] for name in KINDS}
        for name, kind in KINDS.items():
            if not isinstance(values[name], kind):
                raise TypeError(f"{name} is not a {kind.__name__}")
        records = [Record.from_dict(record) for record in document["records"]]
        if len({record.key for record in records}) < len(records):
            raise ValueError("a request was answered twice by the same method")
        if any(record.sample >= len(values["samples"]) for record in records):
            raise ValueError("a record belongs to no sample")
        if type(values["settings"].get("repeat")) is not int or not isinstance(values["settings"].get("methods"), list):
            raise ValueError("the settings lack methods or repeats")
        if not all(isinstance(one, dict) for one in [*values["memory"].values(), *values["rows"], *values["left_out"]]):
            raise TypeError("memory, rows or left_out holds what is no object")
        return cls(**values, records=records)

    def check_same(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Raise InputError, which names what differs, unless these come from a benchmark with these settings."""
        ours: dict[str, Any] = json.loads(json.dumps(settings))
        names = [name for name in {**ours, **self.settings} if name not in FREE]
        differing = [name for name in names if ours.get(name) != self.settings.get(name)]
        if differing:
            what = "; ".join(f"{name} {self.settings.get(name)!r}, not {ours.get(name)!r}" for name in differing)
            raise InputError(
                f"{folder} holds the results of another benchmark, with {what}: give another --out, or remove it"
            )

    def check_same_machine(self, provenance: Mapping[str, Any], folder: Path) -> None:
        """Raise InputError, which names what differs, unless these were made on this machine by this code."""
        names = [name for name in SAME if self.provenance.get(name) != provenance.get(name)]
        if names:
            what = "; ".join(f"{name} {self.provenance.get(name)!r}, not {provenance.get(name)!r}" for name in names)
            raise InputError(f"{folder} was begun with {what}: give another --out, or remove it")
