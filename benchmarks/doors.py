"""What trees and sampling cost beside the passes of the model.

Trees: the share of the wall time that goes into bookkeeping (choosing siblings, masks, moving cache rows, walking the
tree), with the published widths. Sampling: tokens per second of sampled over greedy decoding at the same acceptance, by
drafts that skip nothing and so are accepted whole either way, in turns.

    python benchmarks/doors.py [--model smollm2] [--new-tokens 256] [--repeat 4]

The last line is one JSON document.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import conflayers
from conflayers import FULL, Plan
from conflayers.api import Llm
from conflayers.body.cache import PositionedCache
from conflayers.body.portable import PortableBody
from conflayers.draft import Draft
from conflayers.sampling import Greedy

PROMPT = "Explain in a few sentences why the sky is blue, and then write a short story about it."
BOOKKEEPING = (
    (PortableBody, "_masks"),
    (PositionedCache, "keep"),
    (Draft, "add_sibling"),
    (Draft, "children"),
    (Greedy, "siblings"),
)


@contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time spent in each bookkeeping function, for as long as the context lasts."""

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - begun

        return call

    originals = [(owner, name, getattr(owner, name)) for owner, name in BOOKKEEPING]
    try:
        for owner, name, function in originals:
            setattr(owner, name, watched(f"{owner.__name__}.{name}", function))
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def trees(llm: Llm, plan: Plan, new_tokens: int) -> dict[str, Any]:
    """Shares of the wall time of one request with the published trees."""
    seconds: dict[str, float] = defaultdict(float)
    with timed(seconds):
        stats = llm.generate(
            PROMPT, method="fixed", plan=plan, tree="paper", confidence_stop=0.8, max_new_tokens=new_tokens
        ).stats
    return {
        "siblings_a_round": round(stats.num_sibling_tokens / max(stats.num_spec_steps, 1), 2),
        "accepted_siblings": stats.num_accepted_sibling_tokens,
        "rounds": stats.num_spec_steps,
        "seconds": round(stats.total_seconds, 2),
        "bookkeeping_share": round(sum(seconds.values()) / stats.total_seconds, 5),
        "by_part": {name: round(spent / stats.total_seconds, 5) for name, spent in sorted(seconds.items())},
    }


def sampling(llm: Llm, new_tokens: int, repeat: int) -> list[dict[str, Any]]:
    """Speed of each way to choose tokens, drafts of four that skip nothing, in turns."""
    ways: dict[str, dict[str, Any]] = {
        "greedy": {},
        "sampled": {"temperature": 1.0, "top_k": 0},
        "sampled, with a seed": {"temperature": 1.0, "top_k": 0, "seed": 1},
        "sampled, top-p 0.9": {"temperature": 1.0, "top_k": 0, "top_p": 0.9},
    }
    runs: dict[str, list[Any]] = {way: [] for way in ways}
    names = list(ways)
    for turn in range(repeat):
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            arguments = {"method": "fixed", "plan": FULL, "draft_length": 4, "tree": "none", **ways[way]}
            runs[way].append(
                llm.generate(PROMPT, max_new_tokens=new_tokens, eos_token_id=llm.body.vocab_size - 1, **arguments).stats
            )
    rows = []
    for way, found in runs.items():
        # By pass, not by token: acceptance is all but the same, and what is left of its difference is not the cost.
        passes = [s.total_seconds / (s.num_spec_steps + s.num_plain_steps + s.num_draft_tokens) for s in found]
        greedy = [s.total_seconds / (s.num_spec_steps + s.num_plain_steps + s.num_draft_tokens) for s in runs["greedy"]]
        ratios = [mine / theirs for mine, theirs in zip(passes, greedy, strict=True)]
        rows.append(
            {
                "method": way,
                "tokens_per_second": round(sum(s.new_tokens for s in found) / sum(s.total_seconds for s in found), 2),
                "acceptance_rate": round(
                    sum(s.num_accepted_draft_tokens for s in found) / sum(s.num_draft_tokens for s in found), 4
                ),
                "seconds_a_pass_over_greedy": round(sum(passes) / sum(greedy), 4),
                "by_repeat": [round(ratio, 3) for ratio in ratios],
                "median": round(statistics.median(ratios), 4),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=4)
    arguments = parser.parse_args()
    llm = conflayers.load(arguments.model)
    plan = Plan.layers(range(10, llm.body.layers - 4, 4))
    llm.generate(PROMPT, method="fixed", plan=plan, max_new_tokens=8)
    document = {
        "model": llm.name,
        "dtype": str(llm.model.dtype),
        "device": str(llm.model.device),
        "threads": torch.get_num_threads(),
        "new_tokens": arguments.new_tokens,
        "trees": trees(llm, plan, arguments.new_tokens),
        "rows": sampling(llm, arguments.new_tokens, arguments.repeat),
    }
    for row in (document["trees"], *document["rows"]):
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
