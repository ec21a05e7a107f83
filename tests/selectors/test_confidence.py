import math

import pytest
import torch

from conflayers.body.contract import Trace
from conflayers.selectors.confidence import confidence, sublayer_confidences


def by_hand(row: list[float]) -> float:
    """1 - H(softmax) / log d of one token's channels."""
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    shares = [w / sum(weights) for w in weights]
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    return 1 - entropy / math.log(len(row))


def test_equals_the_formula_by_hand():
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(5, 7, generator=generator) * 3 for _ in range(3)]

    found = confidence(outputs)

    wanted = torch.tensor([[by_hand(row) for row in output.tolist()] for output in outputs])
    assert found.shape == (3, 5)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_runs_from_all_alike_to_one_channel_standing_out():
    alike, alone = torch.zeros(1, 8), torch.zeros(1, 8)
    alone[0, 3] = 80.0

    found = confidence([alike, alone])

    assert found.flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_extreme_outputs_stay_finite():
    huge = torch.tensor([[1e30, -1e30, 0.0, 5.0]])

    assert torch.isfinite(confidence([huge, huge.half().clamp(-6e4, 6e4)])).all()


def test_attention_comes_first():
    sharp, flat = torch.tensor([[50.0, 0.0, 0.0]]), torch.zeros(1, 3)

    found = sublayer_confidences(Trace(attention=[sharp, flat], mlp=[flat, flat]))

    assert found.shape == (2, 2, 1)
    assert found[0, 0, 0] > 0.99
    assert found.flatten()[1:].abs().max() < 1e-6
