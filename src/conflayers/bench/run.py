"""The benchmark itself: every method answers every request, in turns, on one machine, in one process.

The order of the methods changes from request to request (`order`), so that a machine that drifts hits all alike. What
is compared, counted and written happens between the timed answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conflayers.bench.data import Sample
from conflayers.bench.order import order
from conflayers.bench.record import Difference, Record
from conflayers.bench.results import Results
from conflayers.bench.rows import summarise
from conflayers.bench.subject import Subject, room
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
        number: of all requests so far.
        ids: the prompt.
        count: new tokens at most.
    """

    sample: int
    turn: int
    repeat: int
    number: int
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
    _planned: int = 0
    _done: dict[tuple[str, int, int, int], Record] = field(default_factory=dict)

    def run(self) -> Results:
        """Run what is missing, and sum up.

        Prompts that leave no room for an answer are left out, and the results say which.

        Raises:
            InputError: no prompt is left, the results cannot be kept, or a peer refuses; what was kept stays.
        """
        self._done = {record.key: record for record in self.results.records}
        self._leave_out()
        self._planned = self._planned_in_a_repeat * self.results.settings["repeat"]
        if len(self._done) < self._planned:
            self._save()
            # Whatever was learnt in an unfinished repeat is lost.
            if len(self._done) % self._planned_in_a_repeat:
                self.results.restarts.append(len(self._done))
            self._warm_up()
            for repeat in range(self.results.settings["repeat"]):
                for way in self.ways:
                    way.begin()
                for request in self._requests(repeat):
                    self._answer(request)
        names = [way.name for way in self.ways]
        self.results.rows = summarise(self.results.records, names, self.results.memory)
        self._save()
        return self.results

    @property
    def _planned_in_a_repeat(self) -> int:
        """Answers, but for turns that leave no room."""
        return len(self.ways) * sum(self._asked(index) for index in range(len(self.samples)))

    def _leave_out(self) -> None:
        """Leave out what cannot be asked at all; the last turns of dialogues show later."""
        for index, sample in enumerate(self.samples):
            self._fits(index, 0, self.subject.encode(sample.turns[:1]))
        if not any(map(self._asked, range(len(self.samples)))):
            raise InputError(
                f"every prompt is longer than the model's context of {self.subject.context} tokens: use other data"
            )

    def _asked(self, index: int) -> int:
        """Turns of a sample that are asked for."""
        out = [int(one["turn"]) for one in self.results.left_out if one["sample"] == index]
        return min([self._turns(self.samples[index]), *out])

    def _fits(self, index: int, turn: int, ids: Sequence[int]) -> bool:
        """Whether there is room for an answer; where there is none, that is noted."""
        if room(self.subject, ids) >= 1:
            return True
        sample = self.samples[index]
        if self._asked(index) > turn:
            one = {"sample": index, "data": sample.data, "id": sample.id, "turn": turn, "tokens": len(ids)}
            self.results.left_out.append(one)
        return False

    def _requests(self, repeat: int) -> Iterator[Request]:
        wanted = self.results.settings["max_new_tokens"]
        number = repeat * self._planned_in_a_repeat
        for index, sample in enumerate(self.samples):
            said: list[str] = []
            for turn in range(self._asked(index)):
                said.append(sample.turns[turn])
                ids = self.subject.encode(said)
                if not self._fits(index, turn, ids):
                    break
                yield Request(index, turn, repeat, number, ids, min(wanted, room(self.subject, ids)))
                number += 1
                # Everybody goes on from the same answer, plain decoding's.
                said.append(self.subject.text(self._done[PLAIN, repeat, index, turn].token_ids))

    def _turns(self, sample: Sample) -> int:
        return len(sample.turns) if self.results.settings["turns"] else 1

    def _answer(self, request: Request) -> None:
        """Have every method answer, in an order that changes; then compare, and keep the records."""
        sample, new = self.samples[request.sample], []
        for place in order(request.number, len(self.ways)):
            way = self.ways[place]
            if (way.name, request.repeat, request.sample, request.turn) in self._done:
                continue
            self.tell(f"{sample.id}: {way.name}", min(len(self._done) / self._planned, 1.0))
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
        first = next(index for index in range(len(self.samples)) if self._asked(index))
        ids = self.subject.encode(self.samples[first].turns[:1])
        count = min(WARM_UP_TOKENS, self.results.settings["max_new_tokens"], room(self.subject, ids))
        self.subject.warm_up(ids, count)
        for way in self.ways:
            way.begin()
            way.run(ids, count)

    def _save(self) -> None:
        if self.folder is not None:
            self.results.save(self.folder)


def samples_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What the results keep of the samples."""
    return [{"id": sample.id, "data": sample.data, "category": sample.category} for sample in samples]


def _at(tokens: Sequence[int], position: int) -> int | None:
    return tokens[position] if position < len(tokens) else None
