"""Mistakes that the released code of ConfLayers and of SWIFT makes, and that no method here may make.

Each test below fails if its mistake is planted. The others were tested for elsewhere already:

| mistake of the released code | what shows that it is not made here |
|---|---|
| trees: siblings that see each other, padded paths, siblings in the acceptance rate | drafters/test_tree_traps.py |
| attention and MLP outputs change places | selectors/test_confidence.py::test_attention_comes_first |
| scores in float16 and windows by exact equality decide by rounding | \
selectors/test_valley.py::test_leading_run_is_exact_at_tolerance_zero_and_forgiving_above |
| the best candidate by accepted tokens alone, whatever it costs | \
selectors/test_contest.py::test_a_plan_that_cannot_pay_is_hardly_drafted_with |
| the last candidate stays in use, not the best | \
selectors/test_contest.py::test_the_best_gets_most_turns_whatever_was_entered_last |
| candidates scored behind the wrong prefix | \
selectors/test_swift.py::test_matchness_is_the_share_of_tokens_the_draft_names_itself |
| the bonus token drawn from other probabilities than the draft was accepted with | \
test_distribution.py::test_the_first_three_tokens_follow_the_targets_distribution |
| more tokens than asked for, counted | test_api.py::test_exactly_the_tokens_asked_for, \
faults/test_stops.py::test_the_limit_cuts_wherever_it_falls |
| tokens behind the end of the text, counted | \
faults/test_stops.py::test_the_text_ends_with_its_end_token_wherever_that_falls, \
faults/test_stops.py::test_tokens_accepted_behind_the_end_are_counted_as_accepted_and_not_as_new |
| skipping nothing is never among KnapSpec's choices | \
selectors/test_layer_programmes.py::test_knapspec_would_rather_skip_nothing_than_what_is_never_accepted |

Two are part of the search as published and therefore of `variant="paper"`: a score pass at every step while too little
is skipped, and trials that short answers never finish.
"""

import random
import re
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from doubles import GREEDY, FakeBody, Ticks, expected, run
from planted import planted_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conflayers import FULL, Llm, Plan
from conflayers.body.cache import STEP
from conflayers.body.contract import Pass, Trace, one_by_one
from conflayers.decoding import decode
from conflayers.draft import MOST_SIBLINGS
from conflayers.methods import METHODS, build_method
from conflayers.stats import Stats

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
PLAN = Plan.layers([2, 4])
SHORT = {"interval": 4, "context_window": 8}
SEARCHES = {
    "default": {"method": "conflayers", **SHORT},
    "paper": {"method": "conflayers", "variant": "paper", **SHORT},
    "swift": {"method": "swift", "context_window": 8, "bayes_interval": 0},
    "clasp": {"method": "clasp", "interval": 8},
    "knapspec": {"method": "knapspec", "interval": 8},
    "cosine": {"method": "cosine", "threshold": 0.5},
}
each_search = pytest.mark.parametrize("search", SEARCHES)


def task_of(llm: Llm, search: str, **more: object):
    """A new task; of the shared settings those that its method has."""
    options = {**SEARCHES[search], **more}
    name = options.pop("method")
    return llm.task(name, **{k: v for k, v in options.items() if k in METHODS[name].options or k in more})


