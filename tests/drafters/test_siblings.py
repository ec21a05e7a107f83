"""How wide drafts are, by each rule."""

import pytest
import torch
from transformers import LogitsProcessorList

from conflayers.chance import Chance
from conflayers.costs import Costs
from conflayers.drafters.calibration import Calibration
from conflayers.drafters.siblings import NoSiblings, PublishedSiblings, WorthwhileSiblings
from conflayers.plan import Plan
from conflayers.sampling import Coupled, Greedy, Sampled

PLAN = Plan.layers([1])
PROBABILITIES = torch.tensor([0.02, 0.4, 0.2, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.0])


def greedy_proposal(p: torch.Tensor = PROBABILITIES):
    sampler = Greedy(LogitsProcessorList())
    return sampler, sampler.propose([1], p.log())


def surely(p: float) -> torch.Tensor:
    return torch.tensor([p, *[(1 - p) / 15] * 15])


@pytest.mark.parametrize(("confidence", "width", "drawn"), [(0.96, 3, 1), (0.9, 5, 3), (0.6, 8, 5), (0.4, 10, 10)])
def test_published_widths(confidence, width, drawn):
    sampler, proposal = greedy_proposal(surely(confidence))
    assert len(PublishedSiblings().beside(proposal, [], PLAN, sampler)) == width - 1
    random = Sampled(LogitsProcessorList(), chance=Chance(torch.Generator().manual_seed(0)))
    proposal = random.propose([1], surely(confidence).log())
    assert len(PublishedSiblings().beside(proposal, [], PLAN, random)) == drawn - 1


def test_a_chain_has_none():
    sampler, proposal = greedy_proposal()
    assert NoSiblings().beside(proposal, [], PLAN, sampler) == []


def test_siblings_are_the_next_likeliest_and_never_the_token_itself_nor_an_impossible_one():
    sampler, proposal = greedy_proposal()

    assert proposal.token == 1
    assert sampler.siblings(proposal, 3, lambda p: True) == [2, 3, 4]
    assert sorted(sampler.siblings(proposal, 50, lambda p: True)) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["residual", "coupled"])
def test_drawn_siblings_are_distinct_and_possible(kind, seed):
    if kind == "residual":
        sampler = Sampled(LogitsProcessorList(), chance=Chance(torch.Generator().manual_seed(seed)))
    else:
        sampler = Coupled(LogitsProcessorList(), seed=seed)
    proposal = sampler.propose([1], PROBABILITIES.log())
    found = [proposal.token, *sampler.siblings(proposal, 50, lambda p: True)]

    assert sorted(found) == list(range(10))


def measured(row: float) -> Costs:
    costs = Costs(layers=4)
    for _ in range(3):
        costs.observe(None, steps=0, rows=1, kept=1, draft_seconds=0.0, verify_seconds=10.0)
        for rows in (3, 5):
            seconds = 10.0 + (rows - 1) * row
            costs.observe(PLAN, steps=4, rows=rows, kept=5, draft_seconds=20.0, verify_seconds=seconds)
    costs.token_seconds = 10.0
    return costs


@pytest.mark.parametrize(
    ("row", "siblings"), [(0.9, [2, 3]), (1.9, [2]), (3.0, []), (0.0, [2, 3, 4, 5, 6, 7, 8, 0, 9])]
)
def test_as_many_siblings_as_pay_for_their_row(row, siblings):
    # A token costs 10, so the sibling of probability 0.2 saves 2, that of 0.1 saves 1, and so on.
    rule = WorthwhileSiblings(measured(row), Calibration())
    sampler, proposal = greedy_proposal()

    found = rule.beside(proposal, [], PLAN, sampler)
    assert sorted(found) == sorted(siblings)


def test_siblings_deep_in_a_doubtful_draft_are_worth_less():
    rule = WorthwhileSiblings(measured(0.9), Calibration())
    sampler, proposal = greedy_proposal()

    assert rule.beside(proposal, [0.5], PLAN, sampler) == [2]
    assert rule.beside(proposal, [0.5, 0.5], PLAN, sampler) == []


def test_no_siblings_before_the_price_of_a_row_is_known():
    sampler, proposal = greedy_proposal()
    assert WorthwhileSiblings(Costs(layers=4), Calibration()).beside(proposal, [], PLAN, sampler) == []
