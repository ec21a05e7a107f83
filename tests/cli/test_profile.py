import json

import pytest

from conflayers.profile import bandwidth, passes


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bandwidth, "BYTES", 1 << 20)
    monkeypatch.setattr(passes, "REPEAT", 2)


def test_tables_for_people_and_one_document_at_the_end(run, model):
    result = run("profile", model, "--context", "20,40", "--context", "10", "--dtype", "float32")
    assert result.exit_code == 0
    found = json.loads(result.stdout.splitlines()[-1])
    assert [one["context"] for one in found["profiles"]] == [10, 20, 40]
    assert result.stdout.count("where the next millisecond is") == 3
    assert f"after 20: median {found['profiles'][1]['median']['ms']:.2f} ms" in result.stdout
    assert "1 token, 4 inner layers skipped" in result.stdout
    first = found["profiles"][0]["next_milliseconds"][0]
    assert f"{first['above_limit_ms']:.2f}" in result.stdout


def test_the_document_has_what_was_measured_and_where(run, model):
    result = run("profile", model, "--json-only", "--threads", "1", "--body", "portable")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["body"], found["threads"], found["device"], found["layers"]) == ("portable", 1, "cpu", 6)
    assert found["provenance"]["versions"]["torch"] == found["versions"]["torch"]
    assert found["provenance"]["started"] <= found["provenance"]["finished"]
    (one,) = found["profiles"]
    assert set(one) == {
        "context", "bandwidth", "bytes", "median", "best", "least_ms", "passes", "operators", "next_milliseconds",
    }  # fmt: skip
    # All that fits of the usual contexts; 128 is the model's.
    assert one["context"] == 100
    # Six layers of two heads of 8 keys and as many values, in float32, of 101 tokens.
    assert one["bytes"]["cache"] == 101 * 6 * 2 * 2 * 8 * 4
    assert one["bytes"]["total"] == sum(one["bytes"][part] for part in ("matrices", "norms", "embedding", "cache"))
    assert list(one["passes"]["tokens"]) == ["1", "2", "4", "8", "16"]
    assert one["passes"]["tokens"]["1"]["best_ms"] == one["best"]["ms"] <= one["median"]["ms"]
    groups, operators = one["operators"]["groups"], one["operators"]
    assert operators["time_of"] == "cpu"
    assert sum(group["ms"] for group in groups) + operators["between_ms"] == pytest.approx(one["best"]["ms"])
    above = sum(part["above_limit_ms"] for part in one["next_milliseconds"])
    assert above == pytest.approx(one["best"]["ms"] - one["least_ms"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--context", "5,x"), "--context takes whole numbers, several separated by commas, not '5,x'"),
        (("--context", "0"), "a context takes 1 token or more, not 0"),
        (("--context", "113"), "exceed the model's context of 128; at most 112 fit"),
        (("--body", "quick"), "'quick' is not one of"),
        (("--threads", "0"), "--threads"),
    ],
)
def test_what_cannot_be_honoured_is_named(run, model, asked, message):
    result = run("profile", model, *asked)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout


def test_a_missing_model_is_named(run):
    result = run("profile", "/no/such/folder")
    assert result.exit_code == 2
    assert "/no/such/folder" in result.stderr
