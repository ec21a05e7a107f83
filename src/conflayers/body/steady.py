"""Products and attention whose every row has the same bits, however many rows are computed at once.

With them verification of several tokens is decoding one by one to the bit, so greedy text is the same by construction
and not by the luck of no near ties.

Kernels choose their way of summing by the number of rows. In bfloat16 on the CPU all numbers of rows from 2 to 32 go
the same way on every machine seen; a single row may go another. Then it is computed as two. Whether that holds on the
machine at hand is looked at, product by product and for the attention, before it is relied on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from conflayers.body.views import Product

# Rows up to which products are steady: more are another kernel's case.
MOST_ROWS = 32
# Numbers of rows that are compared.
COMPARED = (2, 3, 5, 8, 16, MOST_ROWS)
# Above this inner dimension a single row is never multiplied by itself: it differs rarely, and a look may miss it.
LONG = 1024
# Where the inner dimension is no multiple of this, what is left over is now and then summed in another way.
WHOLE_BLOCKS = 32
# Products of so few multiplications torch does in another way than all larger ones. A matrix that is so small with one
# row is never multiplied by one; one that is so small with two is not steady.
SMALL = 4096
# Query rows of one key-value head that attention takes at once where it is to be steady. The kernel works in blocks of
# so many, and a block of a single row is summed in another way.
QUERY_ROWS = 32
# Lengths of text that attention is looked at on: within a block of keys and beyond one.
LOOKED_AT = (96, 544)


@dataclass(frozen=True, slots=True)
class Doubled:
    """A product that computes one row as two."""

    product: Product

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`."""
        if len(states) > 1:
            return self.product(states)
        return self.product(states.expand(2, -1).contiguous())[:1]


def same(product: Product) -> Product:
    """The product as it is."""
    return product


@torch.no_grad()
def steady(
    product: Product, width: int, dtype: torch.dtype, device: torch.device
) -> Callable[[Product], Product] | None:
    """What makes `product`, and others of its shape, have the same bits in every row whatever its company.

    Args:
        product: takes states [tokens, width].

    Returns:
        `same` where it has them as it is, `Doubled`, or None where even that does not help.
    """
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(MOST_ROWS, width, generator=generator).to(device, dtype)
    together = product(states)
    for rows in COMPARED:
        if not torch.equal(torch.cat([product(part) for part in torch.split(states, rows)]), together):
            return None
    if width % WHOLE_BLOCKS or 2 * width * together.shape[1] <= SMALL:
        return None
    if width > LONG or width * together.shape[1] <= SMALL:
        return Doubled
    alone = torch.cat([product(row) for row in torch.split(states[:16], 1)])
    return same if torch.equal(alone, together[:16]) else Doubled


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    steady: bool = True,
) -> torch.Tensor:
    """Attention of tokens whose query heads are rows beside each other, so that each key-value head is read once.

    Args:
        queries: [heads, tokens, width].
        keys, values: [1, key-value heads, columns, width].
        bias: what to add to the scores, [tokens, columns].
        steady: whether rows are to have the same bits in any company, for which there has to be a bias.

    Returns:
        [heads, tokens, width].
    """
    heads, count, width = queries.shape
    group = heads // keys.shape[1]
    if bias is None:
        rows = queries.reshape(1, keys.shape[1], -1, width)
        return functional.scaled_dot_product_attention(rows, keys, values).view(heads, count, width)
    most, outs = max(QUERY_ROWS // group, 1) if steady else count, []
    for at in range(0, count, most):
        some = queries[:, at : at + most]
        seen = bias[at : at + most]
        if group * some.shape[1] == 1:
            some, seen = some.expand(-1, 2, -1), seen.expand(2, -1)
        # Rows that lie apart, or two that lie in one place, are multiplied in another way.
        rows = some.reshape(1, keys.shape[1], -1, width).contiguous()
        out = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=seen.repeat(group, 1))
        outs.append(out.view(heads, -1, width)[:, : count - at])
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


@torch.no_grad()
def attention_steady(heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `attend` gives every token of a chain the bits that it has alone, as far as a few chains tell."""
    group = heads // kv_heads
    if group > QUERY_ROWS:
        return False
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    for columns in LOOKED_AT:
        queries = drawn(heads, MOST_ROWS, width)
        keys, values = drawn(1, kv_heads, columns, width), drawn(1, kv_heads, columns, width)
        later = torch.arange(columns)[None] > columns - 2 * MOST_ROWS + torch.arange(MOST_ROWS)[:, None]
        bias = torch.zeros(later.shape, dtype=dtype).masked_fill_(later, torch.finfo(dtype).min).to(device)
        alone = torch.cat([attend(queries[:, i : i + 1], keys, values, bias[i : i + 1]) for i in range(MOST_ROWS)], 1)
        for count in (2, 3, 11, 16, MOST_ROWS):
            if not torch.equal(attend(queries[:, :count], keys, values, bias[:count]), alone[:, :count]):
                return False
    return True
