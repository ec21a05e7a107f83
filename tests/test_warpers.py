import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from conflayers.warpers import CANDIDATES, QuickTopP, quick

VOCABULARY = 8 * CANDIDATES
IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_tokens_are_kept_as_by_transformers(seed, spread, top_p):
    scores = spread * torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    original = TopPLogitsWarper(top_p, min_tokens_to_keep=1)

    assert torch.equal(QuickTopP(original)(IDS, scores.clone()), original(IDS, scores.clone()))


def test_at_least_as_many_are_kept_as_asked_for():
    scores = torch.zeros(1, VOCABULARY)
    scores[0, 7], scores[0, 9] = 50.0, 20.0
    original = TopPLogitsWarper(0.5, min_tokens_to_keep=2)

    kept = QuickTopP(original)(IDS, scores).isfinite().nonzero()[:, 1].tolist()
    assert kept == [7, 9]


def test_scores_with_tokens_ruled_out_and_scores_that_are_no_numbers():
    scores = torch.full((1, VOCABULARY), -float("inf"))
    scores[0, [3, 5]] = torch.tensor([1.0, 2.0])
    original = TopPLogitsWarper(0.6)
    assert torch.equal(QuickTopP(original)(IDS, scores.clone()), original(IDS, scores.clone()))
    scores[0, 9] = float("nan")
    assert QuickTopP(original)(IDS, scores.clone()).shape == scores.shape


def test_only_what_has_a_stand_in_is_replaced():
    temperature, top_p = TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.9)

    class Mine(TopPLogitsWarper):
        pass

    mine = Mine(0.9)
    assert [type(one) for one in quick(LogitsProcessorList([temperature, top_p, mine]))] == [
        TemperatureLogitsWarper,
        QuickTopP,
        Mine,
    ]
    same = LogitsProcessorList([temperature, mine])
    assert quick(same) is same
