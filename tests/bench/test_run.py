"""The runner, with ways to decode whose times are known."""

import json
from collections import Counter
from itertools import pairwise

import pytest

from conflayers.bench.data import Sample
from conflayers.bench.order import order
from conflayers.bench.record import Difference
from conflayers.bench.results import FILE, Results
from conflayers.bench.run import Benchmark, samples_of
from conflayers.bench.ways import Answer
from conflayers.errors import InputError
from conflayers.stats import Stats

SAMPLES = [Sample("one", "d", "x", ("a", "b")), Sample("two", "d", "y", ("cc",)), Sample("three", "d", "x", ("ddd",))]


class Letters:
    """A token a letter; the model prefers smaller tokens by as much as they are smaller."""

    context = 40

    def encode(self, turns):
        return [ord(letter) for letter in "|".join(turns)]

    def warm_up(self, ids, count):
        pass

    def text(self, ids):
        return "".join(map(chr, ids))

    def gap(self, ids, better, other):
        return float(other - better)


class Timed:
    """Takes `seconds` a token and says the prompt backwards; `wrong` has the last token replaced."""

    same_text = True

    def __init__(self, name, seconds, log, wrong=False, fails_at=None):
        self.name, self.seconds, self.log, self.wrong, self.fails_at = name, seconds, log, wrong, fails_at
        self.begun = 0

    def begin(self):
        self.begun += 1

    def run(self, ids, count):
        if self.fails_at is not None and len(self.log) >= self.fails_at:
            raise KeyboardInterrupt
        self.log.append((self.name, "".join(map(chr, ids))))
        tokens = list(reversed(ids))[:count]
        if self.wrong:
            tokens[-1] += 3
        seconds = self.seconds * len(tokens)
        return Answer(tokens, seconds, 0.1, Stats(new_tokens=len(tokens), total_seconds=seconds), None)


def results(ways, **settings):
    values = {"max_new_tokens": 8, "repeat": 1, "turns": False, **settings, "methods": [way.name for way in ways]}
    return Results(values, {}, samples_of(SAMPLES))


def test_methods_take_turns_and_the_order_changes():
    log = []
    ways = [Timed("vanilla", 1.0, log), Timed("a", 0.5, log), Timed("b", 2.0, log)]
    done = Benchmark(Letters(), SAMPLES, ways, results(ways)).run()
    warm, timed = log[:3], log[3:]
    assert [name for name, _ in warm] == ["vanilla", "a", "b"]
    names = [way.name for way in ways]
    assert [name for name, _ in timed] == [names[place] for request in range(3) for place in order(request, 3)]
    assert [text for _, text in timed] == ["a"] * 3 + ["cc"] * 3 + ["ddd"] * 3
    assert {row["method"]: row["speedup"] for row in done.rows if row["category"] == "all"} == pytest.approx(
        {"vanilla": 1.0, "a": 2.0, "b": 0.5}
    )
    # The warm-up is no record, and nothing of it is remembered.
    assert len(done.records) == 9
    assert all(way.begun == 2 for way in ways)


def test_dialogues_go_on_from_the_same_answer():
    log = []
    ways = [Timed("vanilla", 1.0, log), Timed("odd", 1.0, log, wrong=True)]
    done = Benchmark(Letters(), SAMPLES, ways, results(ways, turns=True)).run()
    second = [text for _, text in log if "|" in text]
    assert second == ["a|a|b"] * 2
    assert [(r.sample, r.turn) for r in done.records] == [(0, 0)] * 2 + [(0, 1)] * 2 + [(1, 0)] * 2 + [(2, 0)] * 2


def test_a_different_text_is_shown_with_where_and_by_how_much():
    ways = [Timed("vanilla", 1.0, []), Timed("odd", 1.0, [], wrong=True)]
    done = Benchmark(Letters(), SAMPLES[1:2], ways, results(ways)).run()
    odd = next(record for record in done.records if record.method == "odd")
    assert odd.identical is False
    assert odd.difference == Difference(1, ord("c") + 3, ord("c"), 3.0)
    assert next(record for record in done.records if record.method == "vanilla").identical is True


