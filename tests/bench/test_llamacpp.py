"""llama.cpp as a peer, with a double in place of the package, which takes long to build and is never required."""

import sys
from types import ModuleType

import pytest
from planted import planted_model

import conflayers
from conflayers.bench.spec import make_ways
from conflayers.errors import InputError


class Engine:
    """Says 7, 8, 9, ... after any prompt."""

    made: list[tuple[str, dict]] = []  # noqa: RUF012 - read by the tests below
    vocabulary = 0

    def __init__(self, path, **options):
        if "broken" in path:
            raise ValueError("no such format")
        Engine.made.append((path, options))
        self.path = path
        self.resets = 0

    def reset(self):
        self.resets += 1

    def n_vocab(self):
        return 5 if "other" in self.path else Engine.vocabulary

    def generate(self, ids, *, temp, repeat_penalty, reset):
        assert (temp, repeat_penalty, reset) == (0.0, 1.0, True)
        yield from range(7, 1000)


@pytest.fixture
def llm(monkeypatch):
    package = ModuleType("llama_cpp")
    package.Llama = Engine
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    llm = conflayers.Llm(planted_model([], layers=4))
    Engine.vocabulary = llm.body.vocab_size
    return llm


def test_tokens_end_with_the_text_or_the_count(llm, tmp_path):
    file = tmp_path / "model.gguf"
    file.touch()
    llm.model.generation_config.eos_token_id = 11
    (way,) = make_ways(llm, [f"llamacpp:file={file}"], {}, False)
    way.begin()
    assert way.run([1, 2, 3], 3).token_ids == [7, 8, 9]
    answer = way.run([1, 2, 3], 50)
    assert answer.token_ids == [7, 8, 9, 10, 11]
    assert answer.stats.new_tokens == 5
    assert answer.stats.num_plain_steps == 4
    assert 0 < answer.first_token_seconds <= answer.seconds
    path, options = Engine.made[-1]
    assert path == str(file)
    assert options["n_ctx"] == llm.body.context


def test_what_is_missing_is_named(llm, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"there is none at nowhere\.gguf"):
        make_ways(llm, ["llamacpp:file=nowhere.gguf"], {}, False)
    broken = tmp_path / "broken.gguf"
    broken.touch()
    with pytest.raises(InputError, match=r"llama.cpp cannot load .*broken.gguf: no such format"):
        make_ways(llm, [f"llamacpp:file={broken}"], {}, False)
    other = tmp_path / "other.gguf"
    other.touch()
    with pytest.raises(InputError, match=r"of the same weights: .*other.gguf is of a model with 5 tokens"):
        make_ways(llm, [f"llamacpp:file={other}"], {}, False)
    with pytest.raises(InputError, match="compared greedily: leave out --temperature"):
        make_ways(llm, [f"llamacpp:file={broken}"], {"temperature": 0.5}, False)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(InputError, match="pip install llama-cpp-python"):
        make_ways(llm, [f"llamacpp:file={broken}"], {}, False)
