"""Products whose every row has the same bits, however many rows are multiplied at once.

With them, and an attention that is as steady, verification of several tokens is decoding one by one to the bit, so
greedy text is the same by construction and not by the luck of no near ties.

Kernels choose their way of summing by the number of rows. In bfloat16 on the CPU all numbers of rows from 2 to 32 go
the same way on every machine seen; a single row may go another where the inner dimension is long. Then it is computed
as two. Whether that holds on the machine at hand is looked at, product by product, before it is relied on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from conflayers.body.views import Product

# Rows up to which products are steady: more are another kernel's case.
MOST_ROWS = 32
# Numbers of rows that are compared.
COMPARED = (2, 3, 5, 8, 16, MOST_ROWS)
# Above this inner dimension a single row is never multiplied by itself: it differs rarely, and a look may miss it.
LONG = 1024
# Products of so few multiplications torch does in another way than all larger ones. A matrix that is so small with one
# row is never multiplied by one; one that is so small with two is not steady.
SMALL = 4096


@dataclass(frozen=True, slots=True)
class Doubled:
    """A product that computes one row as two."""

    product: Product

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """See `views.Product`."""
        if len(states) > 1:
            return self.product(states)
        return self.product(states.expand(2, -1).contiguous())[:1]


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
    if 2 * width * together.shape[1] <= SMALL:
        return None
    if width > LONG or width * together.shape[1] <= SMALL:
        return Doubled
    alone = torch.cat([product(row) for row in torch.split(states[:16], 1)])
    return same if torch.equal(alone, together[:16]) else Doubled


def same(product: Product) -> Product:
    """The product as it is."""
    return product
