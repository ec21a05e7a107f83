import json
from pathlib import Path

import pytest

import conflayers
from conflayers.plan import FULL, Plan, load_plan, read_saved
from conflayers.search import run as searching
from conflayers.search.progress import Speed
from conflayers.selectors.contest import Standing
from conflayers.selectors.fixed import Fixed


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "task.jsonl"
    file.write_text('{"prompt": "the sky is"}\n{"turns": ["the sea", "and then"]}\n', encoding="utf-8")
    return str(file)


@pytest.fixture
def search(run, model, data, tmp_path):
    """Run a search that is over as soon as it may be."""

    def invoke(*arguments: str, name: str = "plan.json"):
        options = ("--budget", "0.001", "--max-new-tokens", "12", "--out", str(tmp_path / name))
        return run("search", model, "--data", data, *options, *arguments)

    return invoke


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("draft-verify", ("--option", "plan_seed=2", "--option", "max_draft_tokens=3")),
        ("swift", ("--option", "context_window=4", "--option", "bayes_interval=0")),
        ("clasp", ("--option", "skip_ratio=0.4")),
        ("conflayers", ("--option", "fallback=false")),
        ("conflayers", ("--option", "variant=paper", "--option", "context_window=4")),
        ("random", ()),
    ],
)
def test_a_plan_is_found_saved_and_drafted_by(run, model, search, tmp_path, method, options):
    result = search("--method", method, *options)

    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    saved = tmp_path / "plan.json"
    assert document["saved"] == str(saved)
    assert not saved.with_name("plan.json.progress").exists()
    assert "plan saved to" in result.stderr
    llm = conflayers.load(model)
    plan = load_plan(saved, llm.body.identity)
    assert plan.skipped
    found = read_saved(saved).provenance
    assert (found["method"], found["max_new_tokens"], found["budget_seconds"]) == (method, 12, 0.001)
    assert found["data"]["name"] == "task.jsonl"
    assert found["data"]["prompts"] == 2
    assert len(found["data"]["sha256"]) == 64
    assert found["seconds"] > 0
    assert found["speedup"] == pytest.approx(found["tokens_per_second"] / found["plain_tokens_per_second"])
    assert set(found["versions"]) >= {"conflayers", "torch", "transformers"}
    assert found["date"][:2] == "20"
    assert {name: document[name] for name in found} == found
    texts = [
        run("generate", model, "--prompt", "the sky", "--max-new-tokens", "20", *how).stdout
        for how in (("--method", "vanilla"), ("--method", method, "--plan", str(saved)))
    ]
    assert texts[0] == texts[1]


