"""Runs a program and its tests within limits; a script for an interpreter of its own, of the standard library alone.

Standard input holds a JSON object with `program`, `tests`, `seconds`, `memory_mb` and `word`. Standard output gets
"ready" as soon as the limits hold, and then the word if both come to their end. Standard error gets what went wrong
before "ready", and nothing of the program.
"""

import json
import math
import os
import resource
import sys
from typing import Any

FILE_BYTES = 1 << 20
OPEN_FILES = 64
# Starting and ending programs, the network, and files that are not the program's own.
REFUSED = (
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.symlink",
    "os.system",
    "os.truncate",
    "pty.spawn",
    "shutil.",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostby",
    "socket.send",
    "subprocess.Popen",
)
# The folder it is started in.
HOME = os.path.realpath(".")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Do what the module says."""
    given = json.load(sys.stdin)
    word, write, leave = given["word"].encode(), os.write, os._exit
    limit(math.ceil(given["seconds"]), given["memory_mb"] << 20)
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    write(out, b"ready")
    program = compile(given["program"], "program.py", "exec")
    tests = compile(given["tests"], "tests.py", "exec")
    sys.argv = ["program.py"]
    sys.addaudithook(refuse)
    del given
    space = {"__name__": "program"}
    exec(program, space)
    exec(tests, space)
    write(out, word)
    # Threads that the program has left behind are not waited for.
    leave(0)


def limit(seconds: int, memory: int) -> None:
    """Limit this process: seconds of CPU time, bytes of memory, sizes and number of files, processes, core dumps."""
    for kind, most in (
        (resource.RLIMIT_CPU, seconds + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except ValueError:
            # macOS takes no limit of the address space.
            if sys.platform == "linux":
                raise


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: raise PermissionError at what no solution of a problem needs."""
    if event.startswith(REFUSED):
        raise PermissionError(f"{event} is not allowed")
    if event == "open":
        path, _, flags = arguments
        if flags & _WRITING and not isinstance(path, int) and _elsewhere(path):
            raise PermissionError(f"writing {path!r} is not allowed")


def _elsewhere(path: str | bytes) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    return real != os.devnull and not real.startswith(HOME + os.sep)


if __name__ == "__main__":
    main()
