"""How the kernels are launched: on how many programs of what shape."""

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from conflayers.body.kernels import SWITCH
from conflayers.body.operators import SHORT

if TYPE_CHECKING:
    from conflayers.body.graphs.products import Matrix
    from conflayers.body.operators import RmsNorm

# Rows that a pass may have, rows that products take at least, and columns that attention sums over at once.
ROWS, BLOCK_ROWS, CHUNK = SHORT, 16, 128
# What matrices are of, as the kernels number them.
KINDS = {"whole": 0, "int8": 1, "int4": 2}
GIVEN = 2 + 3 * ROWS
# Chunks that are combined at once.
SOME = 16
# Outputs below which a matrix is taken in smaller blocks, and above which in larger ones.
FEW, MANY = 2048, 16384
# Programs that a device's processors have enough of; see `parts`.
PROGRAMS, MOST_PARTS = 400, 4
# Lines of memory of every row that a product fetches before what it multiplies with is there.
AHEAD = 4
# Set in tests, beside TRITON_INTERPRET, which others set for kernels of their own.
INTERPRETER = "CONFLAYERS_INTERPRETER"


def why_not(device: torch.device) -> str | None:
    """Why there are no kernels on a device, in words; None if there are."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not interpreted() and not _nvidia(device):
        return f"they are for NVIDIA devices from Ampere on, and this is {_name(device)}"
    return None


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def interpreted() -> bool:
    """Whether Triton's interpreter is to run the kernels, on the processor: slow, and for this project's tests."""
    return os.environ.get(INTERPRETER) == "1" and os.environ.get("TRITON_INTERPRET") == "1"


def _has_early() -> bool:
    from conflayers.body.graphs import order

    return order.HAS_EARLY


@cache
def _early(device: torch.device) -> bool:
    """Whether a kernel may be set up while the one before still runs (from Hopper on)."""
    return _nvidia(device) and torch.cuda.get_device_capability(device)[0] >= 9 and _has_early()


@cache
def _nvidia(device: torch.device) -> bool:
    """Whether instructions of NVIDIA's can be used (from Ampere on)."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 8


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Launches inside go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wait(device: torch.device) -> None:
    """Until the device is through with all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recorded(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same launches as one; their kernels are compiled. Where nothing can be recorded, `run` itself."""
    if device.type != "cuda":
        return run
    # A stream of this device's own: torch's context manager has one for all, waits for the device and empties caches.
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        # Others may use the device meanwhile, from threads of their own.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    replay: Callable[[], None] = graph.replay
    return replay


def _kernel(name: str) -> Any:
    """One of the kernels."""
    # Triton is no dependency: who has an accelerator has it from torch.
    from conflayers.body.graphs import attending, multiplying, norming

    return next(getattr(module, name) for module in (norming, multiplying, attending) if hasattr(module, name))


def _launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
    early = _early(device)
    kernel[grid](*arguments, **options, EARLY=early, **({"launch_pdl": True} if early else {}))


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def embed(given: torch.Tensor, embedding: torch.Tensor, states: torch.Tensor, rows: int) -> None:
    """See `norming.embed`."""
    hidden = embedding.shape[1]
    _launch(
        _kernel("embed"), (rows,), given.device, given, embedding, states, hidden, BLOCK=_power(hidden), num_warps=4
    )


def norm(
    given: torch.Tensor,
    states: torch.Tensor,
    parts: torch.Tensor | None,
    added: torch.Tensor | None,
    by: "RmsNorm",
    out: torch.Tensor,
    rows: int,
) -> None:
    """See `norming.norm`; `parts` and `added` are None where nothing is added."""
    hidden = states.shape[1]
    block = _power(hidden)
    _launch(
        _kernel("norm"),
        (rows,),
        given.device,
        given,
        states,
        states if parts is None else parts,
        states if added is None else added,
        by.weight,
        out,
        hidden,
        by.eps,
        PARTS=0 if parts is None else len(parts),
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 8),
    )


