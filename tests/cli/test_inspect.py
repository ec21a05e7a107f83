import json
import sys

import pytest

PROMPT = ("--prompt", "the sky is")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("arguments", [(), ("--lambda", "0.2"), ("--unit", "sublayer", "--variant", "paper")])
def test_a_picture_is_drawn(run, model, tmp_path, arguments):
    file = tmp_path / "rule.png"
    result = run("inspect", model, *PROMPT, "--out", str(file), *arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith("skips ")
    assert file.read_bytes().startswith(PNG)


def test_json_has_what_the_picture_shows(run, model, tmp_path):
    file = tmp_path / "rule.svg"
    document = json.loads(run("inspect", model, *PROMPT, "--out", str(file), "--lambda", "0.2", "--json").stdout)
    assert document["lambda"] == 0.2
    rows = document["scores"]["layer"]
    assert [row["layer"] for row in rows] == [1, 2, 3, 4]
    assert [row["layer"] for row in rows if row["skipped"]] == document["plan"]["skip_mlp"]
    assert all(row["skipped"] == (row["score"] < row["threshold"]) for row in rows)
    assert "<svg" in file.read_text(encoding="utf-8")


def test_lambda_follows_the_skip_ratio(run, model, tmp_path):
    drawn = [
        json.loads(
            run("inspect", model, *PROMPT, "--out", str(tmp_path / "a.png"), "--skip-ratio", ratio, "--json").stdout
        )
        for ratio in ("0.1", "0.7")
    ]
    assert drawn[0]["lambda"] > drawn[1]["lambda"]
    assert len(drawn[0]["plan"]["skip_mlp"]) < len(drawn[1]["plan"]["skip_mlp"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "rule.gif"), ".png"),
        (("--out", "nowhere/rule.png"), "nowhere"),
        (("--out", "rule.png", "--lambda", "1", "--skip-ratio", "0.4"), "give one of them"),
        (("--out", "rule.png", "--lambda", "nan"), "finite"),
        (("--out", "rule.png", "--skip-ratio", "7"), "skip_ratio"),
        ((), "--out"),
    ],
)
def test_bad_input(run, model, arguments, message):
    result = run("inspect", model, *PROMPT, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_matplotlib_it_says_how_to_get_it(run, model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("inspect", model, *PROMPT, "--out", str(tmp_path / "rule.png"))
    assert result.exit_code == 2
    assert "pip install 'conflayers[plot]'" in result.stderr
