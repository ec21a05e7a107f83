"""The benchmark itself: every method answers every request, in turns, on one machine, in one process.

The order of the methods rotates from request to request, so that a machine that drifts hits all alike. What is
compared, counted and written happens between the timed answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conflayers.bench.data import Sample
from conflayers.bench.record import Difference, Record
from conflayers.bench.results import Results
from conflayers.bench.rows import summarise
from conflayers.bench.subject import Subject
from conflayers.bench.values import PLAIN
from conflayers.bench.ways import Answer, Way
from conflayers.compare import first_difference
from conflayers.errors import InputError

# Tokens that every method decodes before anything is timed, so that whoever runs first does not pay for all.
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for all methods.

    Attributes:
        sample, turn, repeat: which it is.
        ids: the prompt.
        count: new tokens at most.
    """

    sample: int
    turn: int
    repeat: int
    ids: list[int]
    count: int


@dataclass(slots=True)
class Benchmark:
    """A benchmark on its way.

    Attributes:
        subject: the model.
        samples: in the order they are decoded in; the settings name the data sets they come from.
        ways: the methods, plain decoding first.
        results: what there is so far.
        folder: where the results are kept after every request; None to keep them in memory only.
        judge: completes a record by what is said of its text: given the sample, the record, its text and plain
            decoding's.
        tell: called with words and the share that is done.
    """

    subject: Subject
    samples: Sequence[Sample]
    ways: Sequence[Way]
    results: Results
    folder: Path | None = None
    judge: Callable[[Sample, Record, str, str], None] = lambda *_: None
    tell: Callable[[str, float], None] = lambda what, share: None
    _done: dict[tuple[str, int, int, int], Record] = field(default_factory=dict)

    def run(self) -> Results:
        """Run what is missing, and sum up.

        Raises:
            InputError: a prompt is too long for the model's context, or a peer refuses; the results so far are kept.
        """
        self._check_lengths()
        self._done = {record.key: record for record in self.results.records}
        settings = self.results.settings
        planned = settings["repeat"] * sum(self._turns(sample) for sample in self.samples) * len(self.ways)
        if len(self._done) < planned:
            if self._done:
                self.results.restarts.append(len(self._done))
            self._warm_up()
        for repeat in range(settings["repeat"]):
            for way in self.ways:
                way.begin()
            for request in self._requests(repeat):
                self._answer(request, planned)
        self._sum_up()
        return self.results

    def _check_lengths(self) -> None:
        for sample in self.samples:
            self._room(sample, self.subject.encode(sample.turns[:1]))

    def _room(self, sample: Sample, ids: Sequence[int]) -> int:
        """New tokens that fit behind a prompt."""
        room = self.subject.context - len(ids)
        if room < 1:
            raise InputError(
                f"sample {sample.id!r} of {sample.data} has {len(ids)} tokens and the model's context is "
                f"{self.subject.context}: leave it out, or use data with shorter prompts"
            )
        return room

    def _requests(self, repeat: int) -> Iterator[Request]:
        wanted = self.results.settings["max_new_tokens"]
        for index, sample in enumerate(self.samples):
            said: list[str] = []
            for turn in range(self._turns(sample)):
                said.append(sample.turns[turn])
                ids = self.subject.encode(said)
                count = min(wanted, self._room(sample, ids))
                yield Request(index, turn, repeat, ids, count)
                # Everybody goes on from the same answer, plain decoding's.
                said.append(self.subject.text(self._done[PLAIN, repeat, index, turn].token_ids))

    def _turns(self, sample: Sample) -> int:
        return len(sample.turns) if self.results.settings["turns"] else 1

    def _answer(self, request: Request, planned: int) -> None:
        """Have every method answer, beginning with another one each time; then compare, and keep the records."""
        sample, new = self.samples[request.sample], []
        shift = (request.sample + request.turn + request.repeat) % len(self.ways)
        for way in [*self.ways[shift:], *self.ways[:shift]]:
            if (way.name, request.repeat, request.sample, request.turn) in self._done:
                continue
            self.tell(f"{sample.id}: {way.name}", len(self._done) / planned)
            answer = way.run(request.ids, request.count)
            new.append((way, self._record(way, sample, request, answer)))
        if not new:
            return
        plain = self._done[PLAIN, request.repeat, request.sample, request.turn]
        for way, record in new:
            self._compare(way, record, plain, request)
            self.judge(sample, record, self.subject.text(record.token_ids), self.subject.text(plain.token_ids))
        self.results.records += [record for _, record in new]
        self._save()

    def _record(self, way: Way, sample: Sample, request: Request, answer: Answer) -> Record:
        record = Record(
            method=way.name,
            data=sample.data,
            category=sample.category,
            sample=request.sample,
            turn=request.turn,
            repeat=request.repeat,
            seconds=answer.seconds,
            first_token_seconds=answer.first_token_seconds,
            stats=answer.stats,
            token_ids=answer.token_ids,
            plan=answer.plan,
        )
        self._done[record.key] = record
        return record

    def _compare(self, way: Way, record: Record, plain: Record, request: Request) -> None:
        if not way.same_text:
            return
        at = first_difference(record.token_ids, plain.token_ids)
        record.identical = at is None
        if at is None:
            return
        token, expected = _at(record.token_ids, at), _at(plain.token_ids, at)
        gap = None
        if token is not None and expected is not None:
            gap = self.subject.gap([*request.ids, *plain.token_ids[:at]], expected, token)
        record.difference = Difference(at, token, expected, gap)

    def _warm_up(self) -> None:
        self.tell("warming up", 0.0)
        ids = self.subject.encode(self.samples[0].turns[:1])
        count = min(WARM_UP_TOKENS, self.results.settings["max_new_tokens"], self.subject.context - len(ids))
        for way in self.ways:
            if count > 0:
                way.begin()
                way.run(ids, count)

    def _sum_up(self) -> None:
        names = [way.name for way in self.ways]
        self.results.rows = summarise(self.results.records, names, self.results.memory)
        self._save()

    def _save(self) -> None:
        if self.folder is not None:
            self.results.save(self.folder)


def samples_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What the results keep of the samples."""
    return [{"id": sample.id, "data": sample.data, "category": sample.category} for sample in samples]


def _at(tokens: Sequence[int], position: int) -> int | None:
    return tokens[position] if position < len(tokens) else None
