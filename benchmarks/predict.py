"""Predictions against measured runs and against published ones.

    python benchmarks/predict.py run tests/zoo/dropout-24 --out DIR   # short runs in turns, then predict them
    python benchmarks/predict.py results DIR                          # predict what `conflayers bench` measured here
    python benchmarks/predict.py published FILE                       # run by run, with the overhead that explains it

`run` is a small benchmark of its own, for the methods whose plans stay; `results` is `conflayers predict --results`.
The last line is one JSON document.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

import conflayers
from conflayers.bench.record import Record
from conflayers.bench.results import Results
from conflayers.cli.predict import check_results
from conflayers.plan import Plan
from conflayers.predict.accelerators import accelerator
from conflayers.predict.published import Compared, compare_published, overhead_lines, read_runs
from conflayers.predict.roofline import Machine
from conflayers.search.data import read_prompts

HELD_OUT = Path(__file__).parent.parent / "tests/zoo/held_out.jsonl"
PLAIN = "vanilla"


def run(given: argparse.Namespace) -> None:
    """Plain decoding and a few methods in turns on every prompt, then the check."""
    torch.set_num_threads(given.threads)
    llm = conflayers.load(given.model, dtype=given.dtype)
    layers = llm.body.layers
    half = Plan.layers(range(1, layers - 1, 2))
    late = Plan.layers(range(layers // 2, layers - 1))
    tasks = {
        PLAIN: llm.task(PLAIN),
        "fixed, every second layer": llm.task("fixed", plan=half),
        "fixed, late layers": llm.task("fixed", plan=late),
        "fixed, late layers, drafts of 4": llm.task("fixed", plan=late, draft_length=4, tree="none"),
        "uniform": llm.task("uniform"),
        "conflayers": llm.task("conflayers"),
    }
    prompts = read_prompts(given.data, given.limit).prompts
    settings = {
        "model": given.model, "layers": layers, "dtype": given.dtype, "device": str(llm.model.device),
        "threads": given.threads, "methods": list(tasks), "max_new_tokens": given.new_tokens, "temperature": 0.0,
    }  # fmt: skip
    results, clock = Results(settings, {}, []), time.process_time if given.cpu_seconds else time.perf_counter
    for task in tasks.values():
        llm.generate(prompts[0], task=replace(task), max_new_tokens=16)
    names = list(tasks)
    for index, prompt in enumerate(prompts):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            begun = clock()
            result = llm.generate(prompt, task=tasks[name], max_new_tokens=given.new_tokens)
            seconds = clock() - begun
            plan = None if result.plan is None else str(result.plan)
            results.records.append(
                Record(name, "held_out", "", index, 0, 0, seconds, 0.0, result.stats, result.token_ids, plan)
            )
    results.save(given.out)
    check_results(given.out, clock)


def published(given: argparse.Namespace) -> None:
    """Every run that can be predicted, with what is left, and the line that the overheads of one code lie on."""
    device = accelerator(given.accelerator)
    compared = compare_published(
        read_runs(given.file), Machine(device, given.devices), tokens=given.tokens, context=given.context
    )
    for one in compared:
        print(line(one))
    lines = overhead_lines(compared)
    for found in lines:
        print(
            f"{found.model} {found.method}: overhead of a round = {found.round_ms:.2f} ms + {found.step_ms:.2f} ms "
            f"for each draft step, over {found.runs} runs, none off by more than {found.off_ms:.2f} ms"
        )
    settings = {
        "accelerator": asdict(device),
        "devices": given.devices,
        "tokens": given.tokens,
        "context": given.context,
    }
    print(json.dumps({**settings, "rows": [asdict(one) for one in compared], "lines": [asdict(one) for one in lines]}))


def line(one: Compared) -> str:
    """A row of the table."""
    name = f"{one.model:12s} {one.data:7s} {one.method:22s}"
    if one.predicted is None:
        return f"{name} published {one.published:.3f}, not predicted: the file does not give its {one.missing}"
    text = (
        f"{name} M {one.mean_accepted:.2f}  drafts {one.draft_length:.2f}  skip {one.skip_ratio:.3f}  "
        f"predicted {one.predicted:.3f}  published {one.published:.3f}  overhead {one.overhead_share:.1%} of its time, "
        f"{one.overhead_steps:.3f} plain steps a round"
    )
    if one.overhead_ms is None:
        return text
    return f"{text} = {one.overhead_ms:.1f} ms (plain step {one.plain_ms:.1f} ms, ideal {one.ideal_plain_ms:.1f})"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run")
    measure.add_argument("model")
    measure.add_argument("--out", type=Path, required=True)
    measure.add_argument("--data", type=Path, default=HELD_OUT)
    measure.add_argument("--limit", type=int, default=8)
    measure.add_argument("--new-tokens", type=int, default=128)
    measure.add_argument("--threads", type=int, default=1)
    measure.add_argument("--dtype", default="float32")
    measure.add_argument(
        "--cpu-seconds", action="store_true", help="for a busy machine: its other processes do not count"
    )
    measure.set_defaults(do=run)
    check = commands.add_parser("results")
    check.add_argument("results", type=Path)
    check.set_defaults(do=lambda given: check_results(given.results))
    compare = commands.add_parser("published")
    compare.add_argument("file", type=Path)
    compare.add_argument("--accelerator", default="h100-sxm", help="the authors' is not named; ratios hardly differ")
    compare.add_argument("--devices", type=int, default=1)
    compare.add_argument("--tokens", type=int, default=100 * 512, help="tokens of a run: 100 prompts of 512")
    compare.add_argument("--context", type=int, default=512)
    compare.set_defaults(do=published)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
