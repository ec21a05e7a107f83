"""The kernel that multiplies; see order.py."""

import triton
import triton.language as tl

from conflayers.body.graphs.launches import KINDS
from conflayers.body.graphs.order import ROWS, await_last, let_next

INT8, INT4 = tl.constexpr(KINDS["int8"]), tl.constexpr(KINDS["int4"])
# Instructions that make floats of the halves of four bytes; see `halves`.
_HALVES = """{{
    .reg .b32 t, one, less;
    mov.b32 one, {one};
    mov.b32 less, {less};
    {shift}
    and.b32 t, t, 0x0f0f0f0f;
    prmt.b32 $0, t, {power}, 0x5140;
    prmt.b32 $1, t, {power}, 0x5342;
    fma.rn.{kind}x2 $0, $0, one, less;
    fma.rn.{kind}x2 $1, $1, one, less;
}}"""
_SHIFTS = ("mov.b32 t, $2;", "shr.b32 t, $2, 4;")
_BF16 = {"kind": "bf16", "power": "0x43434343", "one": "0x3f803f80", "less": "0xc308c308"}
_FP16 = {"kind": "f16", "power": "0x64646464", "one": "0x3c003c00", "less": "0xe408e408"}
LOW_BF16, HIGH_BF16 = (tl.constexpr(_HALVES.format(shift=shift, **_BF16)) for shift in _SHIFTS)
LOW_FP16, HIGH_FP16 = (tl.constexpr(_HALVES.format(shift=shift, **_FP16)) for shift in _SHIFTS)


