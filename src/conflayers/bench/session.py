"""A benchmark from its settings to its results: begun or gone on with, run, and its memory measured."""

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from conflayers.api import Llm
from conflayers.bench.data import Data, Sample
from conflayers.bench.judge import make_judge, rouge_available
from conflayers.bench.memory import Probe, peak_mb
from conflayers.bench.provenance import command_line, now, provenance
from conflayers.bench.results import FILE, Results
from conflayers.bench.rows import summarise
from conflayers.bench.run import Benchmark, samples_of
from conflayers.bench.spec import make_ways, split
from conflayers.bench.subject import LlmSubject, room
from conflayers.bench.values import PLAIN
from conflayers.bench.ways import synchronise
from conflayers.errors import InputError
from conflayers.files import held

# Options of methods that name a file, whose content matters and not its name.
FILES = ("plan", "file")


@dataclass(slots=True)
class Session:
    """One call of `conflayers bench`.

    Attributes:
        llm: the model.
        loading: arguments of `conflayers.load` that gave it, `source` among them.
        sets: the data, one after the other.
        asked: settings of the benchmark, beside those of model and data.
        folder: where results are kept; None to keep them in memory only.
        note: told in words what a user should know.
        tell: told what is being done, and the share that is done.
    """

    llm: Llm
    loading: dict[str, Any]
    sets: Sequence[Data]
    asked: dict[str, Any]
    folder: Path | None = None
    note: Callable[[str], None] = lambda _: None
    tell: Callable[[str, float], None] = lambda what, share: None
    results: Results = field(init=False)

    @property
    def samples(self) -> list[Sample]:
        """Of all data sets, in order."""
        return [sample for one in self.sets for sample in one.samples]

    @property
    def choice(self) -> dict[str, Any]:
        """How tokens are chosen; empty for greedy."""
        given = {name: self.asked[name] for name in ("temperature", "seed")}
        return {name: value for name, value in given.items() if value is not None}

    def run(self, memory: bool) -> Results:
        """Run what is missing, keep it, and measure memory if `memory`.

        Raises:
            InputError: the folder holds another benchmark, or is in use; an option of a method is wrong.
        """
        with held(self.folder) if self.folder is not None else nullcontext():
            ways = make_ways(self.llm, self.asked["methods"], self.choice, self.asked["fresh"])
            self._open()
            rouge = rouge_available()
            if not rouge:
                self.note("ROUGE-2 is left out: pip install 'conflayers[bench]' brings what it needs")
            judge = make_judge(rouge, self.asked["run_code"])
            subject = LlmSubject(self.llm, self.asked["chat"])
            before = len(self.results.records)
            Benchmark(subject, self.samples, ways, self.results, self.folder, judge, self.tell).run()
            if len(self.results.records) > before:
                self.results.provenance["finished"] = now()
            for one in self.results.left_out:
                self.note(f"left out: {one['id']} of {one['data']}, turn {one['turn'] + 1}, has {one['tokens']} tokens")
            if memory:
                self._measure_memory(subject)
            self._keep()
        return self.results

    def _open(self) -> None:
        """Go on from what is in the folder, or begin."""
        settings = {**self._settings(), **self.asked}
        made = provenance(command_line())
        if self.folder is None or not (self.folder / FILE).exists():
            self.results = Results(settings, made, samples_of(self.samples))
            return
        self.results = Results.load(self.folder)
        self.results.check_same(settings, self.folder)
        self.results.check_same_machine(made, self.folder)
        if self.results.records:
            self.note(f"going on after {len(self.results.records)} answers, from {self.folder}")
        self.results.settings["repeat"] = max(self.asked["repeat"], self.results.settings["repeat"])

    def _settings(self) -> dict[str, Any]:
        llm = self.llm
        return {
            "model": llm.name,
            "source": str(self.loading["source"]),
            "identity": asdict(llm.body.identity),
            "layers": llm.body.layers,
            "body": llm.body.kind,
            "why_not_compiled": llm.body.why_not_compiled,
            "dtype": str(llm.model.dtype).removeprefix("torch."),
            "device": str(llm.model.device),
            "threads": torch.get_num_threads(),
            "data": [one.name for one in self.sets],
            "digests": [one.digest for one in self.sets],
            "files": _digests(self.asked["methods"]),
        }

    def _measure_memory(self, subject: LlmSubject) -> None:
        """Peak memory of every method on the first prompt, as far as it is not known yet."""
        ids = next(ids for sample in self.samples if room(subject, ids := subject.encode(sample.turns[:1])) > 0)
        count = min(self.asked["max_new_tokens"], room(subject, ids))
        for done, name in enumerate(self.asked["methods"]):
            if name in self.results.memory:
                continue
            self.tell(f"memory of {name}", done / len(self.asked["methods"]))
            try:
                peak = self._peak(name, ids, count)
            except (InputError, OSError, subprocess.SubprocessError) as error:
                self.note(f"the memory of {name} is not known: {error}")
                continue
            plain = self.results.memory.get(PLAIN, {"peak_mb": peak})["peak_mb"]
            self.results.memory[name] = {"peak_mb": peak, "extra_mb": peak - plain}
            self._keep()
        self.results.rows = summarise(self.results.records, self.asked["methods"], self.results.memory)

    def _peak(self, name: str, ids: Sequence[int], count: int) -> float:
        """MB. An accelerator's allocator tells in this process, where a second copy of the model may not fit."""
        device = self.llm.model.device
        if device.type != "cuda":
            return peak_mb(Probe(self.loading, torch.get_num_threads(), name, self.choice, ids, count))
        (way,) = make_ways(self.llm, [name], self.choice, fresh=False)
        self.llm.body.release()
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        way.run(ids, count)
        return float(torch.cuda.max_memory_allocated(device)) / 2**20

    def _keep(self) -> None:
        if self.folder is not None:
            self.results.save(self.folder)


def _digests(methods: Sequence[str]) -> dict[str, str]:
    """By path, the SHA-256 of every file that a method is given."""
    found = {}
    for name in methods:
        for option, value in split(name)[1].items():
            if option in FILES and Path(str(value)).is_file():
                with Path(str(value)).open("rb") as file:
                    found[str(value)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
