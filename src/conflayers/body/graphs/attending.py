"""The kernels of attention; see order.py."""

import triton
import triton.language as tl

from conflayers.body.graphs import launches
from conflayers.body.graphs.order import ROWS, await_last, let_next

CHUNK = tl.constexpr(launches.CHUNK)


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
