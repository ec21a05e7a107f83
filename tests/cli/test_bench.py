import json
from pathlib import Path

import pytest

FIELDS = {
    "method", "category", "tokens_per_second", "speedup", "speedup_over_hf", "mean_accepted_tokens",
    "acceptance_rate", "skip_ratio", "select_seconds", "peak_memory_mb", "identical",
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "task.jsonl"
    lines = [{"prompt": "the sky is", "category": "sky"}, {"turns": ["the sea", "and then"], "category": "sea"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(file)


@pytest.fixture
def bench(run, model, data):
    def invoke(*arguments: str, memory: bool = False):
        return run(
            "bench", model, "--data", data, "--max-new-tokens", "8", "--threads", "1",
            *([] if memory else ["--no-memory"]), *arguments,
        )  # fmt: skip

    return invoke


def document(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_rows_by_method_and_category(bench, tmp_path):
    found = document(bench("--methods", "hf,uniform:skip_ratio=0.5", "--out", str(tmp_path / "out")))
    rows = {(row["method"], row["category"]): row for row in found["rows"]}
    methods = ("vanilla", "hf", "uniform:skip_ratio=0.5")
    assert set(rows) == {(method, category) for method in methods for category in ("all", "sea", "sky")}
    assert all(row.keys() >= FIELDS for row in found["rows"])
    assert rows["hf", "all"]["identical"] is True
    assert rows["uniform:skip_ratio=0.5", "all"]["identical"] is True
    assert rows["uniform:skip_ratio=0.5", "all"]["skip_ratio"] > 0
    assert rows["vanilla", "all"]["new_tokens"] == 16
    assert found["settings"]["threads"] == 1
    assert found["provenance"]["command"][0]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == found["rows"]


def test_it_goes_on_with_more_repeats_and_then_has_nothing_to_do(bench, tmp_path):
    out = ("--methods", "uniform", "--out", str(tmp_path / "out"))
    first = document(bench(*out))
    result = bench(*out, "--repeat", "2")
    second = document(result)
    assert "going on after 4 answers" in result.stderr
    assert second["rows"][0]["new_tokens"] == 2 * first["rows"][0]["new_tokens"]
    assert document(bench(*out, "--repeat", "2"))["rows"] == second["rows"]


def test_turns_of_dialogues(bench):
    assert document(bench("--methods", "uniform", "--turns"))["rows"][0]["new_tokens"] == 24


def test_sampling_with_a_seed_gives_one_text(bench):
    rows = document(bench("--methods", "uniform", "--temperature", "0.7", "--seed", "4"))["rows"]
    assert [row["identical"] for row in rows if row["category"] == "all"] == [True, True]


@pytest.mark.slow
def test_peak_memory_by_method(bench):
    rows = document(bench("--methods", "uniform", "--limit", "1", memory=True))["rows"]
    assert rows[0]["extra_memory_mb"] == 0.0
    assert all(50 < row["peak_memory_mb"] < 5000 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "confayers"), "did you mean 'conflayers'"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--temperature", "-1"), "temperature"),
        (("--limit", "0"), "limit"),
        (("--sweep", "lamda"), "did you mean 'lambda'"),
        (("--seed", "1"), "--seed needs sampling"),
        (("--out", "/nowhere/at/all"), "there is no folder /nowhere/at"),
    ],
)
def test_bad_input_is_named(bench, arguments, said):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_results_of_another_benchmark_and_of_another_version(bench, tmp_path):
    out = ("--out", str(tmp_path / "out"))
    before = document(bench("--methods", "uniform", *out))
    result = bench("--methods", "swift", *out)
    assert result.exit_code == 2
    assert "holds the results of another benchmark, with methods" in result.stderr
    file = tmp_path / "out" / "results.json"
    assert json.loads(file.read_text())["rows"] == before["rows"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))
    result = bench("--methods", "uniform", *out)
    assert result.exit_code == 2
    assert "has format 0" in result.stderr


def test_a_folder_that_is_a_file(bench, tmp_path):
    (tmp_path / "file").write_text("")
    result = bench("--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "it is a file" in result.stderr


def test_the_commands_beside_it_are_found(run, tmp_path):
    for command in ("report", "compare"):
        assert run("bench", command, "--help").exit_code == 0
    assert "no results in" in run("bench", "report", str(tmp_path)).stderr


def test_options_may_come_before_the_model(run, model, data):
    result = run("bench", "--data", data, "--methods", "uniform", "--max-new-tokens", "4", "--no-memory", model)
    assert document(result)["rows"]


def test_a_plan_that_was_changed_is_another_benchmark(bench, model, tmp_path):
    import conflayers
    from conflayers.plan import Plan

    llm, plan = conflayers.load(model), tmp_path / "plan.json"
    out = ("--methods", f"fixed:plan={plan}", "--out", str(tmp_path / "out"))
    llm.save_plan(plan, Plan.layers([1, 2]))
    document(bench(*out))
    llm.save_plan(plan, Plan.layers([3]))
    result = bench(*out, "--repeat", "2")
    assert result.exit_code == 2
    assert "with files" in result.stderr


def test_a_folder_that_is_in_use(bench, tmp_path):
    from conflayers.files import held

    with held(tmp_path / "out"):
        result = bench("--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "is in use by another process" in result.stderr


def test_the_same_data_twice_are_two_stretches(bench, data):
    found = document(bench("--methods", "uniform", "--data", f"{data},{data}"))
    assert found["settings"]["data"] == ["task.jsonl", "task.jsonl (2)"]
    assert "task.jsonl (2): sky" in {row["category"] for row in found["rows"]}


def test_a_comma_in_the_name_of_a_file_stands_behind_a_backslash(bench, data, tmp_path):
    odd = tmp_path / "a,b.jsonl"
    odd.write_bytes(Path(data).read_bytes())
    escaped = str(odd).replace(",", "\\,")
    assert document(bench("--methods", "uniform", "--data", f"{escaped},{data}"))["settings"]["data"] == [
        "a,b.jsonl",
        Path(data).name,
    ]


def test_memory_that_cannot_be_measured_costs_no_result(bench, monkeypatch):
    from conflayers.bench import session
    from conflayers.errors import InputError

    def fail(probe):
        raise InputError("no memory left")

    monkeypatch.setattr(session, "peak_mb", fail)
    result = bench("--methods", "uniform", memory=True)
    assert all(row["peak_memory_mb"] is None for row in document(result)["rows"])
    assert "the memory of uniform is not known: no memory left" in result.stderr