def watched(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that the body runs with, from now on."""
    used, running = [], llm.body.running

    def note(plan: Plan):
        used.append(plan)
        return running(plan)

    monkeypatch.setattr(llm.body, "running", note)
    return used


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model([2, 4, 7]))


def test_the_table_above_names_tests_that_exist():
    named = re.findall(r"([\w/]+\.py)::(test_\w+)", str(__doc__))
    folder = Path(__file__).parents[1]

    assert len(named) > 9
    assert [name for path, name in named if f"def {name}(" not in (folder / path).read_text(encoding="utf-8")] == []


# --- searches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["default", "paper", "swift"])
def test_a_search_that_ends_with_nothing_found_does_not_draft_with_the_whole_model(search, monkeypatch):
    llm, drafting = Llm(planted_model([])), [False]
    running, wrong = llm.body.running, torch.eye(128)[127]
    plain = llm.generate(PROMPT, method="vanilla", max_new_tokens=120).token_ids
    assert 127 not in plain

    @contextmanager
    def noted(plan: Plan):
        drafting[0] = plan != FULL
        with running(plan):
            yield
        drafting[0] = False

    def never_right(run_pass):
        def run(*args, **kwargs):
            output = run_pass(*args, **kwargs)
            return Pass(output.logits.clone().copy_(wrong), output.trace) if drafting[0] else output

        return run

    monkeypatch.setattr(llm.body, "running", noted)
    for name in ("forward", "replay"):
        monkeypatch.setattr(llm.body, name, never_right(getattr(llm.body, name)))
    monkeypatch.setattr(llm.body, "chain", partial(one_by_one, llm.body.forward))
    limit = {} if search == "default" else {"max_iterations": 3}
    task = task_of(llm, search, tree="none", **limit)
    result = llm.generate(PROMPT, task=task, max_new_tokens=120)
    assert result.token_ids == plain
    assert result.stats.num_accepted_draft_tokens == 0
    used = watched(llm, monkeypatch)

    again = llm.generate(PROMPT, task=task, max_new_tokens=60)

    assert again.token_ids == plain[:60]
    if search == "default":
        assert task.plan is None
        assert FULL not in used
    else:
        assert "search ended after 3 candidates" in task.decisions[-1]
        assert task.plan.skipped
        # What is reported is what is used.
        assert set(used) == {task.plan}


@each_search
def test_a_given_plan_is_neither_searched_over_nor_replaced(llm, search, monkeypatch):
    recorded, passes, forward = [], [], llm.body.forward
    name = SEARCHES[search]["method"]
    variant = {"variant": "paper"} if search == "paper" else {}
    task = llm.task(name, PLAN, **variant, draft_length=2, tree="none")
    used = watched(llm, monkeypatch)

    def noted(tokens, *, parents=None, rows=None, record=0):
        recorded.append(record)
        passes.append(len(tokens))
        return forward(tokens, parents=parents, rows=rows, record=record)

    monkeypatch.setattr(llm.body, "forward", noted)
    # More than the longest window that a search waits for.
    stats = llm.generate(PROMPT, task=task, max_new_tokens=130).stats

    assert set(used) == {PLAN}
    assert task.plan == PLAN or (search == "default" and task.plan is None)
    assert not any(recorded)
    assert len(passes) == 1 + stats.num_spec_steps + stats.num_plain_steps + stats.num_draft_tokens


def module_state() -> dict[str, str]:
    """What the modules and classes of selectors and drafters hold, and the generators that all share."""
    held = {"random": repr(random.getstate()), "torch": repr(torch.get_rng_state().tolist())}
    for name, module in list(sys.modules.items()):
        if not name.startswith(("conflayers.selectors", "conflayers.drafters", "conflayers.methods")):
            continue
        kinds = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name]
        for owner in (module, *kinds):
            for key, value in vars(owner).items():
                if not key.startswith("__") and not callable(value):
                    held[f"{name} {owner!r} {key}"] = repr(value)
    return held


@each_search
def test_what_one_task_found_is_in_that_task_alone(llm, search, monkeypatch):
    other, before = [9, 9, 8], module_state()
    used = watched(llm, monkeypatch)

    def plans_of(task, prompt):
        used.clear()
        llm.generate(prompt, task=task, max_new_tokens=50)
        return [plan for at, plan in enumerate(used) if not at or plan != used[at - 1]]

    alone = plans_of(task_of(llm, search), other)
    taught = task_of(llm, search)
    for first in range(2):
        plans_of(taught, [first, *PROMPT])
    after = plans_of(task_of(llm, search), other)

    assert module_state() == before
    # The other two decide by measured time.
    if search not in ("default", "knapspec"):
        assert after == alone != []


def test_one_lucky_stretch_does_not_settle_the_default():
    class Priced(FakeBody):
        def forward(self, tokens, **arguments):
            output = super().forward(tokens, **arguments)
            clock.now += 3.0 if self.plan.skipped else 10.0
            return output

    clock = Ticks()
    body = Priced(agrees=lambda plan, position: position < 200)
    task = build_method("conflayers", body.layers, PLAN, draft_length=3, tree="none")

    tokens, lucky = run(body, task, 190, clock=clock)
    assert tokens == expected(190)
    assert lucky.mean_acceptance_length > 2
    assert task.plan == PLAN
    prompt = list(range(1, 250))
    begun = clock.now
    run(body, task, 300, prompt=[token % 50 for token in prompt], clock=clock)

    assert task.plan is None
    assert (clock.now - begun) / (300 * 10) < 1.2


class Valleys(FakeBody):
    """A fake body in whose traces layers 3 and 6 are less sure of themselves than the others."""

    def forward(self, tokens, *, parents=None, rows=None, record=0):
        output = super().forward(tokens, parents=parents, rows=rows, record=record)
        if output.trace is None:
            return output
        sure = torch.tensor([9.0, 0.0, 0.0, 0.0]).expand(record, 4)
        states = [torch.zeros(record, 4) if layer in (3, 6) else sure for layer in range(self.layers)]
        return type(output)(output.logits, Trace(states, states))


@pytest.mark.parametrize("interval", [4, 5])
def test_the_published_search_drops_a_bad_candidate_half_way_through_an_odd_interval_too(interval):
    body = Valleys(agrees=lambda plan, position: False, layers=10)
    options = {"context_window": 4, "skip_ratio": 0.2, "draft_length": 2, "tree": "none"}
    task = build_method("conflayers", 10, variant="paper", interval=interval, **options)

    run(body, task, 26)

    # From the sixth token on, whose round selects, each 2 rounds; the last tokens are not drafted for.
    assert task.plan == Plan.layers([3, 6])
    assert body.recorded == 4 * (1 + (24 - 6) // 2)


# --- memory ---------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most bytes that one operation allocates inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        output = func(*args, **(kwargs or {}))
        for one in tree_leaves(output):
            if torch.is_tensor(one) and one.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return output


@each_search
def test_the_cache_is_as_large_as_the_request_and_is_never_copied(search):
    # Wide enough that a copy of the cache is larger than the mask of a tree of many branches.
    model = planted_model([2, 4], layers=8, hidden=128)
    model.config.max_position_embeddings = 8192
    llm, tokens = Llm(model), 0
    rounds = decode(
        llm.body,
        task_of(llm, search),
        PROMPT,
        sampler=GREEDY,
        max_new_tokens=7900,
        end=frozenset(),
        stats=Stats(),
    )
    next(rounds)
    assert llm.body.context == 8192
    buffers = [buffer for layer in llm.body.cache.layers for buffer in (layer.keys, layer.values)]
    assert {buffer.shape[2] for buffer in buffers} == {-(-(len(PROMPT) + 7900 + MOST_SIBLINGS) // STEP) * STEP}

    with Largest() as largest:
        while tokens < 36:
            tokens += len(next(rounds))
    rounds.close()

    again = [buffer for layer in llm.body.cache.layers for buffer in (layer.keys, layer.values)]
    assert [one.data_ptr() for one in again] == [one.data_ptr() for one in buffers]
    assert 0 < largest.bytes < buffers[0].untyped_storage().nbytes() / 2
