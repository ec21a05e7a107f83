"""Finding the likeliest token."""

import pytest
import torch

from conflayers.sampling import BLOCK, likeliest


@pytest.mark.parametrize("shape", [(64,), (3, 640), (1, 49152), (2, 3, 128), (5, 100), (0, 128)])
def test_the_likeliest_is_the_argmax_and_of_several_the_first(shape):
    for seed in range(20):
        # Few different numbers: most rows have several largest.
        scores = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
        assert torch.equal(likeliest(scores), scores.argmax(-1))
        scores = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(likeliest(scores), scores.argmax(-1))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_or_has_no_end(odd):
    scores = torch.randn(4 * BLOCK)
    for places in ([0], [5], [200], [70, 71, 3]):
        changed = scores.clone()
        changed[places] = odd
        assert likeliest(changed) == changed.argmax()
    assert likeliest(torch.full((2 * BLOCK,), odd)) == 0