def test_an_interrupted_benchmark_goes_on(tmp_path):
    log = []
    ways = [Timed("vanilla", 1.0, log), Timed("a", 0.5, log, fails_at=7)]
    with pytest.raises(KeyboardInterrupt):
        Benchmark(Letters(), SAMPLES, ways, results(ways, repeat=2), tmp_path).run()
    kept = Results.load(tmp_path)
    assert 0 < len(kept.records) < 12
    before = [record.key for record in kept.records]
    log.clear()
    ways = [Timed("vanilla", 1.0, log), Timed("a", 0.5, log)]
    done = Benchmark(Letters(), SAMPLES, ways, kept, tmp_path).run()
    assert [record.key for record in done.records][: len(before)] == before
    assert len({record.key for record in done.records}) == len(done.records) == 12
    assert done.restarts == [len(before)]
    assert len(log) == 2 + 12 - len(before)
    assert Results.load(tmp_path).as_dict() == done.as_dict()
    log.clear()
    Benchmark(Letters(), SAMPLES, ways, Results.load(tmp_path), tmp_path).run()
    assert log == []


def test_more_repeats_are_no_interruption(tmp_path):
    ways = [Timed("vanilla", 1.0, []), Timed("a", 0.5, [])]
    done = Benchmark(Letters(), SAMPLES, ways, results(ways), tmp_path).run()
    done.settings["repeat"] = 3
    more = Benchmark(Letters(), SAMPLES, ways, done, tmp_path).run()
    assert more.restarts == []
    assert len(more.records) == 18


def test_what_the_code_or_the_machine_was_has_to_be_the_same(tmp_path):
    ways = [Timed("vanilla", 1.0, [])]
    kept = Benchmark(Letters(), SAMPLES, ways, results(ways), tmp_path).run()
    kept.provenance = {"git": "abc", "processor": "p", "started": "then"}
    kept.check_same_machine({"git": "abc", "processor": "p", "started": "now"}, tmp_path)
    with pytest.raises(InputError, match="begun with git 'abc', not 'def'"):
        kept.check_same_machine({"git": "def", "processor": "p"}, tmp_path)


def test_each_repeat_begins_with_nothing_learnt():
    ways = [Timed("vanilla", 1.0, []), Timed("a", 1.0, [])]
    Benchmark(Letters(), SAMPLES, ways, results(ways, repeat=3)).run()
    assert [way.begun for way in ways] == [4, 4]


def test_prompts_that_leave_no_room_are_left_out_and_named():
    log = []
    ways = [Timed("vanilla", 1.0, log), Timed("a", 1.0, log)]
    samples = [Sample("endless", "d", "x", ("e" * 40,)), *SAMPLES, Sample("tight", "d", "x", ("e" * 38,))]
    done = Benchmark(Letters(), samples, ways, results(ways)).run()
    assert done.left_out == [{"sample": 0, "data": "d", "id": "endless", "turn": 0, "tokens": 40}]
    assert {record.sample for record in done.records} == {1, 2, 3, 4}
    assert len(done.records[-1].token_ids) == 2
    assert done.rows[0]["requests"] == 4
    with pytest.raises(InputError, match="every prompt is longer than the model's context of 40 tokens"):
        Benchmark(Letters(), samples[:1], ways, results(ways)).run()


