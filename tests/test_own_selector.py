"""A selector of one's own, in one file outside of the package: wherever a method's name goes, its object goes too."""

from dataclasses import dataclass, field

import pytest
import torch
from planted import planted_model

import conflayers
from conflayers import InputError, Llm, Plan
from conflayers.methods import build_method

PROMPT = [1, 2, 3, 4, 5]
IDLE = [2, 4]


@dataclass(eq=True)  # and so without a hash, as many a user's class
class Alternating:
    """Skips one layer after the other, and counts what it is told."""

    layers: tuple[int, ...] = (2, 4)
    plan: Plan | None = None
    decisions: list[str] = field(default_factory=list)
    prompts: int = 0
    rounds: int = 0
    rows: int = 0

    def start(self, state, prefill):
        self.prompts += 1
        self.rows += prefill.tokens

    def choose(self):
        self.plan = Plan.layers([self.layers[self.rounds % len(self.layers)]])
        return self.plan

    def wants(self):
        return 2

    def learn(self, state, done):
        self.rounds += 1
        self.rows += done.trace.tokens
        if not done.accepted:
            self.decisions.append(f"{done.plan}: nothing accepted")


class Deaf:
    """Cannot learn."""

    def start(self, state, prefill): ...
    def choose(self): ...
    def wants(self): ...

    learn = None


class Choosing(Alternating):
    """Chooses something else than a plan."""

    def choose(self):
        return [2, 4]


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model(IDLE))


@pytest.fixture(scope="module")
def plain(llm) -> list[int]:
    return llm.generate(PROMPT, method="vanilla", max_new_tokens=40).token_ids


def test_it_drafts_and_the_text_is_the_models_own(llm, plain):
    mine = Alternating()

    result = llm.generate(PROMPT, method=mine, max_new_tokens=40, draft_length=3, tree="none")

    assert result.token_ids == plain
    assert result.stats.num_accepted_draft_tokens > 20
    assert result.plan == mine.plan
    assert (mine.prompts, mine.rounds) == (1, result.stats.num_spec_steps + result.stats.num_plain_steps)
    # Of every verification at most the last committed token and those accepted.
    assert mine.rows > mine.rounds


def test_what_it_decides_is_reported(llm, plain):
    result = llm.generate(PROMPT, method=Alternating((1, 3)), max_new_tokens=40, draft_length=1)

    assert result.token_ids == plain
    assert result.decisions
    assert all("nothing accepted" in decision for decision in result.decisions)


def test_all_doors_take_it(llm, plain):
    task = llm.task(Alternating(), draft_length=3)
    assert task.name == "Alternating"
    assert llm.generate(PROMPT, task=task, max_new_tokens=40).token_ids == plain

    with llm.stream(PROMPT, method=Alternating(), max_new_tokens=40, tree="paper") as stream:
        list(stream)
    assert stream.result.token_ids == plain
    assert stream.result.stats.num_sibling_tokens > 0

    drafting = conflayers.SelfSpeculative(Alternating(), draft_length=3)
    ids = torch.tensor([PROMPT])
    output = llm.model.generate(ids, custom_generate=drafting, max_new_tokens=40, do_sample=False)
    assert output[0, len(PROMPT) :].tolist() == plain
    assert drafting.stats.num_spec_steps > 0


def test_the_object_goes_on_where_it_stopped_and_another_begins_anew(llm):
    mine = Alternating()
    for _ in range(2):
        llm.generate(PROMPT, method=mine, max_new_tokens=8)

    assert mine.prompts == 2
    assert Alternating().prompts == 0


def test_it_may_be_sampled_with(llm):
    texts = [
        llm.generate(PROMPT, method=method, max_new_tokens=20, temperature=0.9, seed=3).token_ids
        for method in (Alternating(), "vanilla")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"interval": 4}, r"method 'Alternating' has no option 'interval'.*; its options: fallback, draft_length"),
        ({"fallback": 1}, "fallback must be true or false"),
        ({"max_new_token": 5}, r"did you mean 'max_new_tokens'\?"),
        ({"num_beams": 2}, "'num_beams' is not honoured here"),
        ({"draft_length": 0}, "draft_length must be a whole number of 1 or more"),
        ({"tree": "wide"}, "tree must be"),
        ({"plan": Plan.layers([2])}, r"Alternating names the plans itself: leave out plan, or use method 'fixed'"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused_by_name(llm, arguments, complaint):
    mine = Alternating()

    with pytest.raises(InputError, match=complaint):
        llm.generate(PROMPT, method=mine, **arguments)
    assert mine == Alternating()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (5, r"a selector, an object with start\(\), choose\(\), wants\(\) and learn\(\).*, not 5"),
        (["conflayers"], r"a name of the table or a selector.*not \['conflayers'\]"),
        (Plan.layers([2]), "a name of the table or a selector"),
        (Deaf(), r"the selector Deaf lacks learn\(\)"),
        (Deaf, r"the selector Deaf lacks learn\(\)"),
        (Alternating, r"method is the class Alternating itself: give an object of it, method=Alternating\(...\)"),
        (build_method("vanilla", 12), "method is a task, as Llm.task returns it: give it as task="),
        ("", "no method ''"),
    ],
    ids=["number", "list", "plan", "deaf object", "deaf class", "class", "task", "no name"],
)
def test_what_is_no_method_is_refused_at_every_door(llm, given, complaint):
    doors = (llm.task, lambda method: llm.generate(PROMPT, method=method), conflayers.SelfSpeculative)
    for door in doors:
        with pytest.raises(InputError, match=complaint):
            door(given)


def test_a_choice_that_is_no_plan_names_the_selector_and_leaves_the_model_ready(llm, plain):
    with pytest.raises(InputError, match=r"Choosing.choose\(\) must return a Plan or None, not \[2, 4\]"):
        llm.generate(PROMPT, method=Choosing(), max_new_tokens=8)

    assert llm.generate(PROMPT, method="vanilla", max_new_tokens=40).token_ids == plain
