"""What it costs that verification has the bits of decoding one by one: a pass over one token with that and without.

    python benchmarks/exactness.py MODEL [--dtype bfloat16] [--threads N] [--context 100]

Without it a single row is multiplied as one where it now is as two. Passes are made in turns. Where they are
compiled as a whole there is one way only, and the price is noise.
"""

import time
from statistics import median

from given import given, text

from conflayers.body.fast import FastBody
from conflayers.body.steady import Doubled

TURNS = 150


def main() -> None:
    arguments, body = given(__doc__, {"context": 100})
    if not isinstance(body, FastBody) or not body.steady:
        raise SystemExit("verification of this model is not exact to the bit here: there is nothing to compare")
    body.reserve(arguments.context + 1)
    body.forward(text(body, arguments.context), rows=1)
    weights = body._weights
    assert weights is not None
    steady = weights.target
    loose = steady.converted(lambda product: product.product if isinstance(product, Doubled) else product)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):
        for exact in seconds:
            weights.target, body._steady = (steady, True) if exact else (loose, False)
            begun = time.perf_counter()
            body.forward([7])
            seconds[exact].append(time.perf_counter() - begun)
            body.rollback(arguments.context)
    for exact, name in ((True, "exact"), (False, "without")):
        print(f"{name}: median {1e3 * median(seconds[exact]):.2f} ms, best {1e3 * min(seconds[exact]):.2f} ms")
    print(f"price: {median(seconds[True]) / median(seconds[False]) - 1:.1%} of a pass, by the medians")


if __name__ == "__main__":
    main()
