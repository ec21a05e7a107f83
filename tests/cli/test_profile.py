import json
import os

import pytest

from conflayers.cli.profile import gap_table, pass_table, summary
from conflayers.profile import bandwidth, operators, passes
from conflayers.profile.bandwidth import Bandwidth
from conflayers.profile.measure import Profile
from conflayers.profile.operators import ATTENTION, PRODUCTS, Group, Operators
from conflayers.profile.passes import SIZES, Passes, Timed
from conflayers.profile.traffic import Traffic


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bandwidth, "BYTES", 1 << 20)
    monkeypatch.setattr(operators, "REPEAT", 2)
    monkeypatch.setattr(operators, "PRICE_REPEAT", 2)
    monkeypatch.setattr(passes, "REPEAT", 2)
    # The command sets it; other tests have what they had.
    monkeypatch.setenv("KINETO_LOG_LEVEL", os.environ.get("KINETO_LOG_LEVEL", "99"))


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
    groups, parts = one["operators"]["groups"], one["operators"]
    assert parts["time_of"] == "cpu"
    assert sum(group["ms"] for group in groups) + parts["between_ms"] == pytest.approx(one["best"]["ms"])
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


def cells(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def test_what_is_shown_by_hand():
    parts = Operators((Group(PRODUCTS, 0.006, 65), Group(ATTENTION, 0.003, 16)), 0.001, 0.0, "cpu")
    timed = Passes(30, dict.fromkeys(SIZES, Timed(0.0125, 0.010)), Timed(0.005, 0.004), 6)
    found = Profile(100, Bandwidth(20e9, 50e9), Traffic(200_000_000, 0, 0, 50_000_000), timed, parts)
    assert summary(found) == [
        "A pass over one token after 100: median 12.50 ms, 20.0 GB/s, 40% of the limit; best 10.00 ms, 25.0 GB/s, 50% "
        "of the limit.",
        "It reads 250.0 MB (50.0 of them keys and values), which takes 5.00 ms at 50.0 GB/s: memory gives 20.0, as "
        "many bytes read again and again 50.0.",
    ]
    assert cells(gap_table(found)) == [
        (PRODUCTS, "6.00", "60%", "65", "200.0", "2.00"),
        (ATTENTION, "3.00", "30%", "16", "50.0", "2.00"),
        ("between operators", "1.00", "10%", "", "", "1.00"),
    ]
    assert cells(pass_table(found))[-3:] == [
        ("1 token, 6 inner layers skipped", "5.00", "4.00", "0.40"),
        ("one layer, by that", "", "1.00", "0.10"),
        ("what is no layer, by that", "", "2.00", "0.20"),
    ]


def test_a_busy_machine_is_said():
    timed = Passes(30, dict.fromkeys(SIZES, Timed(0.016, 0.010)), None, 0)
    found = Profile(100, Bandwidth(1e9, 1e9), Traffic(1, 0, 0, 0), timed, Operators((), 0.010, 0.0, "cpu"))
    assert "the median is 1.60 times the best" in summary(found)[-1]
