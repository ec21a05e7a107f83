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
        "load_average": _load(),
        "started": now(),
        "finished": None,
    }


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# Instructions that decide how fast matrices are multiplied, the widest first, as Linux and as people name them.
INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}


def processor() -> str:
    """The processor's name as the system has it, and the widest instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = _field(lines, "model name") or platform.processor() or platform.machine()
    flags = _field(lines, "flags").split()
    return ", ".join([name, *[known for flag, known in INSTRUCTIONS.items() if flag in flags][:1]])


def _field(lines: Sequence[str], name: str) -> str:
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _load() -> list[float] | None:
    """Processes that were running or waiting, over the last 1, 5 and 15 minutes: how quiet the machine was."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


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
    """The last revision that changed the package, marked where it was changed since; None outside a checkout."""
    package = str(Path(__file__).resolve().parents[1])

    def ask(*words: str) -> str:
        command = ["git", "-C", package, *words, "--", "."]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # Empty where an installed package happens to lie in somebody else's repository.
        revision = ask("log", "-1", "--format=%h", "--abbrev=12")
        return f"{revision}-dirty" if revision and ask("status", "--porcelain") else revision or None
    except (OSError, subprocess.SubprocessError):
        return None


def command_line() -> list[str]:
    """The command as it was given, without the folder of the program."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
