"""The figures that the README's table is made of: engine, selection, memory and the price of finding out.

    python benchmarks/figures.py [--model smollm2] [--dtype float32] [--new-tokens 256] [--repeat 3] [--data FILE.jsonl]

Methods run interleaved, prompt by prompt, in rotating order, so that a drifting machine hits all alike; ratios are of
total times. Peak memory is read in a fresh process for each method. The last line is one JSON document.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from conflayers import Llm, load

PROMPTS = [
    "Write a detailed guide for somebody who wants to start a vegetable garden on a balcony.",
    "Tell a long story about a lighthouse keeper who finds a map in a bottle.",
    "Explain step by step how a bicycle works, from the pedals to the rear wheel.",
    "Write a Python class for a bank account with deposit, withdrawal and a history, and explain each method.",
]


def read_prompts(path: str | None, limit: int) -> list[str]:
    if path is None:
        return PROMPTS[:limit]
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [line["turns"][0] if "turns" in line else line["prompt"] for line in lines][:limit]


def run(llm: Llm, method: str, prompt: str, new_tokens: int) -> dict[str, float]:
    ids = llm.encode(prompt)
    begun = time.perf_counter()
    if method == "hf":
        tensor = torch.tensor([ids], device=llm.model.device)
        output = llm.model.generate(
            tensor, attention_mask=torch.ones_like(tensor), do_sample=False, num_beams=1, max_new_tokens=new_tokens
        )
        return {"seconds": time.perf_counter() - begun, "tokens": output.shape[1] - len(ids), "select": 0.0}
    name, _, variant = method.partition("/")
    options = {"variant": variant} if variant else {}
    stats = llm.generate(ids, method=name, max_new_tokens=new_tokens, **options).stats
    return {
        "seconds": time.perf_counter() - begun,
        "tokens": stats.new_tokens,
        "select": stats.select_seconds,
        "accepted": stats.num_accepted_draft_tokens,
        "drafted": stats.num_draft_tokens,
    }


def recording_share(llm: Llm, prompt: str) -> float:
    """Time that recording adds to a plain step, as a share: confidences need the sublayers' outputs."""
    ids = llm.encode(prompt)
    llm.body.reserve(len(ids) + 2)
    llm.body.forward(ids, rows=1)
    times: dict[int, list[float]] = {0: [], 1: []}
    for i in range(60):
        begun = time.perf_counter()
        llm.body.forward([ids[-1]], record=i % 2)
        times[i % 2].append(time.perf_counter() - begun)
        llm.body.rollback(len(ids))
    llm.body.release()
    return statistics.median(times[1]) / statistics.median(times[0]) - 1


def peak_of_a_run(llm: Llm, method: str, prompt: str, new_tokens: int) -> float:
    """Peak resident MB of one run, the loaded model included and what loading itself took left out (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    run(llm, method, prompt, new_tokens)
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def peak_memory(arguments: argparse.Namespace, method: str) -> float:
    command = [sys.executable, __file__, "--only", method, "--model", arguments.model, "--dtype", arguments.dtype]
    command += ["--new-tokens", str(arguments.new_tokens)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--data", help="a JSONL file with `prompt` or `turns`")
    parser.add_argument("--limit", type=int, default=4, help="prompts taken")
    parser.add_argument("--methods", default="hf,vanilla,conflayers,conflayers/paper")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    llm = load(arguments.model, dtype=arguments.dtype)
    prompts = read_prompts(arguments.data, arguments.limit)
    if arguments.only:
        print(peak_of_a_run(llm, arguments.only, prompts[0], arguments.new_tokens))
        return

    methods = arguments.methods.split(",")
    for method in methods:
        run(llm, method, prompts[0], 8)
    done: dict[str, list[list[dict[str, float]]]] = {method: [] for method in methods}
    for turn in range(arguments.repeat):
        for method in methods:
            done[method].append([])
        for index, prompt in enumerate(prompts):
            shift = (turn + index) % len(methods)
            for method in methods[shift:] + methods[:shift]:
                done[method][-1].append(run(llm, method, prompt, arguments.new_tokens))

    rows = []
    for method in methods:
        total = {
            key: sum(r.get(key, 0.0) for turn in done[method] for r in turn)
            for key in ("seconds", "tokens", "select", "accepted", "drafted")
        }
        ratios = [
            sum(r["seconds"] for r in plain) / sum(r["seconds"] for r in mine)
            for plain, mine in zip(done["vanilla"], done[method], strict=True)
        ]
        plain_seconds = sum(r["seconds"] for turn in done["vanilla"] for r in turn)
        rows.append(
            {
                "method": method,
                "tokens": int(total["tokens"]),
                "tokens_per_second": round(total["tokens"] / total["seconds"], 2),
                "speedup": round(plain_seconds / total["seconds"], 3),
                "speedup_by_repeat": [round(ratio, 3) for ratio in ratios],
                "acceptance_rate": round(total["accepted"] / total["drafted"], 3) if total["drafted"] else 0.0,
                "select_share": round(total["select"] / total["seconds"], 5),
                "peak_memory_mb": round(peak_memory(arguments, method), 1),
            }
        )
    document = {
        "model": llm.name,
        "dtype": arguments.dtype,
        "device": str(llm.model.device),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("conflayers", "torch", "transformers")},
        "new_tokens": arguments.new_tokens,
        "prompts": len(prompts),
        "repeat": arguments.repeat,
        "recording_share_of_a_recorded_step": round(recording_share(llm, prompts[0]), 4),
        "rows": rows,
    }
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
