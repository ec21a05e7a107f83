"""A look at a candidate against drafting its first token after every position, one by one."""

import pytest
import torch
from planted import planted_model
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from conflayers.api import Llm
from conflayers.chance import Chance
from conflayers.plan import Plan
from conflayers.round import State
from conflayers.sampling import Coupled, Greedy, Sampled
from conflayers.selectors.agreement import SIBLINGS, agreement

TEXT = [int(x) for x in torch.randint(1, 100, (40,), generator=torch.Generator().manual_seed(4))]
PLAN = Plan.layers([1, 3])
COUNT = 12


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model([2]))


def state(llm: Llm, sampler=None, text=TEXT) -> State:
    llm.body.reserve(len(text) + 100)
    llm.body.forward(text[:-1])
    return State(llm.body, sampler or Greedy(LogitsProcessorList()), list(text), 4, 50, frozenset())


def one_by_one(llm: Llm, text: list[int], plan: Plan, count: int) -> torch.Tensor:
    """The draft's logits after each of the last cached tokens, drafted singly behind the whole model's states."""
    rows = []
    for position in range(len(text) - 1 - count, len(text) - 1):
        with llm.body.preserve(position), llm.body.running(plan):
            rows.append(llm.body.forward([text[position]]).logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize("steady", [True, False], ids=["chains", "trees"])
def test_it_is_what_single_first_tokens_would_have_been(llm, steady, monkeypatch):
    monkeypatch.setattr(type(llm.body), "steady", steady)
    request = state(llm)
    slow = one_by_one(llm, TEXT, PLAN, COUNT)
    wanted = sum(int(row.argmax()) == token for row, token in zip(slow, TEXT[-COUNT:], strict=True))
    with llm.body.running(PLAN):
        fast = llm.body.replay(TEXT[-COUNT - 1 : -1]).logits

    named, nearly = agreement(request, PLAN, COUNT)
    likely = [row.topk(1 + SIBLINGS).indices.tolist() for row in slow]
    held = sum(token in row for row, token in zip(likely, TEXT[-COUNT:], strict=True))
    assert (named, named + nearly) == (wanted, wanted if steady else held)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)
    assert llm.body.length == len(TEXT) - 1


def test_the_whole_model_agrees_with_what_it_said(llm):
    text = llm.generate(TEXT[:5], method="vanilla", max_new_tokens=30).token_ids
    request = state(llm, text=[*TEXT[:5], *text])

    assert agreement(request, Plan(), 25) == (25, 0)
    assert agreement(request, Plan.layers(range(1, 11)), 25)[0] < 25


def test_a_look_leaves_the_cache_as_it_is(llm):
    request = state(llm)
    before = llm.body.forward([7]).logits
    llm.body.rollback(len(TEXT) - 1)
    agreement(request, PLAN, COUNT)

    assert torch.equal(llm.body.forward([7]).logits, before)


def test_drawn_tokens_count_by_what_rejection_sampling_would_accept(llm):
    request = state(llm, Sampled(LogitsProcessorList([TemperatureLogitsWarper(0.7)])))
    q = (one_by_one(llm, TEXT, PLAN, COUNT) / 0.7).softmax(-1)
    p = (one_by_one(llm, TEXT, Plan(), COUNT) / 0.7).softmax(-1)

    assert agreement(request, PLAN, COUNT)[0] == pytest.approx(float(torch.minimum(p, q).sum()), abs=1e-3)
    assert agreement(request, Plan(), COUNT)[0] == pytest.approx(COUNT, abs=1e-3)


def test_a_look_draws_nothing(llm):
    generator = torch.Generator().manual_seed(5)
    request = state(llm, Sampled(LogitsProcessorList(), chance=Chance(generator)))
    before = generator.get_state()
    agreement(request, PLAN, COUNT)

    assert torch.equal(generator.get_state(), before)


def test_shared_noise_counts_the_tokens_that_it_would_draw_from_the_draft(llm):
    text = llm.generate(TEXT[:5], method="vanilla", max_new_tokens=30, do_sample=True, top_k=0, seed=11).token_ids
    sampler = Coupled(LogitsProcessorList(), seed=11)
    request = state(llm, sampler, text=[*TEXT[:5], *text])

    assert agreement(request, Plan(), 25) == (25, 0)


def test_without_trees_the_tokens_are_read_as_a_text(llm):
    text = llm.generate(TEXT[:5], method="vanilla", max_new_tokens=30).token_ids
    request = state(llm, text=[*TEXT[:5], *text])
    llm.body.trees = False
    try:
        assert agreement(request, Plan(), 25) == pytest.approx((25, 0))
    finally:
        llm.body.trees = True
