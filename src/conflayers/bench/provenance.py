"""Where results come from: everything somebody needs who wants to get them again."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("conflayers", "torch", "transformers", "tokenizers", "numpy", "llama-cpp-python")


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """The machine, the versions and the command, now.

    Args:
        command: the command's words.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "git": _git(),
        "command": list(command),
        "started": now(),
        "finished": None,
    }


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def processor() -> str:
    """The processor's name as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _accelerator() -> str | None:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if device is None else str(device)


def _git() -> str | None:
    """The revision of the code that runs, marked where it was changed since; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        # Not the revision of whatever repository an installed package happens to lie in.
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
            check=False,
        )
        if tracked.returncode:
            return None
        found = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def command_line() -> list[str]:
    """The command as it was given, without the folder of the program."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
