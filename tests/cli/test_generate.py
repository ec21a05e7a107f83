import json
from pathlib import Path

import pytest
import torch

import conflayers

PROMPT = ("--prompt", "the sky is")
LAYER_OPTIONS = ("--option", "interval=4", "--option", "context_window=8")
ROW = {
    "method",
    "tokens_per_second",
    "speedup",
    "mean_accepted_tokens",
    "acceptance_rate",
    "skip_ratio",
    "select_seconds",
    "identical",
    "new_tokens",
    "seconds",
}
DOCUMENT = {
    "model",
    "dtype",
    "device",
    "threads",
    "versions",
    "prompt_tokens",
    "text",
    "token_ids",
    "decisions",
    "plan",
    "rows",
}


def test_text_streams_to_stdout_and_statistics_to_stderr(run, model):
    result = run("generate", model, *PROMPT, "--max-new-tokens", "24", *LAYER_OPTIONS)
    assert result.exit_code == 0
    expected = conflayers.load(model).generate("the sky is", method="vanilla", max_new_tokens=24)
    assert result.stdout == expected.text + "\n"
    assert "24 tokens in" in result.stderr
    assert "tokens/s" in result.stderr


def test_json_is_one_line_with_every_field(run, model):
    result = run("generate", model, *PROMPT, "--max-new-tokens", "8", "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert set(document) >= DOCUMENT
    assert document["dtype"] == "float32"
    assert document["prompt_tokens"] > 0
    assert len(document["token_ids"]) == 8
    [row] = document["rows"]
    assert set(row) >= ROW
    assert (row["method"], row["new_tokens"]) == ("auto", 8)
    assert row["speedup"] is None
    assert row["identical"] is None


def test_statistics_of_the_request_are_in_the_document(run, model):
    result = run(
        "generate", model, *PROMPT, "--max-new-tokens", "40", *LAYER_OPTIONS, "--option", "fallback=false", "--json"
    )
    statistics = json.loads(result.stdout)["statistics"]
    histogram = {int(length): count for length, count in statistics["acceptance_histogram"].items()}
    assert sum(histogram.values()) == statistics["num_spec_steps"] > 0
    assert sum(k * v for k, v in histogram.items()) == statistics["num_accepted_draft_tokens"]
    assert sum(statistics["num_accepted_tokens_per_pos"]) == statistics["num_accepted_draft_tokens"]
    parts = [statistics[f"{phase}_seconds"] for phase in ("prefill", "draft", "verify", "select")]
    assert min(parts) >= 0
    assert sum(parts) <= statistics["total_seconds"] * 1.001


def test_a_seed_gives_the_same_text_by_every_method(run, model):
    sampled = ("--temperature", "1.5", "--top-p", "0.95", "--seed", "7", "--max-new-tokens", "40")
    texts = [
        run("generate", model, *PROMPT, *sampled, *arguments).stdout
        for arguments in (("--method", "vanilla"), LAYER_OPTIONS, (*LAYER_OPTIONS, "--option", "fallback=false"))
    ]
    other = run("generate", model, *PROMPT, *sampled, "--seed", "8", "--method", "vanilla").stdout
    assert texts[0] == texts[1] == texts[2] != other


def test_text_ends_at_a_stop_text(run, model):
    whole = run("generate", model, *PROMPT, "--max-new-tokens", "40").stdout.rstrip("\n")
    stop = whole[10:13]
    result = run("generate", model, *PROMPT, "--max-new-tokens", "40", "--stop", "never there", "--stop", stop)
    assert result.stdout == whole[: whole.index(stop) + len(stop)] + "\n"


def test_settings_of_greedy_decoding_are_compared_too(run, model):
    settings = ("--option", "repetition_penalty=1.3", "--option", "no_repeat_ngram_size=2", "--stop", "zz")
    result = run("generate", model, *PROMPT, "--max-new-tokens", "32", *settings, "--compare", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert all(row["identical"] is True for row in rows)
    plain = run("generate", model, *PROMPT, "--max-new-tokens", "32", "--json")
    assert json.loads(plain.stdout)["token_ids"] != json.loads(result.stdout)["token_ids"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--temperature", "0.7", "--compare"), "--compare is of greedy decoding"),
        (("--seed", "3"), "seed needs sampling"),
        (("--temperature", "0.7", "--option", "temperature=1"), "temperature is given both"),
        (
            ("--method", "conflayers", "--option", "draft_length=7", "--option", "confidence_stop=0.5"),
            "confidence_stop belongs to",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_a_model_is_loaded(run, arguments, complaint):
    result = run("generate", "/nowhere", *PROMPT, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_comparison_finds_the_same_tokens(run, model, variant):
    result = run(
        "generate",
        model,
        *PROMPT,
        "--max-new-tokens",
        "48",
        "--variant",
        variant,
        *LAYER_OPTIONS,
        "--compare",
        "--json",
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert [row["method"] for row in document["rows"]] == ["vanilla", "hf", "conflayers"]
    assert all(row["identical"] is True for row in document["rows"])
    assert all(row["new_tokens"] == 48 and row["tokens_per_second"] > 0 for row in document["rows"])
    plain, hf, ours = document["rows"]
    assert plain["speedup"] == 1
    assert (hf["mean_accepted_tokens"], hf["acceptance_rate"], hf["skip_ratio"], hf["select_seconds"]) == (1, 0, 0, 0)
    assert ours["speedup"] == pytest.approx(ours["tokens_per_second"] / plain["tokens_per_second"])
    assert document["options"]["variant"] == variant


def test_comparison_prints_a_table_and_what_it_came_to(run, model):
    result = run("generate", model, *PROMPT, "--max-new-tokens", "40", *LAYER_OPTIONS, "--compare", "--repeat", "2")
    assert result.exit_code == 0
    for word in ("plain decoding", "transformers", "auto", "identical", "yes", "the speed of plain decoding"):
        assert word in " ".join(result.stdout.split())
    rows = [line for line in result.stdout.splitlines() if line.rstrip().endswith("yes")]
    assert len(rows) == 3
    assert max(map(len, rows)) < 80


def test_comparison_of_plain_decoding_has_two_rows(run, model):
    result = run("generate", model, *PROMPT, "--max-new-tokens", "8", "--method", "vanilla", "--compare", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [row["method"] for row in rows] == ["vanilla", "hf"]


def test_a_saved_plan_is_used_again(run, model, tmp_path):
    file = tmp_path / "plan.json"
    always = ("--method", "conflayers", "--option", "fallback=false")
    saved = run("generate", model, *PROMPT, "--max-new-tokens", "8", *always, "--save-plan", str(file), "--json")
    assert saved.exit_code == 0
    assert f"plan saved to {file}" in saved.stderr
    plan = json.loads(saved.stdout)["plan"]
    assert plan["skip_mlp"]
    for method in ("conflayers", "fixed"):
        again = run(
            "generate", model, *PROMPT, "--max-new-tokens", "8", "--method", method, "--plan", str(file), "--json"
        )
        assert again.exit_code == 0
    assert json.loads(again.stdout)["plan"] == plan
    assert json.loads(again.stdout)["rows"][0]["skip_ratio"] > 0


def test_plain_decoding_leaves_no_plan_to_save(run, model, tmp_path):
    file = tmp_path / "plan.json"
    told = run("generate", "/nowhere", *PROMPT, "--method", "vanilla", "--save-plan", str(file))
    assert told.exit_code == 2
    assert "--save-plan has nothing to save" in told.stderr
    found = run("generate", model, *PROMPT, "--max-new-tokens", "4", "--save-plan", str(file))
    assert found.exit_code == 0
    assert "no plan saved" in found.stderr
    assert not file.exists()


@pytest.mark.parametrize("name", ["plan", "name", "layers"])
def test_an_option_by_the_name_of_an_argument_is_refused_in_words(run, name):
    result = run("generate", "/nowhere", *PROMPT, "--option", f"{name}=1")
    assert result.exit_code == 2
    assert name in result.stderr


def test_a_prompt_that_is_not_text_is_refused_in_words(run, model):
    result = run("generate", model, "--prompt", "\udcff", "--max-new-tokens", "4")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_prompts_come_from_files_and_standard_input(run, model, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("the sky is", encoding="utf-8")
    arguments = ("--max-new-tokens", "8", "--json")
    documents = [
        json.loads(run("generate", model, *given, *arguments, input="the sky is").stdout)
        for given in (PROMPT, ("--prompt-file", str(file)), ("--prompt-file", "-"))
    ]
    assert documents[0]["token_ids"] == documents[1]["token_ids"] == documents[2]["token_ids"]


def test_threads_are_set(run, model):
    before = torch.get_num_threads()
    try:
        result = run("generate", model, *PROMPT, "--max-new-tokens", "2", "--threads", "1", "--json")
    finally:
        torch.set_num_threads(before)
    assert json.loads(result.stdout)["threads"] == 1


def test_bfloat16_is_loaded_as_asked(run, model):
    result = run("generate", model, *PROMPT, "--max-new-tokens", "4", "--dtype", "bfloat16", "--json")
    assert json.loads(result.stdout)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", ""), "the prompt is empty"),
        ((), "--prompt or --prompt-file"),
        (("--prompt", "a", "--prompt-file", "b"), "--prompt or --prompt-file"),
        (("--prompt-file", "nowhere.txt"), "nowhere.txt"),
        (("--prompt", "the sky is " * 200), "context"),
        ((*PROMPT, "--max-new-tokens", "1000"), "context"),
        ((*PROMPT, "--max-new-tokens", "-1"), "--max-new-tokens"),
        ((*PROMPT, "--threads", "0"), "--threads"),
        ((*PROMPT, "--method", "conflayer"), "did you mean 'conflayers'"),
        ((*PROMPT, "--method", "fixed"), "needs a plan"),
        ((*PROMPT, "--method", "swift", "--option", "skip_ration=0.3"), "did you mean 'skip_ratio'"),
        ((*PROMPT, "--variant", "paper", "--option", "skip_ratio=2"), "between 0 and 1"),
        ((*PROMPT, "--option", "draft_length=4"), "no option 'draft_length' (it belongs to conflayers, swift"),
        ((*PROMPT, "--option", "skip_ratio=much"), "error: "),
        ((*PROMPT, "--option", "skip_ratio"), "NAME=VALUE"),
        ((*PROMPT, "--variant", "paper", "--option", "variant=default"), "twice"),
        ((*PROMPT, "--dtype", "int3"), "int3"),
        ((*PROMPT, "--device", "abacus"), "abacus"),
        ((*PROMPT, "--repeat", "3"), "--compare"),
        ((*PROMPT, "--compare", "--max-new-tokens", "0"), "--compare"),
        ((*PROMPT, "--chat"), "chat template"),
        ((*PROMPT, "--plan", "nowhere.json"), "no plan file"),
        ((*PROMPT, "--save-plan", "nowhere/plan.json"), "nowhere"),
        ((*PROMPT, "--sampling"), "--sampling"),
    ],
)
def test_bad_input_is_named_and_exits_with_2(run, model, arguments, message):
    result = run("generate", model, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_unknown_model(run):
    result = run("generate", "./nowhere", *PROMPT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: ./nowhere: no such file or folder\n"


def test_prompt_file_that_is_no_text(run, model, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\xff\xfe\x00")
    result = run("generate", model, "--prompt-file", str(file))
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_plans_that_cannot_be_used(run, model, other_model, tmp_path):
    damaged, foreign = tmp_path / "damaged.json", tmp_path / "foreign.json"
    damaged.write_text("{", encoding="utf-8")
    run(
        "generate",
        other_model,
        *PROMPT,
        "--max-new-tokens",
        "2",
        "--option",
        "fallback=false",
        "--save-plan",
        str(foreign),
    )
    for file, message in ((damaged, "not a plan file"), (foreign, "another model")):
        result = run("generate", model, *PROMPT, "--plan", str(file))
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_option_values_are_numbers_words_or_texts(run, model):
    given = {"variant": "rule", "lam": "0.5", "context_window": "4", "window": "none", "unit": "sublayer"}
    options = [part for name, value in given.items() for part in ("--option", f"{name}={value}")]
    result = run("generate", model, *PROMPT, "--max-new-tokens", "4", *options, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["options"] == {
        "variant": "rule",
        "lam": 0.5,
        "context_window": 4,
        "window": None,
        "unit": "sublayer",
    }


def test_a_long_run_does_not_start_without_a_place_for_its_result(run, model, tmp_path: Path):
    result = run("generate", model, *PROMPT, "--save-plan", str(tmp_path))
    assert result.exit_code == 2
    assert "is a folder" in result.stderr
