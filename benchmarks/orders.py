"""How much the same search gains when it meets the same texts in other orders.

A search that learns while it decodes is lucky or not with what it sees first. Several tasks of one method, each with
the prompts in an order of its own, and one of plain decoding take turns.

    CONFLAYERS_NATIVE=0 python benchmarks/orders.py MODEL [--method conflayers] [--orders 6] [--threads 1]

Prints the factor over plain decoding of every order, search included. The last line is one JSON document.
"""

import argparse
import json
import random
import time
from pathlib import Path
from statistics import mean, stdev

import torch

import conflayers
from conflayers.search.data import read_prompts

HELD_OUT = Path(__file__).parents[1] / "tests" / "zoo" / "held_out.jsonl"


def main() -> None:
    """Decode in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", default="conflayers")
    parser.add_argument("--orders", type=int, default=6)
    parser.add_argument("--data", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    llm = conflayers.load(options.model, dtype=options.dtype)
    prompts = read_prompts(options.data, options.limit).prompts
    llm.generate(prompts[0], method="vanilla", max_new_tokens=32)
    tasks = [llm.task("vanilla"), *(llm.task(options.method) for _ in range(options.orders))]
    orders = [random.Random(at).sample(prompts, len(prompts)) for at in range(len(tasks))]
    seconds, search = [0.0] * len(tasks), [0.0] * len(tasks)
    for turn in range(len(prompts)):
        for at in random.Random(turn).sample(range(len(tasks)), len(tasks)):
            begun = time.perf_counter()
            found = llm.generate(orders[at][turn], task=tasks[at], max_new_tokens=options.new_tokens)
            seconds[at] += time.perf_counter() - begun
            search[at] += found.stats.select_seconds
    factors = [round(seconds[0] / one, 3) for one in seconds[1:]]
    shares = [round(took / whole, 4) for took, whole in zip(search[1:], seconds[1:], strict=True)]
    strays = stdev(factors) if len(factors) > 1 else 0.0
    print(f"{options.method} over plain decoding: {mean(factors):.3f} on average, {strays:.3f} from order to order")
    print(json.dumps({"model": options.model, "method": options.method, "factors": factors, "search": shares}))


if __name__ == "__main__":
    main()
