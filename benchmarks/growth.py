"""How the cost of a token grows: with the context, with the layers that run, with the length of a draft; and memory.

    python benchmarks/growth.py MODEL [--dtype bfloat16] [--threads N] [--contexts 100,1000,8000]

Every figure is the median of passes made in turns, so that a machine that drifts hits all alike. Passes alone: what a
round does beside them is in `conflayers bench`.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch

import conflayers
from conflayers.body.portable import PortableBody
from conflayers.plan import FULL, Plan

TURNS = 15


def passes(body: PortableBody, context: int) -> dict[str, Callable[[], None]]:
    """What is timed behind a text of `context` tokens, by name."""

    def run(count: int, plan: Plan) -> Callable[[], None]:
        def once() -> None:
            with body.running(plan):
                body.forward([7] * count)
            body.rollback(context)

        return once

    inner = body.layers - 2
    found = {f"{rows} rows": run(rows, FULL) for rows in (1, 2, 4, 8, 16)}
    for part in (1, 2, 3):
        skipped = range(1, 1 + inner * part // 4)
        found[f"{body.layers - len(skipped)} layers"] = run(1, Plan.layers(skipped))
    return found | {name: run(1, FULL.at(name)) for name in body.precisions}


def timed(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 2):
        for name, once in ways.items():
            begun = time.perf_counter()
            once()
            if turn > 1:
                seconds[name].append(time.perf_counter() - begun)
    return {name: round(1e3 * median(values), 3) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--contexts", default="100,400,1000,2000,4000,8000")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    body = conflayers.load(given.model, dtype=given.dtype).body
    for precision in body.precisions:
        body.prepare(FULL.at(precision))
    rows = []
    for context in map(int, given.contexts.split(",")):
        if context + 16 > body.context:
            print(f"{context}: the model's context is {body.context}")
            continue
        body.reserve(context + 16)
        body.forward([(31 * i) % body.vocab_size for i in range(context)], rows=1)
        cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in body.cache.layers)
        rows.append({"context": context, "cache_mb": round(cached / 1e6, 1), **timed(passes(body, context))})
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    print(json.dumps({"model": given.model, "dtype": given.dtype, "threads": given.threads, "rows": rows}))


if __name__ == "__main__":
    main()
