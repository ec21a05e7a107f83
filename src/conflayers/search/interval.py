"""How far noise alone could move the comparison of a plan with plain decoding."""

from collections.abc import Sequence

import numpy as np

from conflayers.bench.paired import Array, change, speeds
from conflayers.search.progress import Speed


def speedup_interval(pairs: Sequence[tuple[Speed, Speed]], prompts: int) -> tuple[float, float] | None:
    """The 95% interval of how many times as fast the second of each pair is; None for fewer than two prompts.

    Args:
        pairs: in turns on one prompt after the other, from the first prompt again after the last.
        prompts: how many there are.
    """
    if not pairs:
        return None
    before, after = (_by_prompt([pair[way] for pair in pairs], prompts) for way in (0, 1))
    _, interval = change(before, after, speeds)
    return None if interval is None else (1 + interval[0], 1 + interval[1])


def _by_prompt(found: Sequence[Speed], prompts: int) -> Array:
    """Tokens and seconds of each prompt, [prompts, 2]. Passes over the same prompt are not independent."""
    sums = [sum(found[first::prompts], Speed()) for first in range(min(prompts, len(found)))]
    return np.array([[one.tokens, one.seconds] for one in sums], dtype=np.float64)
