"""What a pass is made of on an accelerator, in Triton.

Every row of a pass is computed in the same way whatever rows are beside it: products take blocks of 16 rows and sum
over the inputs in one order, and attention sums over the columns of a row in chunks counted from the text's beginning.
So a row has the same bits alone and in company.

What a pass is over is read from memory, so that a graph recorded once serves every text:

    given:   [2 + 3 * ROWS] of int32: tokens, cached rows; token ids; columns that each token sees, itself included; of
             these, how many are at the text's beginning, in the cache.
    placed:  [ROWS, ROWS] of int32: where, in rows behind the cached ones, each token's further columns are, in order.
"""

import triton
import triton.language as tl

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # of before 2025
    gdc_launch_dependents = gdc_wait = None

# Rows that a pass may have.
ROWS = tl.constexpr(32)
# Columns that attention sums over at once.
CHUNK = tl.constexpr(128)
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
PLAIN, INT8, INT4 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def await_last(EARLY: tl.constexpr):
    """Wait for what the kernels before write."""
    if EARLY:
        gdc_wait()


@triton.jit
def let_next(EARLY: tl.constexpr):
    """Let the next kernel be set up as soon as all programs are here, or through.

    Not before a program has read what it reads: the next one's programs would take its place.
    """
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def prefetch(at):
    """Have lines of memory brought near the processor."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def embed(given, embedding, states, hidden, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Token ids to states [tokens, hidden]. A program a token."""
    await_last(EARLY)
    let_next(EARLY)
    row = tl.program_id(0)
    if row < tl.load(given):
        token = tl.load(given + 2 + row).to(tl.int64)
        at = tl.arange(0, BLOCK)
        values = tl.load(embedding + token * hidden + at, mask=at < hidden)
        tl.store(states + row * hidden + at, values, mask=at < hidden)


