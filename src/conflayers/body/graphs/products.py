"""Matrices that the accelerator's kernels multiply with: as they lie in memory, and views of 8 and 4 bits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from conflayers.body.graphs import launches
from conflayers.body.graphs.launches import KINDS, ROWS
from conflayers.body.linears import Linear
from conflayers.body.views import INT4, INT8
from conflayers.plan import WHOLE

# Weights that share a scale in 4 bits, the first that there are whole pairs of: the fewer scales the faster.
GROUPS = (128, 64, 32)
# Times that products are timed.
TURNS = 5
# What they are written for.
DTYPES = (torch.bfloat16, torch.float16)


def why_not(weight: torch.Tensor) -> str | None:
    """Why the kernels cannot multiply with a matrix [out, in], in words; None if they can."""
    if (reason := launches.why_not(weight.device)) is not None:
        return reason
    if weight.dtype not in DTYPES:
        return f"there are none for {weight.dtype} on {weight.device.type}"
    if weight.shape[0] % 8 or weight.shape[1] % 8:
        return f"they take whole multiples of 8 outputs and inputs, and a matrix is {tuple(weight.shape)}"
    if not weight.is_contiguous():
        return "a matrix does not lie row by row"
    return None


def why_not_rounded(weight: torch.Tensor) -> str | None:
    """Why the kernels have no views of a matrix, in words; None if they have."""
    if weight.shape[1] % (2 * GROUPS[-1]):
        return f"views take whole multiples of {2 * GROUPS[-1]} inputs, and a matrix is {tuple(weight.shape)}"
    return why_not(weight)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the kernels.

    Attributes:
        weight: [out, in], as it is or as whole numbers of 8 bits; in 4 bits two to a byte,
            [in / (2 * group), out, group].
        scales: in 8 bits of every row, [out] in float32; in 4 bits of every group, [in / group, out].
        dtype: of what it takes and puts out.
        bytes: held beside the model's own weights.
    """

    weight: torch.Tensor
    scales: torch.Tensor | None
    bias: torch.Tensor | None
    kind: int
    dtype: torch.dtype
    bytes: int = 0

    @property
    def outs(self) -> int:
        """Rows of the matrix."""
        return self.weight.shape[1] if self.kind == KINDS[INT4] else self.weight.shape[0]

    @property
    def ins(self) -> int:
        """Its columns."""
        return self.weight.shape[0] * 2 * self.group if self.kind == KINDS[INT4] else self.weight.shape[1]

    @property
    def group(self) -> int:
        """Weights that share a scale in 4 bits."""
        return self.weight.shape[-1] if self.kind == KINDS[INT4] else GROUPS[-1]

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`: in passes that are no graphs."""
        if self.kind == KINDS[WHOLE]:
            return functional.linear(states, self.weight, self.bias)
        rows = states.shape[0]
        # Kernels take whole blocks of rows.
        padded = functional.pad(states.to(self.dtype), (0, 0, 0, -rows % ROWS)).contiguous()
        out = padded.new_empty(len(padded), self.outs)
        with launches.on(states.device):
            launches.multiply(None, self, padded, out, len(padded))
        return out[:rows].to(states.dtype)


def plain(linear: Linear) -> Matrix:
    """A matrix that `why_not` has nothing against, without a copy."""
    return Matrix(linear.weight, None, linear.bias, KINDS[WHOLE], linear.weight.dtype)


def int8(linear: Linear) -> Matrix:
    """Whole numbers of 8 bits, one scale a row."""
    weight = linear.weight.float()
    scale = (weight.abs().amax(1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
    rounded = (weight / scale[:, None]).round_().to(torch.int8)
    return _view(linear, rounded, scale, INT8)


def int4(linear: Linear) -> Matrix:
    """Whole numbers of 4 bits in groups along the input, with a scale each: -8 to 7, the largest being -8."""
    outs, ins = linear.weight.shape
    group = next(some for some in GROUPS if ins % (2 * some) == 0)
    groups = linear.weight.float().view(outs, -1, group)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    # Rounded as they will be read.
    scales = (largest / -8).to(linear.weight.dtype)
    exact = scales.float()
    rounded = (groups / exact.where(exact != 0, 1.0)).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
    below, above = rounded.view(outs, -1, 2, group).unbind(2)
    packed = (below | above << 4).transpose(0, 1).contiguous()
    return _view(linear, packed, scales[..., 0].T.contiguous(), INT4)


def _view(linear: Linear, weight: torch.Tensor, scales: torch.Tensor, precision: str) -> Matrix:
    size = sum(tensor.numel() * tensor.element_size() for tensor in (weight, scales))
    return Matrix(weight, scales, linear.bias, KINDS[precision], linear.weight.dtype, size)


VIEWS: dict[str, Callable[[Linear], Matrix]] = {INT8: int8, INT4: int4}


@torch.no_grad()
def seconds(matrices: Sequence[Matrix]) -> float:
    """What one row times each of these takes where they are launched as one, the best of a few times."""
    device, turns = matrices[0].weight.device, []
    given = torch.ones(1, dtype=torch.int32, device=device)
    rows = [torch.randn(ROWS, one.ins, dtype=torch.float32).to(device, one.dtype) for one in matrices]
    outs = [states.new_empty(ROWS, one.outs) for one, states in zip(matrices, rows, strict=True)]

    def run() -> None:
        for one, states, out in zip(matrices, rows, outs, strict=True):
            launches.multiply(given, one, states, out, 1)

    with launches.on(device):
        run()
        again = launches.recorded(run, device)
        for _ in range(TURNS):
            begun = time.perf_counter()
            again()
            launches.wait(device)
            turns.append(time.perf_counter() - begun)
    return min(turns)
