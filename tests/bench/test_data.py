import hashlib
import json
from importlib.resources import files

import pytest

from conflayers import InputError
from conflayers.bench.data import DATA_SETS, Sample, read_data
from conflayers.bench.sources import SOURCES


def write(path, *lines):
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def test_own_prompts_come_with_the_package():
    data = read_data("prompts")
    assert data.name == "prompts"
    assert data.digest == hashlib.sha256((files("conflayers.bench") / "prompts.jsonl").read_bytes()).hexdigest()
    assert len(data.samples) == 12
    assert len({sample.id for sample in data.samples}) == 12
    categories = [sample.category for sample in data.samples]
    assert categories[:6] == ["writing", "coding", "reasoning", "summarisation", "translation", "dialogue"]
    assert categories[6:] == categories[:6]
    assert {len(sample.turns) for sample in data.samples if sample.category == "dialogue"} == {2}
    assert all(sample.reference for sample in data.samples if sample.category in ("summarisation", "translation"))
    assert {sample.data for sample in data.samples} == {"prompts"}


def test_every_name_of_the_table_has_somebody_who_reads_it():
    assert set(DATA_SETS) == {"prompts", "humaneval", *SOURCES}


def test_a_file_keeps_all_turns_and_what_else_a_line_says(tmp_path):
    source = write(
        tmp_path / "questions.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["one", "two"], "reference": ["first", "second"]},
        {"task_id": "T/1", "prompt": "three", "reference": "a text"},
        {"prompt": "four", "reference": [], "category": None},
        {"id": "x", "question_id": 7, "prompt": "five", "reference": ""},
    )
    data = read_data(source)
    assert data.name == "questions.jsonl"
    assert data.digest == hashlib.sha256((tmp_path / "questions.jsonl").read_bytes()).hexdigest()
    name = "questions.jsonl"
    assert data.samples == (
        Sample("81", name, "writing", ("one", "two"), "first"),
        Sample("T/1", name, name, ("three",), "a text"),
        Sample("3", name, name, ("four",)),
        Sample("x", name, name, ("five",)),
    )


def test_categories_take_turns_so_that_every_limit_spreads_and_goes_on_where_a_lower_one_stopped(tmp_path):
    lines = [{"id": f"{name}{index}", "category": name, "prompt": "p"} for name in "abc" for index in range(3)]
    source = write(tmp_path / "p.jsonl", *lines[:-2], {"id": "a3", "category": "a", "prompt": "p"})
    every = [sample.id for sample in read_data(source).samples]
    assert every == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3"]
    whole = read_data(source)
    for limit in range(1, 10):
        data = read_data(source, limit)
        assert data.samples == whole.samples[:limit]
        assert data.digest == whole.digest


def test_without_categories_the_first_ones_are_taken(tmp_path):
    source = write(tmp_path / "p.jsonl", *({"prompt": f"p{index}"} for index in range(5)))
    assert [sample.turns for sample in read_data(source, 3).samples] == [("p0",), ("p1",), ("p2",)]
    assert read_data(source, 3, seed=5) == read_data(source, 3)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"prompt": "a", "id": [1]}, "'id' must be a text or a whole number, not [1]"),
        ({"prompt": "a", "question_id": True}, "'question_id' must be"),
        ({"prompt": "a", "task_id": ""}, "'task_id' must be"),
        ({"prompt": "a", "category": 3}, "'category' must be a text"),
        ({"prompt": "a", "category": ""}, "'category' must be a text"),
        ({"prompt": "a", "reference": 3}, "'reference' must be a text or a list of texts, not 3"),
        ({"prompt": "a", "reference": [["b"]]}, "'reference' must be"),
        ({"turns": ["a", ""]}, "number 2 of 'turns' must be a text"),
        ({"turns": ["a", "b", None]}, "number 3 of 'turns' must be a text"),
        ({"prompt": "half \ud83d"}, "'prompt' holds half a character at 5"),
        ({"text": "a"}, "either 'prompt' or 'turns'"),
        ([], "must be a JSON object"),
    ],
)
def test_a_wrong_line_is_named_with_its_file_even_behind_the_limit(tmp_path, line, complaint):
    source = write(tmp_path / "p.jsonl", {"prompt": "a"}, line)
    with pytest.raises(InputError, match=r"p\.jsonl, line 2: ") as caught:
        read_data(source, 1)
    assert complaint in str(caught.value)


def test_a_mark_before_the_text_and_lines_of_windows_are_read(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "one"}\r\n\r\n{"prompt": "two"}\r\n')
    assert [sample.turns[0] for sample in read_data(str(tmp_path / "p.jsonl")).samples] == ["one", "two"]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
@pytest.mark.parametrize("source", ["prompts", "humaneval", "gsm8k", "nowhere"])
def test_a_limit_that_takes_nothing_is_refused(source, limit):
    with pytest.raises(InputError, match="limit must be a whole number of 1 or more"):
        read_data(source, limit)


def test_a_wrong_seed_is_refused():
    with pytest.raises(InputError, match="seed must be a whole number of 0 or more, not -1"):
        read_data("prompts", seed=-1)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("promts", "prompts"), ("GSM8K", "gsm8k"), ("human-eval", "humaneval"), ("cnn_dm", "cnndm")]
)
def test_the_nearest_data_set_is_named_and_what_can_be_had_offline(wrong, meant):
    with pytest.raises(InputError, match=f"no data set or file '{wrong}' .did you mean '{meant}'") as caught:
        read_data(wrong)
    assert all(name in str(caught.value) for name in DATA_SETS)
    assert "without a network there are 'prompts'" in str(caught.value)


def test_the_nearest_file_is_named(tmp_path):
    write(tmp_path / "questions.jsonl", {"prompt": "a"})
    with pytest.raises(InputError, match=r"did you mean '.*questions\.jsonl'"):
        read_data(str(tmp_path / "question.jsonl"))


@pytest.mark.parametrize("source", ["", "/no/such/folder/file", "a\0b"])
def test_nothing_near_is_no_hint(source):
    with pytest.raises(InputError, match="no data set or file") as caught:
        read_data(source)
    assert "did you mean" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the prompts in .*: Is a directory"):
        read_data(str(tmp_path))