def multiply(
    given: torch.Tensor | None,
    matrix: "Matrix",
    states: torch.Tensor,
    out: torch.Tensor,
    rows: int,
    gated: bool = False,
) -> None:
    """See `multiplying.multiply`.

    Args:
        states: [rows, in]; without `given`, whole blocks of `ROWS`.
        out: [rows, out], or [parts, ROWS, out] in as many parts as `parts` says.
        rows: of states that are wanted.
    """
    outs, (block_outs, block_ins, warps, stages) = out.shape[-1], shape(matrix, gated)
    block_rows = BLOCK_ROWS if rows <= BLOCK_ROWS else 2 * BLOCK_ROWS
    parts = len(out) if out.dim() == 3 else 1
    _launch(
        _kernel("multiply"),
        (-(-outs // block_outs), -(-rows // block_rows), parts),
        states.device,
        given,
        states,
        matrix.weight,
        matrix.weight if matrix.scales is None else matrix.scales,
        matrix.weight if matrix.bias is None else matrix.bias,
        out,
        outs,
        matrix.ins,
        KIND=matrix.kind,
        GATED=gated,
        BIASED=matrix.bias is not None,
        EVEN=outs % block_outs == 0 and matrix.ins % block_ins == 0,
        PARTS=parts,
        BLOCK_OUTS=block_outs,
        BLOCK_INS=block_ins,
        BLOCK_ROWS=block_rows,
        GROUP=matrix.group,
        AHEAD=AHEAD,
        NVIDIA=_nvidia(states.device),
        num_warps=warps,
        num_stages=stages,
    )


def shape(matrix: "Matrix", gated: bool = False) -> tuple[int, int, int, int]:
    """Outputs and inputs of a block, warps and stages: the same however many rows there are.

    As measured on an H100, over matrices of models of 135 million and of 8 billion parameters.
    """
    halved = 2 if gated else 1
    lines = 16 if matrix.outs < FEW else 64 if matrix.outs > MANY else 32
    if matrix.kind == KINDS["int4"]:
        return (64 if matrix.ins > MANY // 2 else max(lines, 32)) // halved, 2 * matrix.group, 4, 3
    block_ins = next((some for some in (256, 128) if matrix.ins % some == 0), 64)
    return lines // halved, block_ins, 4, 3 if block_ins > 64 else 5


def parts(matrix: "Matrix") -> int:
    """Shares of the inputs that are summed by programs of their own: matrices of few outputs have few programs."""
    block_outs, block_ins, *_ = shape(matrix)
    programs, blocks = -(-matrix.outs // block_outs), matrix.ins // block_ins
    if matrix.ins % block_ins:
        return 1
    fitting = (some for some in range(MOST_PARTS, 1, -1) if blocks % some == 0 and programs * some <= PROGRAMS)
    return next(fitting, 1)


def turn(
    given: torch.Tensor,
    mixed: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    rotated: bool,
    norms: "tuple[RmsNorm, RmsNorm] | None",
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: int,
) -> None:
    """See `attending.turn`; queries [rows, heads, width], keys and values [1, key-value heads, rows, width]."""
    _, heads, width = queries.shape
    kv_heads = keys.shape[1]
    _launch(
        _kernel("turn"),
        (rows, heads + 2 * kv_heads),
        given.device,
        given,
        mixed,
        *angles,
        *((norm.weight for norm in norms) if norms else (mixed, mixed)),
        norms[0].eps if norms else 0.0,
        queries,
        keys,
        values,
        keys.stride(1),
        heads,
        kv_heads,
        ROTATED=rotated,
        NORMED=norms is not None,
        WIDTH=width,
        BLOCK=_power(width // 2),
        num_warps=1,
    )


def attend(
    given: torch.Tensor,
    placed: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    chunks: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    rows: int,
    mapped: bool,
) -> None:
    """See `attending.attend` and `attending.combine`; `chunks` are its sums, tops and weights."""
    _, heads, width = queries.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    # What the processor's products of matrices take at least.
    head_rows = max(BLOCK_ROWS, _power(group))
    at_once = 1 if mapped else head_rows // group
    _launch(
        _kernel("attend"),
        (len(chunks[0]), kv_heads, -(-rows // at_once)),
        given.device,
        given,
        placed,
        queries,
        keys,
        values,
        *chunks,
        keys.stride(1),
        heads,
        width**-0.5,
        MAPPED=mapped,
        AT_ONCE=at_once,
        GROUP_HEADS=group,
        HEAD_ROWS=head_rows,
        WIDTH=width,
        BLOCK=_power(width),
        num_warps=4,
    )
    _launch(
        _kernel("combine"),
        (rows, heads),
        given.device,
        given,
        *chunks,
        out,
        heads,
        WIDTH=width,
        BLOCK=_power(width),
        SOME=SOME,
        num_warps=2,
    )
