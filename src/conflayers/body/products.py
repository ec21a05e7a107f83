"""Matrices that the compiled kernels multiply with: as they lie in memory, and views of 8 and 4 bits.

The processor has to multiply and add vectors of floats in one instruction (AVX2 with FMA). Elsewhere `linears` and
`views` have torch's.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from conflayers.body import kernels
from conflayers.body.linears import Linear
from conflayers.body.steady import MOST_ROWS
from conflayers.body.views import GROUP, INT4, INT8

# Outputs that are computed at once; matrices have whole numbers of them, and of groups of inputs.
OUTS = 16
# As the kernels number them.
_PLAIN, _INT8, _INT4 = range(3)


class Record(ctypes.Structure):
    """A product as the kernels know it; see `Product` in products.h."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outs", ctypes.c_int64),
        ("ins", ctypes.c_int64),
    )


def why_not(weight: torch.Tensor) -> str | None:
    """Why the kernels cannot multiply with a matrix [out, in], in words; None if they can."""
    found = kernels.library()
    if isinstance(found, str):
        return found
    if not found.has_passes():
        return "they are for x86 processors with AVX2 and FMA under Linux"
    if weight.device.type != "cpu" or kernels.kind_name(weight.dtype) not in kernels.KINDS:
        return f"there are none for {weight.dtype} on {weight.device.type}"
    if weight.shape[0] % OUTS or weight.shape[1] % GROUP:
        return f"they take whole multiples of {OUTS} outputs and {GROUP} inputs, and a matrix is {tuple(weight.shape)}"
    if not weight.is_contiguous():
        return "a matrix does not lie row by row"
    return None


def why_not_rounded(weight: torch.Tensor) -> str | None:
    """Why the kernels have no views of a matrix, in words; None if they have."""
    return why_not(weight)


def _record(
    kind: int, weight: torch.Tensor, scales: torch.Tensor | None, bias: torch.Tensor | None, ins: int
) -> Record:
    outs = weight.shape[0] if kind == _PLAIN else weight.shape[0] * OUTS
    pointers = (weight.data_ptr(), *(None if one is None else one.data_ptr() for one in (scales, bias)))
    return Record(kind, *pointers, outs, ins)


def _multiply(record: Record, states: torch.Tensor) -> torch.Tensor:
    """One product by itself; states [tokens, in] are contiguous and of the matrix's kind."""
    threads, given = torch.get_num_threads(), ctypes.byref(record)
    needed = kernels.of("product_bytes", states.dtype)(given, threads)
    scratch = torch.empty(needed, dtype=torch.uint8, device="cpu")
    out = states.new_empty(states.shape[0], record.outs)
    multiply = kernels.of("multiply", states.dtype)
    multiply(given, states.data_ptr(), states.shape[0], threads, scratch.data_ptr(), out.data_ptr())
    return out


@dataclass(frozen=True, slots=True)
class Plain:
    """A matrix as it lies in memory. Every row has the same bits in any company of `MOST_ROWS`."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    record: Record = field(repr=False)
    bytes: int = 0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`."""
        # Whoever mixes precisions gets torch's operators, which know what to do.
        if states.shape[0] > MOST_ROWS or states.dtype != self.weight.dtype:
            return functional.linear(states, self.weight, self.bias)
        return _multiply(self.record, states.contiguous())

    def __reduce__(self) -> tuple[Callable[..., object], tuple[torch.Tensor, torch.Tensor | None]]:
        return _plain_again, (self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix as whole numbers of 8 or 4 bits. States are rounded to 8 bits in groups when it multiplies.

    Attributes:
        dtype: of the matrix that it was.
        weight: [out / OUTS, ...], as the kernels read it.
        scales: of every out (8 bits), or of every group scale and lowest value (4 bits).
    """

    dtype: torch.dtype
    kind: int
    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    ins: int
    record: Record = field(repr=False)
    bytes: int = 0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`."""
        out = _multiply(self.record, states.to(self.dtype).contiguous())
        return out if out.dtype == states.dtype else out.to(states.dtype)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _rounded, (self.dtype, self.kind, self.weight, self.scales, self.bias, self.ins)


def plain(linear: Linear) -> Plain:
    """A matrix that `why_not` has nothing against, without a copy."""
    return Plain(linear.weight, linear.bias, _record(_PLAIN, linear.weight, None, linear.bias, linear.weight.shape[1]))


def int8(linear: Linear) -> Rounded:
    """Whole numbers of 8 bits, one scale a row."""
    return _round(_INT8, linear, bytes_of_16=OUTS * linear.weight.shape[1], scales=(OUTS,), kind=torch.float32)


def int4(linear: Linear) -> Rounded:
    """Whole numbers of 4 bits in groups along the input, with a scale and a lowest value each."""
    ins = linear.weight.shape[1]
    return _round(_INT4, linear, bytes_of_16=OUTS * ins // 2, scales=(ins // GROUP, OUTS, 2), kind=torch.bfloat16)


def _round(kind_of_view: int, linear: Linear, bytes_of_16: int, scales: tuple[int, ...], kind: torch.dtype) -> Rounded:
    weight = linear.weight
    outs, ins = weight.shape
    whole = torch.empty(outs // OUTS, bytes_of_16, dtype=torch.uint8, device="cpu")
    made = torch.empty(outs // OUTS, *scales, dtype=kind, device="cpu")
    kernels.of("round_matrix", weight.dtype)(
        kind_of_view, weight.data_ptr(), outs, ins, torch.get_num_threads(), whole.data_ptr(), made.data_ptr()
    )
    return _rounded(weight.dtype, kind_of_view, whole, made, linear.bias, ins)


def _rounded(
    dtype: torch.dtype, kind: int, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, ins: int
) -> Rounded:
    size = sum(tensor.numel() * tensor.element_size() for tensor in (weight, scales))
    if bias is not None:
        bias = bias.to(dtype)
    return Rounded(dtype, kind, weight, scales, bias, ins, _record(kind, weight, scales, bias, ins), size)


def _plain_again(weight: torch.Tensor, bias: torch.Tensor | None) -> Plain | Linear:
    """What was pickled, on a machine that may have no such kernels."""
    linear = Linear(weight, bias)
    return linear if why_not(weight) else plain(linear)


VIEWS: dict[str, Callable[[Linear], Rounded]] = {INT8: int8, INT4: int4}
