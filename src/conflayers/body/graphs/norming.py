"""The kernels of embeddings and norms; see order.py."""

import triton
import triton.language as tl

from conflayers.body.graphs.order import ROWS, await_last, let_next


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