@triton.jit
def norm(
    given,
    states,
    parts,
    added,
    weight,
    out,
    hidden,
    eps,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Add to states [tokens, hidden], in place, what a sublayer adds, if anything; and norm them. A program a token.

    Args:
        parts: what it adds, in PARTS parts, [PARTS, ROWS, hidden] in float32; none if 0.
        added: where it goes as a whole.
    """
    await_last(EARLY)
    let_next(EARLY)
    row = tl.program_id(0)
    if row < tl.load(given):
        at = row * hidden + tl.arange(0, BLOCK)
        inside = tl.arange(0, BLOCK) < hidden
        values = tl.load(states + at, mask=inside, other=0.0)
        scale = tl.load(weight + tl.arange(0, BLOCK), mask=inside, other=0.0)
        if PARTS > 0:
            more = tl.load(parts + at, mask=inside, other=0.0)
            for part in tl.static_range(1, PARTS):
                more += tl.load(parts + part * ROWS * hidden + at, mask=inside, other=0.0)
            more = more.to(values.dtype)
            tl.store(added + at, more, mask=inside)
            values = (values.to(tl.float32) + more.to(tl.float32)).to(values.dtype)
            tl.store(states + at, values, mask=inside)
        exact = values.to(tl.float32)
        root = tl.rsqrt(tl.sum(exact * exact, 0) / hidden + eps)
        tl.store(out + at, (exact * root * scale.to(tl.float32)).to(values.dtype), mask=inside)


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
        offset = tl.load(bias + lines, mask=there & (part == 0), other=0.0).to(tl.float32)
        sums += offset[None, :]
    if GATED:
        gate, up = tl.split(tl.reshape(sums, (BLOCK_ROWS, BLOCK_OUTS, 2)))
        sums = gate / (1.0 + tl.exp(-gate)) * up
        of = first + tl.arange(0, BLOCK_OUTS)
    places = (part * ROWS + rows[:, None]) * outs + of[None, :]
    tl.store(out + places, sums.to(out.dtype.element_ty), mask=used[:, None] & (of < outs)[None, :])


@triton.jit
def turn(
    given,
    mixed,
    cos,
    sin,
    query_norm,
    key_norm,
    eps,
    queries,
    keys,
    values,
    stride,
    heads,
    kv_heads,
    ROTATED: tl.constexpr,
    NORMED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Norm and rotate queries and keys, and write keys and values into the cache. A program a head of a token.

    Args:
        mixed: queries, keys and values of every token, [tokens, heads + 2 * key-value heads, WIDTH].
        cos, sin: of every position, [positions, WIDTH]; the sine carries the sign of the rotation.
        keys, values: [key-value heads, rows, WIDTH], `stride` from head to head.
    """
    await_last(EARLY)
    let_next(EARLY)
    row, head = tl.program_id(0), tl.program_id(1)
    if row < tl.load(given):
        half = WIDTH // 2
        at = tl.arange(0, BLOCK)
        inside = at < half
        source = mixed + (row * (heads + 2 * kv_heads) + head) * WIDTH + at
        one = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        two = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
        kind = mixed.dtype.element_ty
        if head < heads + kv_heads:
            if NORMED:
                weight = query_norm
                if head >= heads:
                    weight = key_norm
                root = tl.rsqrt((tl.sum(one * one, 0) + tl.sum(two * two, 0)) / WIDTH + eps)
                one *= root * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
                two *= root * tl.load(weight + half + at, mask=inside, other=0.0).to(tl.float32)
            if ROTATED:
                position = tl.load(given + 2 + ROWS + row) - 1
                angle = position * WIDTH + at
                cos_one = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
                cos_two = tl.load(cos + angle + half, mask=inside, other=0.0).to(tl.float32)
                sin_one = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
                sin_two = tl.load(sin + angle + half, mask=inside, other=0.0).to(tl.float32)
                one, two = one * cos_one + two * sin_one, two * cos_two + one * sin_two
        place = (tl.load(given + 1) + row).to(tl.int64) * WIDTH
        if head < heads:
            target = queries + (row * heads + head) * WIDTH + at
        elif head < heads + kv_heads:
            target = keys + (head - heads).to(tl.int64) * stride + place + at
        else:
            target = values + (head - heads - kv_heads).to(tl.int64) * stride + place + at
        tl.store(target, one.to(kind), mask=inside)
        tl.store(target + half, two.to(kind), mask=inside)


@triton.jit
def attend(
    given,
    placed,
    queries,
    keys,
    values,
    sums,
    tops,
    weights,
    stride,
    heads,
    scale,
    MAPPED: tl.constexpr,
    AT_ONCE: tl.constexpr,
    GROUP_HEADS: tl.constexpr,
    HEAD_ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Attention over one chunk of columns, not yet divided by its weights. A program a chunk, key-value head and
    `AT_ONCE` tokens.

    Args:
        sums: [chunks, ROWS, heads, WIDTH]; tops, weights: [chunks, ROWS, heads].
        MAPPED: whether tokens see rows behind the cached ones by `placed`; then one is taken at once. Else each sees
            those before it.
        AT_ONCE, GROUP_HEADS: their product is at most HEAD_ROWS.
    """
    await_last(EARLY)
    let_next(EARLY)
    chunk, kv_head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count, length = tl.load(given), tl.load(given + 1)
    first = block * AT_ONCE
    if first < count:
        last = tl.minimum(first + AT_ONCE, count) - 1
        if chunk * CHUNK < tl.load(given + 2 + ROWS + last):
            row = tl.arange(0, HEAD_ROWS)
            token = tl.minimum(first + row // GROUP_HEADS, last)
            used = row < (last - first + 1) * GROUP_HEADS
            head = kv_head * GROUP_HEADS + row % GROUP_HEADS
            at = tl.arange(0, BLOCK)
            wide = at < WIDTH
            own = (token * heads + head) * WIDTH
            asked = tl.load(queries + own[:, None] + at[None, :], mask=used[:, None] & wide[None, :], other=0.0)
            seen = tl.load(given + 2 + ROWS + token, mask=used, other=0)
            column = chunk * CHUNK + tl.arange(0, CHUNK)
            place = column
            there = column < tl.load(given + 2 + ROWS + last)
            if MAPPED:
                base = tl.load(given + 2 + 2 * ROWS + first)
                behind = tl.load(placed + first * ROWS + column - base, mask=(column >= base) & there, other=0)
                place = tl.where(column < base, column, length + behind)
            lines = kv_head.to(tl.int64) * stride + place.to(tl.int64) * WIDTH
            known = there[:, None] & wide[None, :]
            key = tl.load(keys + lines[:, None] + at[None, :], mask=known, other=0.0)
            value = tl.load(values + lines[:, None] + at[None, :], mask=known, other=0.0)
            scores = tl.dot(asked, tl.trans(key)) * scale
            scores = tl.where(column[None, :] < seen[:, None], scores, float("-inf"))
            top = tl.max(scores, 1)
            # Rows that see nothing of this chunk.
            top = tl.where(top == float("-inf"), -1e30, top)
            shares = tl.exp(scores - top[:, None])
            weight = tl.sum(shares, 1)
            total = tl.dot(shares.to(value.dtype), value)
            of = (chunk * ROWS + token) * heads + head
            tl.store(sums + of[:, None] * WIDTH + at[None, :], total, mask=used[:, None] & wide[None, :])
            tl.store(tops + of, top, mask=used)
            tl.store(weights + of, weight, mask=used)


@triton.jit
def combine(
    given,
    sums,
    tops,
    weights,
    out,
    heads,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SOME: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The attention of all chunks, [tokens, heads * WIDTH]. A program a head of a token."""
    await_last(EARLY)
    let_next(EARLY)
    row, head = tl.program_id(0), tl.program_id(1)
    if row < tl.load(given):
        chunks = tl.cdiv(tl.load(given + 2 + ROWS + row), CHUNK)
        at = tl.arange(0, BLOCK)
        wide = at < WIDTH
        highest = float("-inf")
        for begun in range(0, chunks, SOME):
            chunk = begun + tl.arange(0, SOME)
            of = (chunk * ROWS + row) * heads + head
            highest = tl.maximum(highest, tl.max(tl.load(tops + of, mask=chunk < chunks, other=float("-inf")), 0))
        total = tl.zeros((BLOCK,), tl.float32)
        weight = 0.0
        for begun in range(0, chunks, SOME):
            chunk = begun + tl.arange(0, SOME)
            of = (chunk * ROWS + row) * heads + head
            there = chunk < chunks
            share = tl.exp(tl.load(tops + of, mask=there, other=float("-inf")) - highest)
            weight += tl.sum(share * tl.load(weights + of, mask=there, other=0.0), 0)
            known = there[:, None] & wide[None, :]
            some = tl.load(sums + of[:, None] * WIDTH + at[None, :], mask=known, other=0.0)
            total += tl.sum(share[:, None] * some, 0)
        kind = out.dtype.element_ty
        tl.store(out + (row * heads + head) * WIDTH + at, (total / weight).to(kind), mask=wide)
