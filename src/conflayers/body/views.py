"""The same matrices in other forms: laid out for the processor, or as whole numbers of 8 or 4 bits.

A view belongs to a draft, whose mistakes the whole model corrects; the target's own products keep every bit. Where an
operator or a shape is missing, the view is not offered, and nobody has to know why to go on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from conflayers.body.linears import Linear

INT8, INT4 = "int8", "int4"
# Weights that share a scale and a lowest value.
GROUP = 32
# Rows that passes are most often over: what a packed layout is made for.
USUAL_ROWS = 8
# A view must be this close to its matrix in the cosine of what both put out: else the operator is not what it seems.
CLOSE = 0.9


class Product(Protocol):
    """A matrix to multiply with: states [tokens, in] to [tokens, out]."""

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [tokens, in] to [tokens, out]."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """The same numbers, laid out once the way the processor's kernel reads them. To the bit what `Linear` puts out."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    bytes: int

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `Product`."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(states, self.weight, self.bias, "none", [], "")
        return out


@dataclass(frozen=True, slots=True)
class Int8:
    """Whole numbers of 8 bits, one scale a row."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None
    bytes: int

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `Product`."""
        out = torch.ops.aten._weight_int8pack_mm.default(_fast(states), self.weight, self.scale)
        return _finished(out, self.bias, states)


@dataclass(frozen=True, slots=True)
class Int4:
    """Whole numbers of 4 bits in groups along the input, with a scale and a lowest value each."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    bytes: int

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `Product`."""
        out = torch.ops.aten._weight_int4pack_mm_for_cpu.default(_fast(states), self.weight, GROUP, self.scales)
        return _finished(out, self.bias, states)


def _fast(states: torch.Tensor) -> torch.Tensor:
    # The kernels are fast in bfloat16 alone, whatever the model computes in.
    return states if states.dtype == torch.bfloat16 else states.to(torch.bfloat16)


def _finished(out: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    if out.dtype != states.dtype:
        out = out.to(states.dtype)
    return out if bias is None else out + bias


def pack(linear: Linear) -> Packed:
    """A bfloat16 matrix on the CPU, laid out for its kernel."""
    laid_out = torch.ops.mkldnn._reorder_linear_weight(linear.weight, USUAL_ROWS)
    return Packed(laid_out, linear.bias, _size(linear.weight))


def _int8(linear: Linear) -> Int8:
    weight = linear.weight.float()
    scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
    whole = weight.div_(scale) if weight is not linear.weight else weight / scale
    rounded = whole.round_().to(torch.int8)
    scales = scale.squeeze(1).to(torch.bfloat16)
    return Int8(rounded, scales, linear.bias, _size(rounded, scales))


def _int4(linear: Linear) -> Int4:
    groups = linear.weight.float().view(len(linear.weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp_(min=1e-6)
    rounded = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(rounded.view(linear.weight.shape).int(), 1)
    # The kernel's numbers are centred on 8.
    scales = torch.stack([scale, low + scale * 8], -1).transpose(0, 1).contiguous().to(torch.bfloat16)
    return Int4(packed, scales, linear.bias, _size(packed, scales))


def _size(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# By precision, who makes a view of a matrix.
Views = Mapping[str, Callable[[Linear], Product]]
VIEWS: Views = {INT8: _int8, INT4: _int4}


def view(linear: Linear, precision: str) -> Product:
    """A matrix in `precision`, one of `VIEWS`."""
    return VIEWS[precision](linear)


@torch.no_grad()
def why_not_view(linear: Linear, precision: str, views: Views = VIEWS) -> str | None:
    """Why a matrix cannot be had in a precision here, in words; None if it can.

    A few of its rows are tried: operators differ by device and by version of torch, and some take only some shapes.

    Args:
        views: who makes it; `VIEWS` are torch's on the CPU.
    """
    weight = linear.weight[: min(64, len(linear.weight))]
    if views is VIEWS and weight.device.type != "cpu":
        return f"torch has no {precision} product for {weight.device.type} that is used here"
    if views is VIEWS and precision == INT4 and (weight.shape[1] % GROUP or len(linear.weight) % 16):
        return f"int4 takes matrices in groups of {GROUP}, and one is {tuple(linear.weight.shape)}"
    states = torch.randn(1, weight.shape[1], generator=torch.Generator().manual_seed(0))
    states = states.to(weight.device, weight.dtype)
    try:
        found = views[precision](Linear(weight, None))(states)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what compilers of kernels raise is their own
        return f"it cannot be multiplied with: {(str(error).splitlines() or [type(error).__name__])[0]}"
    wanted = functional.linear(states, weight)
    close = float(functional.cosine_similarity(found.float(), wanted.float()))
    return None if close >= CLOSE else f"its {precision} product is off (cosine {close:.2f})"
