"""The search of a plan: what is done within the budget, and what is not done twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import save_model
from doubles import Ticks

import conflayers
from conflayers import FULL, InputError, Llm, Plan
from conflayers.plan import LOOKUP
from conflayers.search.data import PromptFile
from conflayers.search.progress import Progress, Speed
from conflayers.search.run import Outcome, Search
from conflayers.search.wanted import Wanted

PROMPTS = PromptFile("p.jsonl", "0" * 64, ("the sky", "the sea", "a prompt"), (1, 2, 4))
IDLE = {2, 4}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Llm:
    return conflayers.load(save_model(tmp_path_factory.mktemp("models") / "tiny", 0))


class Measured:
    """Speeds as planted, each at the price of one second; counts what it is asked."""

    def __init__(self, clock: Ticks, faster: float = 1.0, fail_at: int | None = None) -> None:
        self.clock, self.faster, self.fail_at = clock, faster, fail_at
        self.asked: list[Plan | None] = []

    def __call__(self, plan: Plan | None, ids: list[int], count: int) -> Speed:
        if len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append(plan)
        self.clock.now += 1
        return Speed(count, count / (100.0 if plan is None else self.faster * self.value(plan)))

    @staticmethod
    def value(plan: Plan) -> float:
        """100 tokens a second for layers 2 and 4 off, less for everything else."""
        return 100 - 10 * len({*plan.attention} ^ IDLE) - 10 * len({*plan.mlp} ^ IDLE)

    def candidates(self) -> list[Plan | None]:
        """Each candidate is measured on all prompts."""
        return self.asked[:: len(PROMPTS.prompts)]


def offline(llm: Llm, path: Path, clock: Ticks, measure: Measured, budget: float = 50) -> Search:
    return Search(llm, Wanted("draft-verify", budget), PROMPTS, path, measure=measure, clock=clock)


def test_candidates_fill_the_budget_but_for_the_share_of_the_comparison(llm, tmp_path):
    clock = Ticks()
    measured = Measured(clock)
    search = offline(llm, tmp_path / "progress", clock, measured, budget=50)
    outcome = search.run()

    # 40 seconds at 3 a candidate, the one that would end at 42 left out; then 10 at 2 a pair, one left out likewise.
    scores = [score for _, score in search.progress.candidates]
    assert len(scores) == 13
    assert outcome.plan == search.progress.candidates[scores.index(max(scores))][0]
    pairs = measured.asked[3 * 13 :]
    assert pairs[:4] == [outcome.plan, None, None, outcome.plan]  # in turns, the order reversed
    assert set(pairs) == {None, outcome.plan}
    assert clock.now <= 50
    assert outcome.speedup == pytest.approx(max(scores) / 100)
    assert not outcome.fallback


def test_one_candidate_and_one_comparison_are_made_whatever_the_budget(llm, tmp_path):
    clock = Ticks()
    search = offline(llm, tmp_path / "progress", clock, Measured(clock), budget=0.001)
    outcome = search.run()
    assert len(search.progress.candidates) == len(search.progress.pairs) == 1
    assert outcome.plan is not None


@pytest.mark.parametrize("fail_at", [4, 20, 41])
def test_an_interrupted_search_ends_like_one_that_was_not(llm, tmp_path, fail_at):
    clock = Ticks()
    whole = offline(llm, tmp_path / "whole", clock, Measured(clock))
    expected = whole.run()

    path, clock = tmp_path / "progress", Ticks()
    first = Measured(clock, fail_at=fail_at)
    with pytest.raises(KeyboardInterrupt):
        offline(llm, path, clock, first).run()
    kept = Progress.load(path, json.loads(path.read_text())["subject"], llm.body.layers)
    # What was not finished is measured again, what was is not.
    assert len(kept.candidates) == min(fail_at // 3, 13)

    clock.now = 1000.0  # the time between does not count
    second = Measured(clock)
    search = offline(llm, path, clock, second)
    outcome = search.run()
    assert search.progress.candidates[: len(kept.candidates)] == kept.candidates
    assert not set(second.candidates()[: 13 - len(kept.candidates)]) & {plan for plan, _ in kept.candidates}
    assert len(search.progress.candidates) == 13
    assert outcome.plan == expected.plan
    assert search.progress.candidates == whole.progress.candidates
    search.finish()
    assert not path.exists()


def test_more_budget_searches_on_and_compares_anew_what_is_better(llm, tmp_path):
    path, clock = tmp_path / "progress", Ticks()
    first = offline(llm, path, clock, Measured(clock), budget=0.001)
    before = first.run()
    second = offline(llm, path, clock, Measured(clock), budget=60)
    outcome = second.run()
    assert len(second.progress.candidates) > 1
    assert outcome.plan != before.plan
    assert second.progress.compared == outcome.plan


CHANGES: dict[str, Callable[[Wanted, PromptFile], tuple[Wanted, PromptFile]]] = {
    "method 'draft-verify', not 'swift'": lambda w, d: (Wanted("swift", 9), d),
    "options {}, not {'plan_seed': 5}": lambda w, d: (Wanted(w.method, 9, {"plan_seed": 5}), d),
    "data digest": lambda w, d: (w, PromptFile(d.name, "1" * 64, d.prompts, d.lines)),
    "prompts 3, not 2": lambda w, d: (w, PromptFile(d.name, d.digest, d.prompts[:2], d.lines[:2])),
    "max_new_tokens 32, not 7": lambda w, d: (Wanted(w.method, 9, max_new_tokens=7), d),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_progress_of_another_search_is_refused_by_what_differs(llm, tmp_path, what):
    path, clock = tmp_path / "progress", Ticks()
    search = offline(llm, path, clock, Measured(clock), budget=0.001)
    search.run()
    before = path.read_bytes()
    wanted, data = CHANGES[what](search.wanted, search.data)
    with pytest.raises(InputError, match="is the progress of another search, with ") as caught:
        Search(llm, wanted, data, path)
    assert what in str(caught.value)
    assert "remove it to begin anew" in str(caught.value)
    assert path.read_bytes() == before


def test_the_progress_of_another_model_is_refused(llm, tmp_path):
    path, clock = tmp_path / "progress", Ticks()
    offline(llm, path, clock, Measured(clock), budget=0.001).run()
    other = conflayers.load(save_model(tmp_path / "other", 1))
    with pytest.raises(InputError, match=r"another search, with model .*weights_digest"):
        offline(other, path, clock, Measured(clock))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"seconds": ', '"seconds": -1, "other": '),
        lambda text: text.replace('"prompts": 0, "cand', '"prompts": null, "cand'),
        lambda text: text.replace('"skip_mlp": [', '"skip_mlp": [77, '),
        lambda text: text.replace('"pairs": [[', '"pairs": [[1, '),
        lambda text: text.replace('"compared": {', '"comparing": {'),
    ],
)
def test_a_damaged_progress_file_is_refused(llm, tmp_path, damage):
    path, clock = tmp_path / "progress", Ticks()
    offline(llm, path, clock, Measured(clock), budget=0.001).run()
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(InputError, match="remove it to begin anew"):
        offline(llm, path, clock, Measured(clock))


class Stepping(Ticks):
    """A clock by which every look takes a second."""

    def __call__(self) -> float:
        self.now += 1
        return self.now


def online(llm: Llm, path: Path, method: str, budget: float = 30, **options: object) -> tuple[Search, Outcome]:
    clock = Stepping()
    wanted = Wanted(method, budget, {**options}, max_new_tokens=24)
    search = Search(llm, wanted, PROMPTS, path, measure=Measured(clock), clock=clock)
    return search, search.run()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("swift", {"context_window": 8, "bayes_interval": 0}),
        ("clasp", {}),
        ("conflayers", {"fallback": False}),
        ("conflayers", {"variant": "paper", "context_window": 8}),
    ],
)
def test_methods_that_search_while_decoding_keep_the_plan_in_use(llm, tmp_path, method, options):
    search, outcome = online(llm, tmp_path / "progress", method, **options)
    assert search.progress.prompts >= 1
    assert outcome.plan == search.progress.plan is not None
    assert outcome.plan in search.progress.used
    assert sum(speed.tokens for speed in search.progress.used.values()) == search.progress.prompts * 23
    assert search.progress.pairs


def test_an_online_search_goes_on_with_the_prompts_left_and_the_plan_it_had(llm, tmp_path, monkeypatch):
    path, asked = tmp_path / "progress", []
    monkeypatch.setattr("conflayers.search.run.go_on_with", lambda selector, plan: asked.append(plan))
    decode = llm.generate

    def twice(ids, **arguments):
        if "task" in arguments:
            asked.append(ids)
            if len(asked) == 3:
                raise KeyboardInterrupt
        return decode(ids, **arguments)

    monkeypatch.setattr(llm, "generate", twice)
    with pytest.raises(KeyboardInterrupt):
        online(llm, path, "clasp", budget=1000)
    one, two, three = (llm.encode(text) for text in PROMPTS.prompts)
    assert asked == [one, two, three]
    kept = Progress.load(path, json.loads(path.read_text())["subject"], llm.body.layers)
    assert kept.prompts == 2
    asked.clear()
    search, _ = online(llm, path, "clasp", budget=1000)
    assert asked == [kept.plan, three]
    assert search.progress.prompts == 3


@pytest.mark.parametrize("method", ["swift", "conflayers", "paper", "clasp"])
def test_an_incumbent_is_what_a_new_selector_goes_on_with(llm, method):
    from conflayers.search.watched import go_on_with

    options = {"variant": "paper"} if method == "paper" else {}
    task = llm.task("conflayers" if method == "paper" else method, **options)
    plan = Plan.layers([2])
    go_on_with(task.selector, plan)
    assert task.plan == plan
    assert getattr(task.selector, "searching", True)


def test_swift_scores_the_plan_it_goes_on_with_before_any_other(llm):
    task = llm.task("swift", context_window=8, bayes_interval=0, max_iterations=1)
    task.selector.resume(FULL)  # which names every token itself, as no plan drawn at random does
    llm.generate("the sky", task=task, max_new_tokens=24)
    assert (task.selector.iterations, task.plan, task.selector.score) == (1, FULL, 1.0)


LAYERS_TRIED: dict[Plan | None, Speed] = {
    None: Speed(100, 1.0),
    Plan.layers([2]): Speed(50, 1.0),
    Plan.layers([2, 4]): Speed(60, 1.0),
}


def ended_plainly(llm: Llm, path: Path, faster: float, used: dict[Plan | None, Speed] = LAYERS_TRIED) -> Outcome:
    clock = Ticks()
    wanted = Wanted("conflayers", 10, max_new_tokens=24)
    search = Search(llm, wanted, PROMPTS, path, measure=Measured(clock, faster), clock=clock)
    search.progress.used = dict(used)
    clock.now, search.progress.prompts, search.progress.ended = 0.0, 3, True
    return search.run()


def test_a_method_that_ended_plainly_yields_a_plan_only_if_one_measured_faster(llm, tmp_path):
    faster, slower = (ended_plainly(llm, tmp_path / str(speed), speed) for speed in (1.5, 0.9))
    assert (faster.plan, faster.fallback) == (Plan.layers([2, 4]), True)
    assert faster.speedup == pytest.approx(1.5)
    assert (slower.plan, slower.fallback) == (None, True)
    assert slower.speedup == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("method", "plan", "found"),
    [
        ("fixed", FULL.at("int8"), FULL.at("int8")),
        ("fixed", FULL, None),
        ("lookup", None, None),
    ],
)
def test_all_layers_in_lower_precision_are_a_plan_and_in_whole_precision_or_looked_up_not(
    llm, tmp_path, monkeypatch, method, plan, found
):
    monkeypatch.setattr(Search, "_task", lambda self: llm.task(method, plan))
    search, outcome = online(llm, tmp_path / "progress", "auto")
    assert outcome.plan == search.progress.plan == found
    assert (outcome.fallback, outcome.lookups) == (found is None, method == "lookup")
    assert bool(search.progress.pairs) == (found is not None)


def test_a_precision_that_a_method_tried_is_compared_and_lookups_are_not(llm, tmp_path):
    used = {LOOKUP: Speed(90, 1.0), FULL: Speed(80, 1.0), FULL.at("int8"): Speed(70, 1.0)}
    outcome = ended_plainly(llm, tmp_path / "progress", 2.0, used)
    assert (outcome.plan, outcome.fallback) == (FULL.at("int8"), True)


def test_that_a_method_ended_with_lookups_outlasts_an_interruption(llm, tmp_path):
    path = tmp_path / "progress"
    Progress({}, lookups=True).save(path)
    assert Progress.load(path, {}, llm.body.layers).lookups
    document = json.loads(path.read_text())
    del document["lookups"]
    path.write_text(json.dumps(document))
    assert not Progress.load(path, {}, llm.body.layers).lookups


def test_methods_that_look_at_nothing_are_only_measured(llm, tmp_path):
    search, outcome = online(llm, tmp_path / "progress", "uniform", skip_ratio=0.5)
    assert outcome.plan == Plan.layers([2, 4])
    assert search.progress.prompts == 0
    assert len(search.progress.pairs) >= 1
    _, nothing = online(llm, tmp_path / "nothing", "uniform", skip_ratio=0.0)
    assert nothing.plan is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("vanilla", 5), "method 'vanilla' has no plan to find"),
        (("fixed", 5), "method 'fixed' has no plan to find"),
        (("swfit", 5), "did you mean 'swift'"),
        (("swift", 0), "above 0"),
        (("swift", float("nan")), "budget"),
        (("swift", float("inf")), "above 0"),
        (("swift", 5, {"skip_rato": 1}), "no option 'skip_rato'"),
        (("draft-verify", 5, {"skip_ratio": 1}), "no option 'skip_ratio'"),
        (("draft-verify", 5, {"plan_seed": -1}), "plan_seed"),
        (("draft-verify", 5, {"max_draft_tokens": 0}), "max_draft_tokens"),
        (("swift", 5, {"temperature": 1.0}), "temperature"),
        (("swift", 5, {}, 0), "max_new_tokens"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_without_a_model(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        Wanted(*arguments).check()


def test_a_prompt_that_does_not_fit_is_named_by_its_line(llm, tmp_path):
    data = PromptFile("p.jsonl", "0", ("short", "word " * 200), (1, 7))
    with pytest.raises(InputError, match=r"p.jsonl, line 7: \d+ tokens leave no room"):
        Search(llm, Wanted("swift", 5), data, tmp_path / "progress")


def test_real_speeds_are_measured_on_the_whole_request(llm, tmp_path):
    wanted = Wanted("draft-verify", 0.001, {"max_draft_tokens": 3}, max_new_tokens=12)
    search = Search(llm, wanted, PROMPTS, tmp_path / "progress")
    outcome = search.run()
    assert outcome.plain.tokens == outcome.drafted.tokens == 12
    assert min(outcome.plain.seconds, outcome.drafted.seconds) > 0
    assert search.progress.candidates[0][1] > 0