@triton.jit
def prefetch(at):
    """Have lines of memory brought near the processor."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def halves(packed, HIGH: tl.constexpr, kind: tl.constexpr, NVIDIA: tl.constexpr):
    """The lower or the higher halves of bytes, 0 to 15, less 8, as floats.

    They are written into the last bits of a power of two, and with it 8 is taken away.
    """
    if NVIDIA:
        # Four at once, in half of the instructions that the compiler makes of the below.
        if kind == tl.bfloat16:
            found = tl.inline_asm_elementwise(
                HIGH_BF16 if HIGH else LOW_BF16, "=r,=r,r", [packed], dtype=tl.bfloat16, is_pure=True, pack=4
            )
        else:
            found = tl.inline_asm_elementwise(
                HIGH_FP16 if HIGH else LOW_FP16, "=r,=r,r", [packed], dtype=tl.float16, is_pure=True, pack=4
            )
    else:
        whole = (packed >> (4 if HIGH else 0) & 15).to(tl.uint16)
        if kind == tl.bfloat16:
            found = (whole | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
        else:
            found = (whole | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    return found


@triton.jit
def multiply(
    given,
    states,
    weight,
    scales,
    bias,
    out,
    outs,
    ins,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    EVEN: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_OUTS: tl.constexpr,
    BLOCK_INS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    AHEAD: tl.constexpr,
    NVIDIA: tl.constexpr,
    EARLY: tl.constexpr,
):
    """States [rows, ins] times a matrix [matrix rows, ins], and what is gated by it. A program a block of both.

    Args:
        given: None where all rows count.
        weight: as it is or in 8 bits, [matrix rows, ins]; in 4 bits [ins / (2 * GROUP), matrix rows, GROUP] bytes.
        scales: in 8 bits of every row; in 4 bits of every group, [ins / GROUP, matrix rows].
        out: [rows, outs]; where PARTS is more than 1, [PARTS, ROWS, outs], each from its share of the inputs.
        outs: where GATED, the matrix has twice as many rows, gate before up.
        EVEN: whether all blocks are whole.
        GROUP: weights that share a scale in 4 bits.
        AHEAD: lines of 128 bytes, of each row, that are fetched before what they are multiplied with is there.
        NVIDIA: whether it is for its processors.
    """
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    part = tl.program_id(2)
    share = ins // PARTS
    first = tl.program_id(0) * BLOCK_OUTS
    if GATED:
        # Gate and up in turns, so that what belongs together lies side by side.
        turn = tl.arange(0, 2 * BLOCK_OUTS)
        of = first + turn // 2
        lines = (of + (turn % 2) * outs).to(tl.int64)
        tall = 2 * outs
        sums = tl.zeros((BLOCK_ROWS, 2 * BLOCK_OUTS), tl.float32)
    else:
        of = first + tl.arange(0, BLOCK_OUTS)
        lines = of.to(tl.int64)
        tall = outs
        sums = tl.zeros((BLOCK_ROWS, BLOCK_OUTS), tl.float32)
    there = of < outs
    if EARLY:
        # Not behind the matrix, where there may be no memory.
        rest = tl.minimum(lines, tall - 1)[:, None]
        if KIND == INT4:
            ahead = tl.minimum(part * (share // (2 * GROUP)) + tl.arange(0, AHEAD), ins // (2 * GROUP) - 1)
            prefetch(weight + tl.cast(tall, tl.int64) * GROUP * ahead[None, :] + rest * GROUP)
        else:
            line = 128 // (weight.dtype.element_ty.primitive_bitwidth // 8)
            ahead = tl.minimum(part * share + tl.arange(0, AHEAD) * line, ins - 1)
            prefetch(weight + rest * ins + ahead[None, :])
    await_last(EARLY)
    if given is None:
        used = rows >= 0
    else:
        used = rows < tl.load(given)
    kind = states.dtype.element_ty
    if KIND == INT4:
        # Of each pair of groups, a byte has an input of one below and of the other above.
        byte = tl.arange(0, GROUP)
        pairs = share // (2 * GROUP)
        for pair in range(part * pairs, (part + 1) * pairs):
            at = states + rows[:, None] * ins + pair * (2 * GROUP) + byte[None, :]
            packed = weight + tl.cast(tall, tl.int64) * GROUP * pair + lines[None, :] * GROUP + byte[:, None]
            at_scale = scales + 2 * pair * tall + lines
            one = tl.load(at, mask=used[:, None], other=0.0)
            other = tl.load(at + GROUP, mask=used[:, None], other=0.0)
            if EVEN:
                both, scale, next_scale = tl.load(packed), tl.load(at_scale), tl.load(at_scale + tall)
            else:
                both = tl.load(packed, mask=there[None, :], other=0)
                scale = tl.load(at_scale, mask=there, other=0.0)
                next_scale = tl.load(at_scale + tall, mask=there, other=0.0)
            sums += tl.dot(one, halves(both, False, kind, NVIDIA)) * scale.to(tl.float32)[None, :]
            sums += tl.dot(other, halves(both, True, kind, NVIDIA)) * next_scale.to(tl.float32)[None, :]
    else:
        for block in range(part * share, (part + 1) * share, BLOCK_INS):
            at = block + tl.arange(0, BLOCK_INS)
            if EVEN:
                some = tl.load(states + rows[:, None] * ins + at[None, :], mask=used[:, None], other=0.0)
                matrix = tl.load(weight + lines[None, :] * ins + at[:, None])
            else:
                inside = at < ins
                some = tl.load(
                    states + rows[:, None] * ins + at[None, :], mask=used[:, None] & inside[None, :], other=0.0
                )
                matrix = tl.load(
                    weight + lines[None, :] * ins + at[:, None], mask=inside[:, None] & there[None, :], other=0
                )
            sums = tl.dot(some, matrix.to(kind), sums)
    let_next(EARLY)
    if KIND == INT8:
        sums *= tl.load(scales + lines, mask=there, other=0.0)[None, :]
    if BIASED:
        # Once, not with every part.
        offset = tl.load(bias + lines, mask=there, other=0.0).to(tl.float32)
        sums += tl.where(part == 0, offset, 0.0)[None, :]
    if GATED:
        gate, up = tl.split(tl.reshape(sums, (BLOCK_ROWS, BLOCK_OUTS, 2)))
        sums = gate / (1.0 + tl.exp(-gate)) * up
        of = first + tl.arange(0, BLOCK_OUTS)
    places = (part * ROWS + rows[:, None]) * outs + of[None, :]
    tl.store(out + places, sums.to(out.dtype.element_ty), mask=used[:, None] & (of < outs)[None, :])
