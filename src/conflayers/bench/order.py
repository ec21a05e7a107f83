"""The order in which methods answer a request."""

import random


def order(request: int, methods: int) -> list[int]:
    """The methods, by number, in the order in which they answer.

    Every method is first, second and so on equally often, and follows every other one equally often (a design balanced
    for carry-over, Williams 1949), so that neither a machine that drifts nor whoever ran before favours one. The rows
    of the design are drawn in another order in each cycle, so that they do not fall together with categories that take
    turns.

    Args:
        request: number of the request, from 0.
        methods: how many there are, 1 or more.
    """
    zigzag = [(i + 1) // 2 if i % 2 else (methods - i // 2) % methods for i in range(methods)]
    rows = [[(place + shift) % methods for place in zigzag] for shift in range(methods)]
    if methods % 2:
        rows += [row[::-1] for row in rows]
    cycle, place = divmod(request, len(rows))
    return random.Random(cycle).sample(rows, len(rows))[place]