def test_a_method_that_finds_nothing_saves_nothing_and_says_so(search, tmp_path):
    result = search("--method", "cosine", "--option", "threshold=1.0")
    assert result.exit_code == 1
    assert "no plan saved: method 'cosine' ended at plain decoding" in result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    assert (document["plan"], document["saved"], document["fallback"]) == (None, None, True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["task.jsonl"]


def test_a_method_that_ended_with_lookups_says_so(search, monkeypatch):
    monkeypatch.setattr(searching.Search, "_task", lambda self: self.llm.task("lookup"))
    result = search("--method", "auto")
    assert result.exit_code == 1
    document = json.loads(result.stdout.splitlines()[-1])
    assert (document["plan"], document["lookups"]) == (None, True)
    assert "no plan saved: method 'auto' ended with lookups, which need no plan" in result.stderr
    assert "ended at plain decoding" not in result.stderr


class Looked(Fixed):
    """Decodes plainly after a look at one plan."""

    standings = (Standing(Plan.layers([2]), 0.84, None, 0, 0, 0), Standing(Plan.layers([3]), None, None, 0, 0, 0))


@pytest.mark.parametrize(
    ("arguments", "selector", "why"),
    [
        (("--method", "uniform", "--option", "skip_ratio=0"), None, "skips nothing. Give a higher --option skip_ratio"),
        (("--method", "swift"), Fixed(None), "the budget of 0.001 s was over first, after 1 prompt of 2. Give a lar"),
        (("--method", "clasp", "--budget", "60"), Fixed(None), "it named no plan in 2 prompts. Give more or longer"),
        (("--method", "auto"), Looked(None), "the best at 0.84 times plain decoding's speed. A larger --budget"),
    ],
)
def test_where_nothing_was_tried_the_reason_and_the_remedy_are_said(search, monkeypatch, arguments, selector, why):
    if selector is not None:
        monkeypatch.setattr(searching.Search, "_task", lambda self: self.llm.task(selector))
    result = search(*arguments)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["candidates"] == 0
    assert "ended at plain decoding; nothing was tried: " in result.stderr
    assert why in result.stderr
    assert ("fallback=false" in result.stderr) == ("auto" in arguments)


def test_where_a_plan_was_tried_and_lost_its_speed_is_said(search, monkeypatch):
    def lose(self, plan, ids, count):
        return Speed(count, count / (100 if plan is None else 80))

    def used(self, limit):
        self.progress.used = {Plan.layers([2]): Speed(50, 1.0)}

    monkeypatch.setattr(searching.Search, "_decode_once", lose)
    monkeypatch.setattr(searching.Search, "_answer", used)
    result = search("--method", "conflayers")
    assert result.exit_code == 1
    assert "; the best plan it tried: 80.0 tokens/s, 0.80 times plain decoding's 100.0" in result.stderr
    assert "nothing was tried" not in result.stderr


@pytest.mark.parametrize(
    ("seconds", "closing"),
    [
        ((1.2, 1.21, 1.19), "this plan is slower than plain decoding here; a larger --budget"),
        ((1.2, 0.6, 1.3), "no difference shown between this plan and plain decoding: the interval includes 1; a la"),
        ((0.8, 0.81, 0.79), None),
        ((1.2,), "this plan is slower than plain decoding (no interval) here; a larger --budget"),
    ],
)
def test_the_closing_line_goes_by_the_interval_over_prompts(search, data, monkeypatch, seconds, closing):
    Path(data).write_text("".join(f'{{"prompt": "{word}"}}\n' for word in "abc"[: len(seconds)]), encoding="utf-8")

    def measured(self, plan, ids, count):
        return Speed(count, count * (1.0 if plan is None else seconds[self.prompts.index(ids)]) / 100)

    monkeypatch.setattr(searching.Search, "_decode_once", measured)
    result = search("--method", "uniform", "--budget", "2")
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0, result.stderr
    if len(seconds) > 1:
        low, high = found["speedup_interval"]
        assert low < found["speedup"] < high
        assert f"in turns (95% interval {low:.2f} to {high:.2f})" in result.stderr
    else:
        assert found["speedup_interval"] is None
    lines = result.stderr.splitlines()
    assert lines[-1].startswith(closing or "plan saved to")


def test_a_plan_of_lower_precision_alone_is_saved_and_drafts(run, model, search, tmp_path, monkeypatch):
    monkeypatch.setattr(searching.Search, "_task", lambda self: self.llm.task("view"))
    result = search("--method", "auto")
    assert result.exit_code == 0, result.stderr
    assert "skips nothing (int8); " in result.stderr
    saved = tmp_path / "plan.json"
    assert read_saved(saved).plan == FULL.at("int8")
    drafted = run("generate", model, "--prompt", "the sky", "--method", "fixed", "--plan", str(saved))
    assert drafted.exit_code == 0, drafted.stderr


def test_an_interrupted_search_says_how_to_go_on_and_does(search, tmp_path, monkeypatch):
    compare = searching.Search._compare

    def interrupted(self, plan):
        raise KeyboardInterrupt

    monkeypatch.setattr(searching.Search, "_compare", interrupted)
    result = search("--method", "draft-verify")
    assert result.exit_code == 130
    progress = tmp_path / "plan.json.progress"
    assert f"what has been done is in {progress}. The same command goes on from there" in result.stderr
    assert not (tmp_path / "plan.json").exists()
    [[plan, _]] = json.loads(progress.read_text())["candidates"]

    other = search("--method", "swift")
    assert other.exit_code == 2
    assert "another search, with method 'draft-verify', not 'swift'" in other.stderr

    monkeypatch.setattr(searching.Search, "_compare", compare)
    monkeypatch.setattr(searching.DraftVerifySearch, "ask", None)  # nothing is left to score
    again = search("--method", "draft-verify")
    assert again.exit_code == 0, again.stderr
    assert "going on after" in again.stderr
    document = json.loads(again.stdout.splitlines()[-1])
    assert document["plan"] == plan
    assert document["candidates"] == 1
    assert not progress.exists()


@pytest.mark.parametrize(
    ("line", "arguments", "complaint"),
    [
        ('{"prompt": "a"}\n{"promt": "b"}', (), "task.jsonl, line 2: the object must have either"),
        ("", (), "there are no prompts in"),
        ('{"prompt": "a"}', ("--method", "vanilla"), "method 'vanilla' has no plan to find"),
        ('{"prompt": "a"}', ("--method", "fixed"), "method 'fixed' has no plan to find"),
        ('{"prompt": "a"}', ("--option", "nothing=1"), "no option 'nothing'"),
        ('{"prompt": "a"}', ("--budget", "-3"), "budget"),
        ('{"prompt": "a"}', ("--out", "/nowhere/at/all.json"), "there is no folder"),
        ('{"prompt": "a"}', ("--data", "/nowhere.jsonl"), "cannot read the prompts in /nowhere.jsonl"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(run, data, tmp_path, line, arguments, complaint):
    Path(data).write_text(line + "\n", encoding="utf-8")
    result = run(
        "search", "/no/model", "--data", data, "--budget", "1", "--out", str(tmp_path / "plan.json"), *arguments
    )
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_the_plan_of_another_model_is_refused(run, other_model, search, tmp_path):
    assert search("--method", "uniform").exit_code == 0
    plan = str(tmp_path / "plan.json")
    result = run("generate", other_model, "--prompt", "the sky", "--method", "draft-verify", "--plan", plan)
    assert result.exit_code == 2
    assert "was made for another model" in result.stderr


def test_draft_verify_without_a_plan_says_how_to_find_one(run):
    result = run("generate", "/no/model", "--prompt", "a", "--method", "draft-verify")
    assert result.exit_code == 2
    assert "conflayers search MODEL --method draft-verify" in result.stderr
