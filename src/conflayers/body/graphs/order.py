"""What a pass is made of on an accelerator, in Triton.

Every row of a pass is computed in the same way whatever rows are beside it. Products take blocks of 16 or 32 rows, used
or not, and sum over the inputs in one order; attention sums over the columns of a row in chunks counted from the text's
beginning. So a row has the same bits alone and in company.

What a pass is over is read from memory, so that a graph recorded once serves every text:

    given:   [2 + 3 * ROWS] of int32: tokens, cached rows; token ids; columns that each token sees, itself included; of
             these, how many are at the text's beginning, in the cache.
    placed:  [ROWS, ROWS] of int32: where, in rows behind the cached ones, each token's further columns are, in order.
"""

import triton
import triton.language as tl

from conflayers.body.graphs import launches

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # of before 2025
    gdc_launch_dependents = gdc_wait = None
# Whether a kernel can wait for the one before inside.
HAS_EARLY = gdc_wait is not None

ROWS = tl.constexpr(launches.ROWS)


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
