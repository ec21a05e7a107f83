"""Peak memory of a method: one request in a process of its own, so that no other method's leavings are counted.

It is the most that was resident while the request ran, the loaded model included and what loading itself took left out
(on Linux; elsewhere that cannot be told apart).
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conflayers.errors import InputError

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
LONGEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Probe:
    """What to measure.

    Attributes:
        loading: arguments of `conflayers.load`, `source` among them.
        threads: of torch.
        name: the row's name.
        choice: how tokens are chosen.
        ids: the prompt.
        count: new tokens at most.
    """

    loading: Mapping[str, Any]
    threads: int
    name: str
    choice: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[int] = ()
    count: int = 1


def peak_mb(probe: Probe) -> float:
    """The peak in MB.

    Raises:
        InputError: the process failed; the message ends with what it said last.
    """
    command = [sys.executable, "-m", "conflayers.bench.memory"]
    done = subprocess.run(
        command, input=json.dumps(asdict(probe)), capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise InputError(f"the memory of {probe.name!r} could not be measured: {said}")
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure what standard input describes, and print it."""
    import torch

    from conflayers.api import load
    from conflayers.bench.spec import make_ways

    probe = Probe(**json.loads(sys.stdin.read()))
    torch.set_num_threads(probe.threads)
    llm = load(**probe.loading)
    (way,) = make_ways(llm, [probe.name], dict(probe.choice), fresh=False)
    if CLEAR.exists():
        CLEAR.write_text("5", encoding="ascii")
    way.run(list(probe.ids), probe.count)
    print(_resident())


def _resident() -> float:
    if STATUS.exists():
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
