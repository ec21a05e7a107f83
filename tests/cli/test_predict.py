import json
import re
import shlex
from dataclasses import asdict

import pytest
import torch

import conflayers
from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.predict.accelerators import ACCELERATORS

ASKED = ("--acceptance", "0.9", "--draft-length", "2,8,4", "--skip-ratio", "0.3,0.5")
H100 = ("--accelerator", "h100-sxm")


def document(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_table_with_the_best_length_and_the_assumptions(run):
    result = run("predict", "llama-3-70b", *H100, *ASKED)
    found = document(result)
    assert [(row["skip_ratio"], row["draft_length"]) for row in found["rows"]] == [
        (ratio, length) for ratio in (0.3, 0.5) for length in (2, 4, 8)
    ]
    assert [row["best"] for row in found["rows"]].count(True) == 2
    assert found["parameters"] == 70_553_706_496
    assert (found["accelerator"]["name"], found["dtype"], found["bound"]) == ("h100-sxm", "bfloat16", "memory")
    assert "This is a prediction, not a measurement." in found["assumptions"]
    shown = result.stdout.splitlines()
    assert sum("*" in line for line in shown[2:8]) == 2
    assert all(f"- {sentence}" in shown for sentence in found["assumptions"])


def test_measured_costs_by_hand(run):
    found = document(run("predict", "--costs", "10,6,11", "--acceptance", "0.8", "--mean-accepted", "3",
                         "--skip-ratio", "0.4", "--overhead", "1"))  # fmt: skip
    (row,) = found["rows"]
    # Drafts of (3 - 1) / 0.8 at 6 + 1 ms, and 11 ms: 28.5 ms for three tokens of 10 ms.
    assert (row["draft_length"], row["round_ms"], row["speedup"]) == pytest.approx((2.5, 28.5, 30 / 28.5))


def test_what_never_pays_is_said(run):
    result = run("predict", "--costs", "10,9,11", "--acceptance", "0.3", "--draft-length", "1,2", "--skip-ratio", "0.1")
    assert all(row["speedup"] < 1 for row in document(result)["rows"])
    assert "none of these is faster than plain decoding" in result.stdout


def test_a_folder_and_figures_of_ones_own(run, model):
    figures = ("--bandwidth", "100", "--tflops", "2", "--launch", "0", "--devices", "2", "--all-reduce", "0")
    found = document(run("predict", model, *figures, "--dtype", "int8", "--context", "64", *ASKED))
    loaded = conflayers.load(model, dtype="float32")
    assert found["parameters"] == loaded.model.num_parameters()
    assert found["accelerator"] == {
        "name": "as given", "bandwidth": 100, "tflops": 2, "memory": None, "launch": 0,
    }  # fmt: skip
    assert (found["devices"], found["dtype"], found["context"], found["all_reduce"]) == (2, "int8", 64, 0)


def test_a_benchmarks_runs_are_predicted_from_their_counts(run, model, other_model, tmp_path):
    llm = conflayers.load(model, dtype="float32")
    plan = conflayers.Plan.layers([2, 4])
    third = "uniform:skip_ratio=0.3:draft_length=2"
    tasks = {"vanilla": llm.task("vanilla"), "hf": llm.task("vanilla"), third: llm.task("fixed", plan, draft_length=2)}
    settings = {
        "model": "tiny", "source": model, "identity": asdict(llm.body.identity), "layers": 6, "dtype": "float32",
        "device": "cpu", "threads": torch.get_num_threads(), "methods": list(tasks), "repeat": 1,
    }  # fmt: skip
    results = Results(settings, {}, [{"id": "1", "data": "d", "category": "c"}])
    for name, task in tasks.items():
        done = llm.generate([3, 5, 8, 2] * 4, task=task, max_new_tokens=24)
        words = None if done.plan is None else str(done.plan)
        stats, ids = done.stats, done.token_ids
        results.records.append(Record(name, "d", "c", 0, 0, 0, stats.total_seconds, 0.0, stats, ids, words))
    results.save(tmp_path)
    result = run("predict", "--results", str(tmp_path))
    found = document(result)
    (row,) = found["rows"]
    assert (row["method"], row["requests"], row["new_tokens"]) == (third, 1, 24)
    assert row["skip_ratio"] == pytest.approx(1 / 3)
    assert row["predicted"] > 0
    assert row["difference"] == pytest.approx(row["predicted"] / row["measured"] - 1)
    assert {name: one["plan"] for name, one in found["costs"]["drafting"].items()} == {third: "skips layers 2, 4"}
    assert all(
        value > 0 for name, value in found["costs"]["drafting"][third].items() if name in ("token_ms", "round_ms")
    )
    # All that is said stands in one place and in one order: what is compared with, what is predicted, what is left out.
    first, of_plain, of_third, of_hf, _ = result.stdout.splitlines()
    assert "predicted by rounds timed now" in first
    assert of_plain.startswith("plain decoding: ")
    assert of_third.startswith(f"{third}: predicted")
    assert of_hf == "hf: left out, for it did not draft with a part of the model"
    assert result.stderr == ""
    assert found["plain_seconds"]["measured"] == pytest.approx(results.records[0].seconds)

    shown = document(run("predict", model, "--results", str(tmp_path)))
    assert [one["method"] for one in shown["rows"]] == [third]
    foreign = run("predict", other_model, "--results", str(tmp_path))
    assert "is not the model of the results" in foreign.stderr

    results.records = results.records[:1]
    results.save(tmp_path)
    refused = run("predict", "--results", str(tmp_path))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "nothing to predict" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "MODEL is missing"),
        (("llama-3-8b", *H100, "--skip-ratio", "0.4", "--draft-length", "2"), "--acceptance is missing"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--draft-length", "2"), "--skip-ratio is missing"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--skip-ratio", "0.4"), "either draft lengths"),
        (("llama-3-9b", *H100, *ASKED), "llama-3-8b"),
        (("llama-3-8b", "--accelerator", "h100-smx", *ASKED), "h100-sxm"),
        (("llama-3-8b", *ASKED), "give an accelerator"),
        (("llama-3-8b", *H100, "--tflops", "3", *ASKED), "give an accelerator"),
        (("llama-3-8b", *H100, "--dtype", "bf16", *ASKED), "bfloat16"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--draft-length", "2.5", "--skip-ratio", "0"), "whole numbers"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--draft-length", "-2", "--skip-ratio", "0"), "draft length"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--draft-length", "2", "--skip-ratio", "a"), "--skip-ratio"),
        (("llama-3-8b", *H100, "--acceptance", "0.9", "--draft-length", "2", "--skip-ratio", "40"), "skip ratio"),
        (("llama-3-8b", *H100, "--acceptance", "90", "--draft-length", "2", "--skip-ratio", "0.4"), "acceptance"),
        (("--costs", "1,2,3", *H100, *ASKED), "leave out --accelerator"),
        (("--costs", "1,2,3", "--dtype", "int8", *ASKED), "leave out --dtype"),
        (("--costs", "1,2", "--acceptance", "0.9", "--draft-length", "2", "--skip-ratio", "0.4"), "PLAIN,DRAFT,VERIFY"),
        (("--costs", "1,2,3", *ASKED), "give one"),
        (("--results", "nowhere"), "no results in nowhere"),
        (("llama-3-8b", "--results", "nowhere", "--context", "3"), "leave out --context"),
    ],
)
def test_bad_input(run, arguments, message):
    result = run("predict", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_the_pages_commands_run_and_its_accelerators_are_those_there_are(run, request):
    page = (request.config.rootpath / "docs/predict.md").read_text(encoding="utf-8")
    commands = re.findall(r"^conflayers (predict (?!--results).*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert document(run(*shlex.split(command)))["rows"]
    assert all(f"`{name}`" in page for name in ACCELERATORS)
