import json
from pathlib import Path

import pytest

from conflayers.plan import ModelIdentity, Plan, save_plan

MODEL = ModelIdentity("LlamaForCausalLM", 12, 64, 100, "abcd")
OTHER = ModelIdentity("LlamaForCausalLM", 12, 64, 100, "ef01")
HOW = {"model": "tiny", "method": "swift", "speedup": 1.234, "data": {"name": "a.jsonl", "prompts": 3}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_plan(tmp_path / "a.json", Plan(frozenset([1, 2, 3]), frozenset([4])), MODEL, HOW)
    save_plan(tmp_path / "b.json", Plan(frozenset([2, 3, 5])), MODEL, {"model": "tiny", "method": "clasp"})
    save_plan(tmp_path / "c.txt", Plan.layers([7]), OTHER, {})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bytes.bin").write_bytes(b"\xff\x00")
    damaged = json.loads((tmp_path / "a.json").read_text())
    damaged["model"]["layers"] = "12"
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_list_has_the_plans_and_no_other_file(run, folder):
    document = json.loads(run("plans", "list", str(folder), "--json").stdout)
    assert [plan["file"] for plan in document["plans"]] == ["a.json", "b.json", "c.txt"]
    assert document["plans"][0]["skip_attention"] == [1, 2, 3]
    assert document["plans"][0]["provenance"] == HOW
    lines = run("plans", "list", str(folder)).stdout.splitlines()
    assert len(lines) == 2 + 3
    assert "a.json" in lines[2]
    assert "3 attn, 1 MLP of 12" in lines[2]
    assert "1.23" in lines[2]


def test_list_is_of_the_folder_one_is_in(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert "b.json" in run("plans", "list").stdout
    monkeypatch.chdir(folder / "folder")
    result = run("plans", "list")
    assert result.exit_code == 0
    assert "no plans in" in result.stderr


def test_show_has_plan_model_and_provenance(run, folder):
    shown = run("plans", "show", str(folder / "a.json")).stdout
    assert "skips attention of 1, 2, 3; MLP of 4" in shown
    for name, value in (("weights_digest", "abcd"), ("data.name", "a.jsonl"), ("speedup", "1.234")):
        assert [line.split() for line in shown.splitlines() if name in line] == [[name, value]]
    document = json.loads(run("plans", "show", str(folder / "a.json"), "--json").stdout)
    assert document["model"]["layers"] == 12
    assert document["provenance"] == HOW


def test_compare_says_what_is_in_both_and_in_one_only(run, folder):
    files = str(folder / "a.json"), str(folder / "b.json")
    document = json.loads(run("plans", "compare", *files, "--json").stdout)
    assert (document["same_model"], document["same_plan"]) == (True, False)
    assert document["both"] == {"attention": [2, 3], "mlp": []}
    assert document["only_first"] == {"attention": [1], "mlp": [4]}
    assert document["only_second"] == {"attention": [5], "mlp": []}
    assert document["provenance"][1]["method"] == "clasp"
    shown = run("plans", "compare", *files).stdout
    assert shown.startswith("the same model\nskipped by both: attention of 2, 3; MLP of none\n")
    assert [line.split() for line in shown.splitlines() if line.startswith("method")] == [["method", "swift", "clasp"]]


def test_compare_tells_models_apart(run, folder):
    shown = run("plans", "compare", str(folder / "a.json"), str(folder / "c.txt")).stdout
    assert shown.startswith("different models")
    assert [line.split() for line in shown.splitlines() if "weights_digest" in line] == [
        ["weights_digest", "abcd", "ef01"]
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "config.json"), "config.json is not a plan file"),
        (("show", "damaged.json"), "damaged.json does not describe its model: layers is '12'"),
        (("show", "none.json"), "no plan file at"),
        (("compare", "a.json", "bytes.bin"), "bytes.bin is not a plan file"),
        (("list", "nowhere"), "no folder"),
    ],
)
def test_what_is_no_plan_is_named(run, folder, monkeypatch, arguments, complaint):
    monkeypatch.chdir(folder)
    result = run("plans", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
