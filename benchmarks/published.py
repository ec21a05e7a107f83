"""Published runs one by one: what was to be expected of them, and the overhead that explains the difference.

    python benchmarks/published.py FILE [--accelerator h100-sxm]

FILE is described in docs/predict.md. The last line is one JSON document.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from conflayers.predict.accelerators import accelerator
from conflayers.predict.published import Compared, compare_published, overhead_lines, read_runs
from conflayers.predict.roofline import Machine


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
    parser.add_argument("file", type=Path)
    parser.add_argument("--accelerator", default="h100-sxm", help="the authors' is not named; ratios hardly differ")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=100 * 512, help="tokens of a run: 100 prompts of 512")
    parser.add_argument("--context", type=int, default=512)
    published(parser.parse_args())


if __name__ == "__main__":
    main()