def test_a_dialogue_ends_where_there_is_no_more_room(tmp_path):
    ways = [Timed("vanilla", 1.0, []), Timed("a", 1.0, [])]
    samples = [Sample("long", "d", "x", ("a" * 10, "b" * 20, "c")), SAMPLES[0]]
    done = Benchmark(Letters(), samples, ways, results(ways, turns=True, repeat=2), tmp_path).run()
    assert done.left_out == [{"sample": 0, "data": "d", "id": "long", "turn": 1, "tokens": 10 + 1 + 8 + 1 + 20}]
    asked = [(record.repeat, record.sample, record.turn) for record in done.records]
    assert asked == [
        key for repeat in range(2) for key in [(repeat, 0, 0)] * 2 + [(repeat, 1, 0)] * 2 + [(repeat, 1, 1)] * 2
    ]
    again = Benchmark(Letters(), samples, ways, Results.load(tmp_path), tmp_path).run()
    assert again.as_dict() == done.as_dict()


@pytest.mark.parametrize("count", range(1, 9))
def test_every_method_stands_and_follows_equally_often(count):
    rows = count * (1 + count % 2)
    orders = [order(request, count) for request in range(2 * rows)]
    assert all(sorted(one) == list(range(count)) for one in orders)
    for place in range(count):
        assert Counter(one[place] for one in orders) == dict.fromkeys(range(count), 2 * rows // count)
    pairs = Counter(pair for one in orders for pair in pairwise(one))
    assert len(set(pairs.values())) <= 1
    assert len(pairs) == count * (count - 1)


def test_results_of_another_benchmark_are_refused(tmp_path):
    ways = [Timed("vanilla", 1.0, [])]
    kept = Benchmark(Letters(), SAMPLES, ways, results(ways), tmp_path).run()
    kept.check_same({**kept.settings, "repeat": 5}, tmp_path)
    with pytest.raises(InputError, match="max_new_tokens 8, not 9"):
        kept.check_same({**kept.settings, "max_new_tokens": 9}, tmp_path)


def changed(document, **values):
    """The document with its first record changed."""
    return {**document, "records": [{**document["records"][0], **values}, *document["records"][1:]]}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda document: {**document, "format": 99}, "has format 99, and this version reads 1"),
        (lambda document: {**document, "records": [{}]}, "damaged"),
        (lambda document: {**document, "rows": 3}, "rows is not a list"),
        (lambda document: {**document, "memory": []}, "memory is not a dict"),
        (lambda document: {**document, "memory": {"vanilla": 3}}, "what is no object"),
        (lambda document: {**document, "restarts": 5}, "restarts is not a list"),
        (lambda document: {**document, "settings": {}}, "lack methods or repeats"),
        (lambda document: {**document, "samples": []}, "belongs to no sample"),
        (lambda document: {**document, "records": document["records"] * 2}, "answered twice"),
        (lambda document: changed(document, seconds="x"), "no count and no time"),
        (lambda document: changed(document, seconds=float("nan")), "no count and no time"),
        (lambda document: changed(document, seconds=-1), "no count and no time"),
        (lambda document: changed(document, token_ids="abc"), "no list of tokens"),
        (lambda document: changed(document, method=3), "a name is no text"),
        (lambda document: [], "has format None"),
    ],
)
def test_damaged_results_are_refused(tmp_path, damage, said):
    ways = [Timed("vanilla", 1.0, [])]
    document = Benchmark(Letters(), SAMPLES, ways, results(ways), tmp_path).run().as_dict()
    (tmp_path / FILE).write_text(json.dumps(damage(document)))
    with pytest.raises(InputError, match=said):
        Results.load(tmp_path)


def test_no_results_and_no_json(tmp_path):
    with pytest.raises(InputError, match="there are no results in"):
        Results.load(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Results.load(tmp_path)


def test_a_full_disk_keeps_the_earlier_results(tmp_path, monkeypatch):
    ways = [Timed("vanilla", 1.0, [])]
    Benchmark(Letters(), SAMPLES[:1], ways, results(ways), tmp_path).run()
    before = (tmp_path / FILE).read_text()

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("conflayers.bench.results.write_whole", full)
    with pytest.raises(InputError, match=r"cannot write the results to .*No space left on device"):
        Benchmark(Letters(), SAMPLES, ways, results(ways), tmp_path).run()
    assert (tmp_path / FILE).read_text() == before
