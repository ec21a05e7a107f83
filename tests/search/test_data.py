import hashlib

import pytest

from conflayers import InputError
from conflayers.search.data import read_prompts, read_task

GOOD = '{"prompt": "one"}\n\n{"turns": ["two", "more"], "category": "x"}\n{"prompt": "drei \u00fc"}'


def test_prompts_and_first_turns_are_read_with_their_lines(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(GOOD, encoding="utf-8")
    found = read_prompts(file)
    assert found.prompts == ("one", "two", "drei \u00fc")
    assert found.lines == (1, 3, 4)
    assert found.name == "prompts.jsonl"
    assert found.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert read_prompts(file, 2).prompts == ("one", "two")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"not json", "not JSON"),
        (b'["a"]', "must be a JSON object"),
        (b'{"text": "a"}', "either 'prompt' or 'turns'"),
        (b'{"prompt": "a", "turns": ["b"]}', "either 'prompt' or 'turns'"),
        (b'{"prompt": ""}', "'prompt' must be a text that is not empty"),
        (b'{"prompt": 3}', "not 3"),
        (b'{"turns": []}', "'turns' must be a list"),
        (b'{"turns": "a"}', "'turns' must be a list"),
        (b'{"turns": [null]}', "the first of 'turns' must be a text"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_line_is_named_with_its_file_even_behind_the_limit(tmp_path, line, complaint):
    file = tmp_path / "p.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"p\.jsonl, line 2: ") as caught:
        read_prompts(file, 1)
    assert complaint in str(caught.value)


def test_a_file_without_prompts_and_no_file_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match=r"no prompts in .*empty.jsonl"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match=r"cannot read the prompts in .*none.jsonl: No such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="limit must be"):
        read_prompts(tmp_path / "empty.jsonl", 0)


def test_a_data_set_by_its_name_and_a_file_that_has_it(tmp_path, monkeypatch):
    found = read_task("prompts", 3)
    assert found.name == "prompts"
    assert found.lines == (1, 2, 3)
    assert all(found.prompts)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").write_text('{"prompt": "mine"}\n')
    assert read_task("prompts").prompts == ("mine",)
