"""How sure a sublayer is of itself: the entropy of its output over the hidden channels (ConfLayers, section 3)."""

import math

import torch

from conflayers.body.contract import Trace

# The range in which exp() of a float32 stays finite and normal; the published rule clamps to it.
LOWEST, HIGHEST = -87.3, 88.7


def confidence(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Confidence of each sublayer for each token: 1 - H(softmax over the channels) / log(channels).

    0 for an output whose channels are all alike, towards 1 when one channel stands out.

    Args:
        outputs: per layer, the sublayer's output, [tokens, hidden].

    Returns:
        [layers, tokens], float32 on the CPU.
    """
    channels = torch.stack(outputs).float().clamp(LOWEST, HIGHEST)  # [layers, tokens, hidden]
    # From logarithms of the shares: to take that of every share afterwards takes twice as long.
    logarithms = channels.log_softmax(-1)
    entropy = -(logarithms.exp() * logarithms).sum(-1)
    certainty: torch.Tensor = 1 - entropy / math.log(channels.shape[-1])
    return certainty.cpu()


def sublayer_confidences(trace: Trace) -> torch.Tensor:
    """Confidence of every attention and MLP for the tokens of a trace, [2, layers, tokens]: attention first."""
    both = confidence([*trace.attention, *trace.mlp])
    return both.view(2, len(trace.attention), -1)
