"""Compiles the kernels where it is to run, once, and keeps what comes of it in the cache folder."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from conflayers.body.cache_folder import cache_folder, cache_place, scratch_in, sha256
from conflayers.errors import LoadError

FOLDER = Path(__file__).with_name("compiled")
SOURCE = FOLDER / "kernels.cpp"
# After $CXX; the first that can.
COMPILERS = ("c++", "g++", "clang++")
# Sums keep their order: rows have the same bits in any company.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-w")
# For this processor where the compiler knows how, else for any of its kind.
TUNED = ("-march=native",), ()
# A compiler that takes longer has something wrong with it, even on a busy machine.
COMPILING_SECONDS = 180
# Set to 0, nothing is compiled and nothing compiled is used.
SWITCH = "CONFLAYERS_NATIVE"
# Of numbers, as torch names them.
KINDS = ("float32", "bfloat16")

_POINTER, _COUNT, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
# Names the next token of a chain.
FOLLOWING = ctypes.CFUNCTYPE(_COUNT)
# What functions take, and what they return: of every kind of number,
_OF_KINDS: dict[str, tuple[list[Any], Any]] = {
    "norm": ([*[_POINTER] * 3, _REAL, _POINTER, *[_COUNT] * 2], None),
    "gated": ([*[_POINTER] * 2, *[_COUNT] * 2], None),
    "turn": ([*[_POINTER] * 3, _REAL, *[_POINTER] * 5, *[_COUNT] * 5], None),
    "attend": ([*[_POINTER] * 4, *[_COUNT] * 7, _REAL, *[_POINTER] * 2], None),
    "attend_bytes": ([_COUNT] * 4, _COUNT),
    "product_bytes": ([_POINTER, _COUNT], _COUNT),
    "multiply": ([_POINTER, _POINTER, _COUNT, _COUNT, _POINTER, _POINTER], None),
    "round_matrix": ([_COUNT, _POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER], None),
    "pass_bytes": ([_POINTER], _COUNT),
    "run_pass": ([_POINTER], None),
    "run_chain": ([*[_POINTER] * 3, _COUNT, FOLLOWING], _COUNT),
}
# ... and which of them the processor has.
_ANSWERS = ("has_passes", "has_tiles")


class NoKernelsError(Exception):
    """There are no compiled kernels; the message says why."""


class _TooLongError(NoKernelsError):
    """A compiler did not come to an end in time."""


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled kernels, or why there are none, in words. Found out once a process."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    reasons = []
    for command in _wanted():
        try:
            return _loaded(command)
        except NoKernelsError as error:
            reasons.append(str(error))
    return reasons[0] if reasons else "no C++ compiler was found"


def of(name: str, kind: torch.dtype) -> Any:
    """One of the kernels, for numbers of a kind; there is a library."""
    found = library()
    assert not isinstance(found, str)
    return getattr(found, f"{name}_{kind_name(kind)}")


def kind_name(kind: torch.dtype) -> str:
    """As `KINDS` have it."""
    return str(kind).removeprefix("torch.")


def _wanted() -> list[list[str]]:
    """Compilers that are there, with their options, the one to try first first."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:
        # Not a command: the others may do.
        named = []
    commands = [named, *([name] for name in COMPILERS)]
    return [[found, *command[1:]] for command in commands if command and (found := shutil.which(command[0]))]


def _loaded(compiler: list[str]) -> ctypes.CDLL:
    """The kernels' library, compiled now unless it was before: for this source, compiler and processor."""
    parts = (*sources(), *FLAGS, *compiler, _run([*compiler, "--version"]), processor())
    name = f"kernels-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.so"
    try:
        # A folder that cannot be written to may have it all the same.
        kept = cache_place() / name
        if _is_whole(kept):
            return _opened(kept)
        with scratch_in(cache_folder()) as scratch:
            made = scratch / name
            _compile(compiler, made)
            _digest(made).write_text(sha256(made))
            # Whoever else compiles it at the moment makes the same.
            made.replace(kept)
            _digest(made).replace(_digest(kept))
        return _opened(kept)
    except (LoadError, OSError) as error:
        raise NoKernelsError(str(error)) from error


def sources() -> tuple[str, ...]:
    """What is compiled."""
    return tuple(path.read_text() for path in sorted(FOLDER.glob("*.[ch]*")))


def _digest(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Whether a library is there as it was made: one that was cut short would end the process that opens it."""
    return path.is_file() and _digest(path).exists() and _digest(path).read_bytes() == sha256(path).encode()


def _opened(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
        for name, (arguments, returned) in _OF_KINDS.items():
            for kind in KINDS:
                function = getattr(found, f"{name}_{kind}")
                function.argtypes, function.restype = arguments, returned
        for name in _ANSWERS:
            getattr(found, name).restype = _COUNT
    except (OSError, AttributeError) as error:
        raise NoKernelsError(f"what was compiled cannot be used: {error}") from error
    return found


def _compile(compiler: list[str], made: Path) -> None:
    commands = [[*compiler, *FLAGS, *tuned, str(SOURCE), "-o", str(made)] for tuned in TUNED]
    try:
        _run(commands[0])
    except _TooLongError:
        # What is compiled next is kept for good, and would be slower.
        raise
    except NoKernelsError:
        _run(commands[1])


def _run(command: list[str]) -> str:
    """What a compiler says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILING_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _TooLongError(f"{command[0]} took more than {COMPILING_SECONDS} s") from error
    except OSError as error:
        raise NoKernelsError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NoKernelsError(f"{command[0]} failed: {next((line for line in lines if 'error' in line), lines[0])}")
    return done.stdout


def processor() -> str:
    """What tells this processor from another: folders are shared between machines."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    told = {line.partition(":")[0].strip(): line for line in lines}
    found = [told[name] for name in ("model name", "flags", "Features") if name in told] or [platform.processor()]
    return " ".join([platform.system(), platform.machine(), *found])
