"""Views of lower precision by torchao, for devices that have no kernels here: Apple's, Intel's, AMD's.

It is no dependency: where it is not installed, or cannot do what is asked of it on a device, there are no such views.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from conflayers.body.linears import Linear
from conflayers.body.views import GROUP, INT4, INT8


@dataclass(frozen=True, slots=True)
class Quantised:
    """A module whose weight torchao has put in whole numbers.

    Attributes:
        bytes: held beside the model's own weights.
    """

    module: nn.Module
    bytes: int

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`."""
        out: torch.Tensor = self.module(states)
        return out


def why_not() -> str | None:
    """Why there are no views by torchao, in words; None if it can be asked."""
    return None if importlib.util.find_spec("torchao") else "torchao is not installed, which has them for other devices"


def _quantised(linear: Linear, config: Any, bits: int) -> Quantised:
    from torchao.quantization import quantize_

    outs, ins = linear.weight.shape
    # On no device: torchao wants a module, and its weight is the model's own until it is replaced.
    inner = nn.Linear(ins, outs, bias=linear.bias is not None, device="meta")
    inner.weight = nn.Parameter(linear.weight, requires_grad=False)
    if linear.bias is not None:
        inner.bias = nn.Parameter(linear.bias, requires_grad=False)
    module = nn.Sequential(inner)
    quantize_(module, config)
    return Quantised(module[0], outs * ins * bits // 8)


def _int8(linear: Linear) -> Quantised:
    from torchao.quantization import Int8WeightOnlyConfig

    return _quantised(linear, Int8WeightOnlyConfig(), 8)


def _int4(linear: Linear) -> Quantised:
    from torchao.quantization import Int4WeightOnlyConfig

    return _quantised(linear, Int4WeightOnlyConfig(group_size=GROUP), 4)


VIEWS: dict[str, Callable[[Linear], Quantised]] = {INT8: _int8, INT4: _int4}
