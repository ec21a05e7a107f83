"""How the cost of a token grows: with the context, with the layers that run, with the length of a draft; and memory.

    python benchmarks/growth.py MODEL [--dtype bfloat16] [--threads N] [--contexts 100,1000,8000]

Every figure is the median of passes made in turns, contexts and all, so that a machine that drifts hits all alike.
Passes alone: what a round does beside them is in `conflayers bench`.
"""

import json
import time
from statistics import median

from given import given, settings, text

from conflayers.body.portable import PortableBody
from conflayers.plan import FULL, Plan

TURNS = 15


def passes(body: PortableBody) -> dict[str, tuple[int, Plan]]:
    """What is timed behind every text, by name: tokens and plan."""
    inner = body.layers - 2
    found = {f"{rows} rows": (rows, FULL) for rows in (1, 2, 4, 8, 16)}
    for part in (1, 2, 3):
        skipped = range(1, 1 + inner * part // 4)
        found[f"{body.layers - len(skipped)} layers"] = (1, Plan.layers(skipped))
    return found | {name: (1, FULL.at(name)) for name in body.precisions}


def timed(body: PortableBody, contexts: list[int]) -> dict[int, dict[str, float]]:
    """Median milliseconds of each pass behind each of the contexts, of which the longest is in the cache."""
    ways = passes(body)
    seconds: dict[tuple[int, str], list[float]] = {(one, name): [] for one in contexts for name in ways}
    for turn in range(TURNS + 2):
        for context in contexts:
            with body.preserve(context):
                for name, (count, plan) in ways.items():
                    begun = time.perf_counter()
                    with body.running(plan):
                        body.forward([7] * count)
                    ended = time.perf_counter()
                    body.rollback(context)
                    if turn > 1:
                        seconds[context, name].append(ended - begun)
    return {one: {name: round(1e3 * median(seconds[one, name]), 3) for name in ways} for one in contexts}


def main() -> None:
    arguments, body = given(__doc__, {"contexts": "100,400,1000,2000,4000,8000"})
    for precision in body.precisions:
        body.prepare(FULL.at(precision))
    asked = [int(one) for one in arguments.contexts.split(",")]
    contexts = [one for one in asked if one + 16 <= body.context]
    for one in asked:
        if one not in contexts:
            print(f"{one}: the model's context is {body.context}")
    longest = max(contexts)
    body.reserve(longest + 16)
    body.forward(text(body, longest), rows=1)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in body.cache.layers) / body.cache.rows
    rows = [
        {"context": context, "cache_mb": round(held * context / 1e6, 1), **found}
        for context, found in timed(body, contexts).items()
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps(settings(arguments) | {"rows": rows}))


if __name__ == "__main__":
    main()
