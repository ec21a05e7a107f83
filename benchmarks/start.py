"""From nothing to the first token: a new process each time, that loads a model and asks it for one token.

    python benchmarks/start.py MODEL [--dtype bfloat16] [--threads N] [--method auto] [--starts 4]

Import, load, the task (where a method measures this machine, once for a model and kept on disk) and the first token, in
seconds, and the time of the whole process from outside. The first start may also compile, fetch and measure; all later
ones are what users see every day.
"""

import argparse
import json
import subprocess
import sys
import time

from conflayers.bench.provenance import command_line, provenance

PROGRAMME = """
import json, sys, time
begun = time.perf_counter()
import torch, conflayers
imported = time.perf_counter()
model, dtype, threads, method = sys.argv[1:]
if int(threads):
    torch.set_num_threads(int(threads))
llm = conflayers.load(model, dtype=dtype)
loaded = time.perf_counter()
task = llm.task(method)
prepared = time.perf_counter()
next(iter(llm.stream("Hello", task=task, max_new_tokens=16)))
spoken = time.perf_counter()
names = ("import", "load", "task", "first_token")
moments = (begun, imported, loaded, prepared, spoken)
print(json.dumps({name: round(b - a, 3) for name, a, b in zip(names, moments, moments[1:])}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--starts", type=int, default=4)
    options = parser.parse_args()
    rows = []
    for _ in range(options.starts):
        words = [options.model, options.dtype, str(options.threads), options.method]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAMME, *words],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            {**row, "to_first_token": round(sum(row.values()), 3), "process": round(time.perf_counter() - begun, 3)}
        )
        print("  ".join(f"{name} {seconds}" for name, seconds in rows[-1].items()), flush=True)
    print(
        json.dumps(
            {
                "model": options.model,
                "dtype": options.dtype,
                "threads": options.threads,
                "method": options.method,
                "starts": rows,
                "provenance": provenance(command_line()),
            }
        )
    )


if __name__ == "__main__":
    main()
