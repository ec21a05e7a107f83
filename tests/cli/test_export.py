"""Exported folders: transformers takes their `generate`, and it says what the model's own says."""

import copy
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import transformers
from cli.conftest import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, pipeline

import conflayers
from conflayers.errors import InputError, PlanError
from conflayers.exported import KEY, generate_with

SEARCH = ("--option", "interval=3", "--option", "context_window=8", "--option", "fallback=false")
IDS = torch.tensor([[5, 17, 33, 60, 44, 91, 100]])
GREEDY = {"do_sample": False, "max_new_tokens": 24}


@pytest.fixture
def quiet():
    """transformers draws bars while it loads."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture
def exported(run, model, tmp_path, quiet):
    folder = tmp_path / "fast"
    result = run("export", str(folder), "--model", model, *SEARCH, "--stats", str(tmp_path / "stats.jsonl"))
    assert result.exit_code == 0, result.stderr
    return folder


def requests(folder: Path) -> list[dict]:
    """The statistics of the requests that our code has served."""
    file = folder.parent / "stats.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_new_folder_holds_model_code_and_settings(exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}

    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert names >= {"conflayers.json", "custom_generate/generate.py"}
    settings = json.loads((exported / "conflayers.json").read_text())
    assert settings["options"] == {"interval": 3, "context_window": 8, "fallback": False}
    assert exported.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in exported.parent.iterdir()] == ["fast"]
    assert len(conflayers.load(exported).generate([5, 6, 7], max_new_tokens=4).token_ids) == 4


def test_generate_is_replaced_where_the_code_is_trusted(exported):
    plain = AutoModelForCausalLM.from_pretrained(exported)
    expected = plain.generate(IDS, **GREEDY)
    assert not requests(exported)
    ours = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)

    assert torch.equal(ours.generate(IDS, **GREEDY), expected)
    assert torch.equal(ours.generate(inputs=IDS, **GREEDY), expected)
    assert torch.equal(plain.generate(IDS, custom_generate=str(exported), trust_remote_code=True, **GREEDY), expected)
    assert [served["new_tokens"] for served in requests(exported)] == [24, 24, 24]
    assert requests(exported)[0]["num_draft_tokens"] > 0


def test_a_pipeline_uses_it(exported):
    arguments = {"max_new_tokens": 24, "do_sample": False}
    expected = pipeline("text-generation", model=str(exported))("the sky is", **arguments)
    ours = pipeline("text-generation", model=str(exported), trust_remote_code=True)("the sky is", **arguments)

    assert ours == expected
    assert [served["new_tokens"] for served in requests(exported)] == [24]


def test_streamers_tokenizers_stop_strings_and_caches_reach_it(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    plain = AutoModelForCausalLM.from_pretrained(exported)
    ours = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    words = [tokenizer.decode(token) for token in plain.generate(IDS, **GREEDY)[0, IDS.shape[1] :].tolist()]
    word = [word for word in words if word.isascii() and word.strip()][-1]
    config = transformers.GenerationConfig(**GREEDY, stop_strings=[word])
    expected = plain.generate(IDS, tokenizer=tokenizer, stop_strings=word, **GREEDY)
    assert torch.equal(ours.generate(IDS, tokenizer=tokenizer, stop_strings=word, **GREEDY), expected)
    assert torch.equal(ours.generate(IDS, config, tokenizer=tokenizer), expected)
    assert config.stop_strings == [word]

    ours.generation_config.stop_strings = word
    assert torch.equal(ours.generate(IDS, tokenizer=tokenizer, **GREEDY), expected)
    assert ours.generation_config.stop_strings == word
    with pytest.raises(InputError, match="stop_strings needs a tokenizer"):
        ours.generate(IDS, **GREEDY)
    ours.generation_config.stop_strings = None

    streamer, cache = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True), DynamicCache(config=ours.config)
    ours.generate(IDS, streamer=streamer, past_key_values=cache, **GREEDY)
    assert "".join(streamer) == tokenizer.decode(plain.generate(IDS, **GREEDY)[0, IDS.shape[1] :])
    assert cache.get_seq_length() == IDS.shape[1] + 23
    with pytest.raises(InputError, match="num_beams"):
        ours.generate(IDS, num_beams=2, **GREEDY)
    with pytest.raises(InputError, match="assistant_model"):
        ours.generate(IDS, assistant_model=plain, **GREEDY)


def test_the_model_can_be_copied_and_let_go(exported):
    import gc
    import weakref

    ours = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    expected = ours.generate(IDS, **GREEDY)
    twin = copy.deepcopy(ours)
    assert twin.__dict__[KEY] is None
    assert torch.equal(twin.generate(IDS, **GREEDY), expected)
    gone = weakref.ref(ours)
    del ours
    gc.collect()
    assert gone() is None


def test_a_folder_that_is_there_gets_the_code_and_the_plan(run, tmp_path, quiet):
    folder, file = save_model(tmp_path / "mine", 0), tmp_path / "plan.json"
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    llm = conflayers.load(folder)
    llm.save_plan(file, conflayers.Plan.layers([2, 3]))
    options = ("--method", "fixed", "--plan", str(file), "--stats", str(tmp_path / "stats.jsonl"))
    assert run("export", str(folder), *options).exit_code == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert json.loads((folder / "conflayers_plan.json").read_text()) == json.loads(file.read_text())

    file.unlink()
    expected = llm.model.generate(IDS, **GREEDY)
    ours = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(ours.generate(IDS, **GREEDY), expected)
    assert requests(folder)[0]["plan"] == "skips layers 2, 3"

    # Again with other settings, as its own files are no obstacle; transformers must notice that the code changed.
    assert run("export", str(folder), "--method", "vanilla", *options[4:]).exit_code == 0
    assert not (folder / "conflayers_plan.json").exists()
    ours = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(ours.generate(IDS, **GREEDY), expected)
    assert requests(folder)[-1]["num_draft_tokens"] == 0


def test_a_plan_of_another_model_is_refused(run, model, other_model, tmp_path):
    llm = conflayers.load(other_model)
    llm.save_plan(tmp_path / "plan.json", conflayers.Plan.layers([2]))
    options = ("--model", model, "--method", "fixed", "--plan", str(tmp_path / "plan.json"))
    result = run("export", str(tmp_path / "new"), *options)

    assert result.exit_code == 2
    assert "made for another model" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    settings = {"method": "fixed", "options": {}, "stats": None, "format": 1}
    document = json.loads((tmp_path / "plan.json").read_text())
    with pytest.raises(PlanError, match="made for another model"):
        generate_with({**settings, "plan": document}, conflayers.load(model).model, IDS, **GREEDY)
    with pytest.raises(InputError, match="exported in format 2"):
        generate_with({**settings, "format": 2, "plan": None}, llm.model, IDS, **GREEDY)


def test_dtype_is_that_of_the_written_model(run, model, tmp_path):
    assert run("export", str(tmp_path / "small"), "--model", model, "--dtype", "bfloat16").exit_code == 0
    assert conflayers.load(tmp_path / "small").model.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/none",), "not a model folder: name the model to write there with --model"),
        (("{tmp}/full", "--model", "{model}"), "is not empty: choose another folder"),
        (("{tmp}/full", "--model", "{model}", "--overwrite"), "is not a model folder, and nothing else is replaced"),
        (("{tmp}/full/note.txt", "--model", "{model}"), "it is a file"),
        (("{tmp}/none/new", "--model", "{model}"), "there is no folder"),
        (("{tmp}/foreign",), "is there and not ours"),
        (("{tmp}/new", "--model", "{model}", "--method", "conflayer"), "did you mean 'conflayers'"),
        (("{tmp}/new", "--model", "{model}", "--option", "intervall=3"), "did you mean 'interval'"),
        (("{tmp}/new", "--model", "{model}", "--plan", "{tmp}/plan.json"), "no plan file"),
        (("{tmp}/foreign", "--dtype", "float32"), "--dtype and --revision belong to --model"),
        (("{tmp}/new", "--model", "{model}", "--stats", "{tmp}/none/stats"), "there is no folder"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is(run, model, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "foreign" / "custom_generate").mkdir(parents=True)
    (tmp_path / "foreign" / "config.json").write_text("{}")
    (tmp_path / "foreign" / "custom_generate" / "generate.py").write_text("def generate(model): ...\n")
    before = sorted(tmp_path.rglob("*"))
    result = run("export", *(part.format(tmp=tmp_path, model=model) for part in arguments))

    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_folder_is_replaced_when_told(run, exported, other_model):
    (exported / "left.txt").write_text("of the old one")
    assert run("export", str(exported), "--model", other_model, "--overwrite").exit_code == 0
    assert not (exported / "left.txt").exists()
    expected = conflayers.load(other_model).body.identity
    assert conflayers.load(exported).body.identity == expected
    assert [path.name for path in exported.parent.iterdir()] == ["fast"]


def test_statistics_that_cannot_be_written_do_not_cost_the_answer(exported):
    ours = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    (exported.parent / "stats.jsonl").mkdir()
    with pytest.warns(UserWarning, match="cannot append statistics"):
        assert ours.generate(IDS, **GREEDY).shape == (1, IDS.shape[1] + 24)


def test_without_the_package_the_folder_says_what_is_missing(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "conflayers.exported", None)
    with pytest.raises(ImportError, match="pip install conflayers"):
        AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)


# transformers serve


@pytest.fixture
def served(exported):
    """The address of `transformers serve` on the exported folder, as a user starts it."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", exported, "--trust-remote-code"]
    log = (exported.parent / "serve.log").open("w")
    process = subprocess.Popen(
        [*map(str, command), "--device", "cpu", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    address = f"http://localhost:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (exported.parent / "serve.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def ask(address: str, **body) -> str:
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_transformers_serve_uses_it(exported, served):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    inputs = tokenizer("the sky is", return_tensors="pt")
    plain = AutoModelForCausalLM.from_pretrained(exported)
    expected = plain.generate(**inputs, do_sample=False, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
    body = {"model": str(exported), "prompt": "the sky is", "max_tokens": 24, "temperature": 0}

    whole = json.loads(ask(served, **body))["choices"][0]
    assert whole["text"] == tokenizer.decode(expected, skip_special_tokens=True)
    lines = ask(served, stream=True, **body).splitlines()
    pieces = [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {")]
    # The server keeps back a last character that is not whole.
    assert len(pieces) > 5
    assert whole["text"].startswith("".join(pieces))
    stop = next(word for word in map(tokenizer.decode, expected.tolist()) if word.isascii() and word.strip())
    ended = json.loads(ask(served, stop=[stop], **body))["choices"][0]
    assert whole["text"].startswith(ended["text"].removesuffix(stop))
    assert [request["new_tokens"] for request in requests(exported)][:2] == [24, 24]
    assert requests(exported)[2]["new_tokens"] < 24
    assert all(request["num_draft_tokens"] > 0 for request in requests(exported)[:2])
