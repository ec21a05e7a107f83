"""What a layer does beside its products and its attention, in as few operators as torch lets us."""

from dataclasses import dataclass

import torch
from torch.nn import functional

# Up to so many tokens a pass is short, and its time is that of launching operators.
SHORT = 32


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Divides by the root of the mean square, and scales.

    On the CPU torch has no kernel for it, but a dozen small operators. It has one for the layer norm, and that of a
    vector together with its negative is this one: their mean is zero, and their variance the mean square.

    Attributes:
        weight: [width].
        twice: the same, twice in a row.
        eps: added to the mean square.
    """

    weight: torch.Tensor
    twice: torch.Tensor
    eps: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [tokens, ..., width] to the same shape."""
        width = len(self.weight)
        if len(states) > SHORT or states.device.type != "cpu":
            return functional.rms_norm(states, (width,), self.weight, self.eps)
        mirrored = torch.cat([states, states.neg()], -1)
        normed = functional.layer_norm(mirrored, (2 * width,), self.twice, None, self.eps)
        return normed.narrow(-1, 0, width).contiguous()


def rms_norm(weight: torch.Tensor, eps: float) -> RmsNorm:
    """The norm that a module with this weight computes."""
    return RmsNorm(weight, torch.cat([weight, weight]), eps)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries and keys [tokens, heads, width] by position; the sine carries the sign, so that one roll does."""
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin)


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """Gate and up [tokens, 2 * inner], one after the other, to what goes down [tokens, inner]."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate).mul_(up)
