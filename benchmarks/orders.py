"""How much searches gain when they meet the same texts in other orders.

A search that learns while it decodes is lucky or not with what it sees first. Several tasks of each method, each with
the prompts in an order of its own, and one of plain decoding take turns.

    CONFLAYERS_NATIVE=0 python benchmarks/orders.py MODEL [--methods conflayers,clasp] [--orders 6] [--threads 1]

Prints the factor over plain decoding, search included, on average over the orders, and of every order. The last line is
one JSON document.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

import conflayers
from conflayers.bench.provenance import command_line, provenance
from conflayers.bench.spec import expand, split
from conflayers.round import Method
from conflayers.search.data import read_prompts

HELD_OUT = Path(__file__).parents[1] / "tests" / "zoo" / "held_out.jsonl"


@dataclass(slots=True)
class Stream:
    """One task and what it took of the prompts in one order."""

    name: str
    task: Method
    prompts: list[str]
    seconds: float = 0.0
    search: float = 0.0


def streams(llm: conflayers.Llm, names: list[str], prompts: list[str], orders: int) -> list[Stream]:
    """Plain decoding, whose order does not matter, and every other method with every order: the same for all."""
    made = []
    for name in names:
        method, options = split(name)
        for at in range(orders if made else 1):
            order = random.Random(at).sample(prompts, len(prompts))
            made.append(Stream(name, llm.task(method, **options), order))
    return made


def main() -> None:
    """Decode in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--methods", default="conflayers", help="as in `conflayers bench`")
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
    names = expand(options.methods)
    made = streams(llm, names, prompts, options.orders)
    for turn in range(len(prompts)):
        for one in random.Random(turn).sample(made, len(made)):
            begun = time.perf_counter()
            found = llm.generate(one.prompts[turn], task=one.task, max_new_tokens=options.new_tokens)
            one.seconds += time.perf_counter() - begun
            one.search += found.stats.select_seconds
    plain, *others = made
    rows = []
    for name in names[1:]:
        mine = [one for one in others if one.name == name]
        factors = [round(plain.seconds / one.seconds, 3) for one in mine]
        shares = [round(one.search / one.seconds, 4) for one in mine]
        strays = stdev(factors) if len(factors) > 1 else 0.0
        print(
            f"{name}: {mean(factors):.3f} over plain decoding on average, {strays:.3f} from order to order: {factors}"
        )
        rows.append({"method": name, "factors": factors, "search": shares})
    settings = {"model": options.model, "threads": options.threads, "dtype": options.dtype, "prompts": len(prompts)}
    print(json.dumps(settings | {"rows": rows, "provenance": provenance(command_line())}))


if __name__ == "__main__":
    main()
