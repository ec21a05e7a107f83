"""Products and attention whose every row has the same bits, however many rows are computed at once.

With them verification of several tokens is decoding one by one to the bit, so greedy text is the same by construction
and not by the luck of no near ties.

Kernels choose their way of summing by the number of rows. In bfloat16 on the CPU all numbers of rows from 2 to 32 go
the same way on every machine seen; a single row may go another. Then it is computed as two. Whether that holds on the
machine at hand is looked at, product by product and for the attention, before it is relied on.
"""

from collections.abc import Callable, Sequence
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
        # Not `len`, which torch answers in Python.
        if states.shape[0] > 1:
            return self.product(states)
        return self.product(torch.cat([states, states])).narrow(0, 0, 1)


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


def blocks(bias: torch.Tensor, group: int, steady: bool) -> list[torch.Tensor]:
    """What to add to the scores of the query rows that attention takes at once, [rows, columns] each.

    Args:
        bias: of every token, [tokens, columns].
        group: query heads of a key-value head; their rows lie one head after the other.
        steady: whether rows are to have the same bits in any company.
    """
    most = max(QUERY_ROWS // group, 1) if steady else len(bias)
    return [seen.repeat(group, 1) for seen in torch.split(bias, most)]


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: Sequence[torch.Tensor] | None
) -> torch.Tensor:
    """Attention of tokens whose query heads are rows beside each other, so that each key-value head is read once.

    Args:
        queries: [heads, tokens, width].
        keys, values: [1, key-value heads, columns, width].
        bias: `blocks`, made steady for rows to be so; None where a single token sees all columns.

    Returns:
        [heads, tokens, width].
    """
    heads, count, width = queries.shape
    group = heads // keys.shape[1]
    if bias is None:
        rows = queries.reshape(1, keys.shape[1], -1, width)
        return functional.scaled_dot_product_attention(rows, keys, values).view(heads, count, width)
    if len(bias) == 1:
        return _attend_block(queries, keys, values, bias[0])
    some = torch.split(queries, len(bias[0]) // group, 1)
    return torch.cat([_attend_block(one, keys, values, seen) for one, seen in zip(some, bias, strict=True)], 1)


def _attend_block(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    heads, count, width = queries.shape
    if bias.shape[0] == 1:
        queries, bias = queries.expand(-1, 2, -1), bias.expand(2, -1)
    # Rows that lie apart, or two that lie in one place, are multiplied in another way.
    rows = queries.reshape(1, keys.shape[1], -1, width).contiguous()
    out = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=bias)
    return out.view(heads, -1, width)[:, :count]


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
        tokens = [queries[:, i : i + 1] for i in range(MOST_ROWS)]
        ones = [attend(tokens[i], keys, values, blocks(bias[i : i + 1], group, steady=True)) for i in range(MOST_ROWS)]
        for count in (2, 3, 11, 16, MOST_ROWS):
            together = attend(queries[:, :count], keys, values, blocks(bias[:count], group, steady=True))
            if not torch.equal(together, torch.cat(ones[:count], 1)):
                return False
    return True
