"""The ways to choose layers against each other: one model, one stream of prompts, all methods in turns on each prompt.

Every method is one task over the whole stream, so that what it learns from one prompt serves the next, and everything
it does between the first prompt and the last token counts: prefill, drafts, verification, search. Greedy; all texts
are compared with plain decoding's.

    python benchmarks/methods.py tests/zoo/dropout-16 [--limit 50] [--new-tokens 128] [--methods ...] [--plan N=FILE]

A method is a name of the table, with options as NAME:option=value:..., or one of the plans given. The last line is one
JSON document.
"""

import argparse
import json
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import conflayers
from conflayers.api import Llm, Result
from conflayers.cli.arguments import parse_options
from conflayers.round import Method
from conflayers.search.data import read_prompts
from conflayers.stats import Stats

HELD_OUT = Path(__file__).parent.parent / "tests/zoo/held_out.jsonl"
METHODS = (
    "vanilla", "conflayers", "conflayers:variant=rule:lam=-0.4", "conflayers:variant=rule:lam=0.0",
    "conflayers:variant=rule:lam=0.4", "conflayers:variant=paper", "swift", "clasp", "knapspec", "cosine", "uniform",
    "random",
)  # fmt: skip
PLAIN = "vanilla"


@dataclass
class Row:
    """What one method did over the stream."""

    name: str
    task: Method
    seconds: list[float] = field(default_factory=list)
    total: Stats = field(default_factory=Stats)
    identical: int = 0

    def add(self, result: Result, reference: list[int]) -> None:
        """Count one prompt."""
        self.seconds.append(result.stats.total_seconds)
        self.total.include(result.stats)
        self.identical += result.token_ids == reference

    def document(self, plain: "Row", layers: int) -> dict[str, Any]:
        """The row of the table."""
        total, plan = self.total, self.task.plan
        half = len(self.seconds) // 2
        return {
            "method": self.name,
            "tokens_per_second": round(total.tokens_per_second, 2),
            "speedup": round(sum(plain.seconds) / sum(self.seconds), 3),
            "interval": [round(value, 3) for value in bootstrap(plain.seconds, self.seconds)],
            "second_half": round(sum(plain.seconds[half:]) / sum(self.seconds[half:]), 3),
            "mean_accepted_tokens": round(total.mean_acceptance_length, 2),
            "acceptance_rate": round(total.draft_acceptance_rate, 3),
            "select_share": round(total.select_seconds / total.total_seconds, 4),
            "prefill_share": round(total.prefill_seconds / total.total_seconds, 4),
            "skip_ratio": round(plan.skip_ratio(layers), 2) if plan else 0.0,
            "identical": f"{self.identical}/{len(self.seconds)}",
            "plan": str(plan) if plan else "none",
        }


def bootstrap(plain: list[float], other: list[float], draws: int = 1000) -> tuple[float, float]:
    """The 95% interval of the speedup, drawing prompts anew."""
    source, count = random.Random(0), len(plain)
    found = []
    for _ in range(draws):
        chosen = source.choices(range(count), k=count)
        found.append(sum(plain[i] for i in chosen) / sum(other[i] for i in chosen))
    cuts = statistics.quantiles(found, n=40)
    return cuts[0], cuts[-1]


def make(llm: Llm, name: str, plans: dict[str, str]) -> Method:
    """The task of a method as named on the command line."""
    if name in plans:
        method, _, file = plans[name].rpartition(",")
        return llm.task(method or "fixed", plan=file)
    method, *given = name.split(":")
    return llm.task(method, **parse_options(given))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=HELD_OUT, help="JSON lines with `prompt`")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--plan", action="append", default=[], metavar="NAME=[METHOD,]FILE", help="a saved plan as a row"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    llm = conflayers.load(given.model, dtype=given.dtype)
    plans = dict(one.split("=", 1) for one in given.plan)
    names = list(dict.fromkeys([PLAIN, *given.methods.split(","), *plans]))
    prompts = read_prompts(given.data, given.limit).prompts
    rows = {name: Row(name, make(llm, name, plans)) for name in names}
    llm.generate(prompts[0], method=PLAIN, max_new_tokens=64)  # warm up
    for turn, prompt in enumerate(prompts):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        results = {name: llm.generate(prompt, task=rows[name].task, max_new_tokens=given.new_tokens) for name in order}
        for name in names:
            rows[name].add(results[name], results[PLAIN].token_ids)
    table = [rows[name].document(rows[PLAIN], llm.body.layers) for name in names]
    for row in sorted(table, key=lambda row: -row["speedup"]):
        print(
            f"{row['method']:34s} {row['tokens_per_second']:7.1f} tok/s  {row['speedup']:.3f}x "
            f"[{row['interval'][0]:.2f}, {row['interval'][1]:.2f}] late {row['second_half']:.2f}  "
            f"M {row['mean_accepted_tokens']:.2f}  acc {row['acceptance_rate']:.2f}  select {row['select_share']:.2%}  "
            f"identical {row['identical']}  {row['plan']}"
        )
    for name in names:
        for decision in rows[name].task.decisions[-4:]:
            print(f"    {name}: {decision}")
    settings = {
        "model": llm.name, "device": str(llm.model.device), "dtype": given.dtype, "threads": given.threads,
        "prompts": len(prompts), "new_tokens": given.new_tokens, "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps({"settings": settings, "rows": table}))


if __name__ == "__main__":
    main()
