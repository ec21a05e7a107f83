"""The best that skipping whole layers can do on a model: sets found greedily with all the time in the world.

From nothing skipped, the layer is skipped whose absence keeps the highest agreement with the whole model on its own
text, then the next, and so on; agreement is that of first tokens, behind the verified cache. Then every set is drafted
with for real, in turns with plain decoding, on the same prompts. No method that chooses whole layers while decoding can
know this much; how close one comes is what it is worth.

    python benchmarks/oracle.py tests/zoo/dropout-16 --out best.json [--limit 10] [--new-tokens 128]

Writes the fastest set as a plan. The last line is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "zoo"))
from card import Text, agreements, continued

import conflayers
from conflayers.api import Llm
from conflayers.plan import Plan, save_plan
from conflayers.search.data import read_prompts

HELD_OUT = Path(__file__).parents[1] / "tests" / "zoo" / "held_out.jsonl"


def greedy(llm: Llm, texts: list[Text]) -> list[tuple[Plan, float]]:
    """The sets of every size, with their agreement."""
    found, left, skipped = [], list(range(1, llm.body.layers - 1)), frozenset[int]()
    while left:
        plans = [Plan.layers(skipped | {layer}) for layer in left]
        kept = agreements(llm, texts, plans)
        at = max(range(len(left)), key=lambda i: kept[i])
        skipped |= {left.pop(at)}
        found.append((plans[at], kept[at]))
    return found


def main() -> None:
    """Search, time, print, and write the fastest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    llm = conflayers.load(options.model, dtype="float32")
    prompts = read_prompts(options.data, options.limit).prompts
    sets = greedy(llm, continued(llm, prompts, options.new_tokens))
    tasks = {plan: llm.task("fixed", plan=plan) for plan, _ in sets}
    seconds = dict.fromkeys([None, *tasks], 0.0)
    for prompt in prompts:
        for plan in seconds:
            how = {"task": tasks[plan]} if plan else {"method": "vanilla"}
            seconds[plan] += llm.generate(prompt, max_new_tokens=options.new_tokens, **how).stats.total_seconds
    rows = []
    for plan, kept in sets:
        speedup = seconds[None] / seconds[plan]
        print(f"{len(plan.whole_layers):3d} layers: agreement {kept:.3f}, {speedup:.3f}x  {plan}")
        rows.append({"layers": sorted(plan.whole_layers), "agreement": round(kept, 3), "speedup": round(speedup, 3)})
    best = min(tasks, key=lambda plan: seconds[plan])
    save_plan(options.out, best, llm.body.identity, {"found_by": "benchmarks/oracle.py", "prompts": len(prompts)})
    print(json.dumps({"model": llm.name, "threads": options.threads, "best": str(best), "rows": rows}))


if __name__ == "__main__":
    main()
