"""A layer's small operators as one call each, compiled where they run.

Between its matrix products a short pass is a few dozen of torch's operators a layer, whose launching takes longer than
their work. `kernels.cpp` has them as three functions of plain C++. They are compiled once, with whatever C++ compiler
there is, and kept in the cache folder; without a compiler the operators are torch's, and nothing else changes.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from conflayers.body.alias import cache_folder
from conflayers.body.cache import PositionedCache, PositionedLayer
from conflayers.body.operators import SHORT, Held, Operators, RmsNorm, Seen, rms_norm
from conflayers.body.steady import attend
from conflayers.errors import LoadError

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("c++", "g++", "clang++")
# Sums keep their order: rows have the same bits in any company.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-w")
# For this processor where the compiler knows how, else for any of its kind.
TUNED = ("-march=native",), ()
# A compiler that takes longer has something wrong with it.
COMPILING_SECONDS = 60
# Set to 0, nothing is compiled and nothing compiled is used.
SWITCH = "CONFLAYERS_NATIVE"
# Heads that a kernel has room for.
WIDEST_HEAD = 1024
# Widths of heads whose attention is a kernel,
ATTENDED = (32, 64, 96, 128)
# ... up to so many columns times all heads' width: of more, torch's takes less time, since it is for many threads. It
# must not be a matter of how many tokens there are, lest verification had other bits than decoding.
MOST_WORK = 1 << 19
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_POINTER, _COUNT, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "norm": [*[_POINTER] * 3, _REAL, _POINTER, *[_COUNT] * 2],
    "gated": [*[_POINTER] * 2, *[_COUNT] * 2],
    "turn": [*[_POINTER] * 3, _REAL, *[_POINTER] * 5, *[_COUNT] * 5],
    "attend": [*[_POINTER] * 3, *[_COUNT] * 6, _REAL, *[_POINTER] * 2],
}


class NoKernelsError(Exception):
    """There are no compiled kernels; the message says why."""


class Native(Operators):
    """The kernels, for a few rows of one dtype in the processor's memory. Bits of a row do not depend on the others.

    Raises:
        NoKernelsError: they cannot be had here, or not for this.
    """

    def __init__(self, heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(heads, kv_heads, width)
        if device.type != "cpu" or dtype not in TYPES:
            raise NoKernelsError(f"there are none for {dtype} on {device.type}")
        if width > WIDEST_HEAD or width % 2:
            raise NoKernelsError(f"there are none for heads of {width}")
        found = library()
        if isinstance(found, str):
            raise NoKernelsError(found)
        self._kind = dtype
        functions = [getattr(found, f"{name}_{TYPES[dtype]}") for name in _ARGUMENTS]
        self._norm, self._gated, self._turn, self._attend = functions
        self._columns = MOST_WORK // (heads * width) if width in ATTENDED else 0
        self._scratch = torch.empty(heads // kv_heads * SHORT * (2 * width + self._columns + 17))

    def norm(self, states: torch.Tensor, norm: RmsNorm, added: torch.Tensor | None = None) -> torch.Tensor:
        """See `Operators.norm`."""
        out = torch.empty_like(states)
        more = None if added is None else added.data_ptr()
        self._norm(states.data_ptr(), more, norm.weight.data_ptr(), norm.eps, out.data_ptr(), *states.shape)
        return out

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Operators.gated`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._gated(gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out

    def turn(
        self,
        mixed: torch.Tensor,
        norms: tuple[RmsNorm, RmsNorm] | None,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        cached: PositionedLayer,
    ) -> tuple[torch.Tensor, Held | None]:
        """See `Operators.turn`."""
        if not cached.is_initialized:
            nothing = mixed.new_empty(1, self.kv_heads, 0, self.width)
            cached.lazy_initialization(nothing, nothing)
        tokens, row = mixed.shape[0], cached.owner.length * self.width
        queries = mixed.new_empty(self.heads, tokens, self.width)
        assert cached.keys is not None
        assert cached.values is not None
        at = row * mixed.element_size()
        self._turn(
            mixed.data_ptr(),
            *((norm.weight.data_ptr() for norm in norms) if norms else (None, None)),
            norms[0].eps if norms else 0.0,
            *((one.data_ptr() for one in angles) if angles else (None, None)),
            queries.data_ptr(),
            cached.keys.data_ptr() + at,
            cached.values.data_ptr() + at,
            cached.keys.stride(1),
            tokens,
            self.heads,
            self.kv_heads,
            self.width,
        )
        return queries, None

    def attend(self, queries: torch.Tensor, held: Held | None, cached: PositionedLayer, seen: Seen) -> torch.Tensor:
        """See `Operators.attend`. Of a chain, the tokens that see few enough columns are the kernel's."""
        tokens = queries.shape[1]
        # What one token may see of a window is what the cache returns.
        if held is not None or not seen.chain or (cached.window is not None and tokens > 1):
            return super().attend(queries, held, cached, seen)
        fitting = min(self._columns - (cached.owner.length - cached.first_visible()), tokens)
        if fitting <= 0:
            return super().attend(queries, held, cached, seen)
        if fitting == tokens:
            return self._attended(queries, cached)
        few = self._attended(queries[:, :fitting].contiguous(), cached)
        rest = attend(queries[:, fitting:], *cached.visible(tokens), seen.blocks(cached.window, fitting))
        return torch.cat([few, rest.transpose(0, 1).reshape(tokens - fitting, -1)])

    def _attended(self, queries: torch.Tensor, cached: PositionedLayer) -> torch.Tensor:
        tokens, first = queries.shape[1], cached.first_visible()
        out = queries.new_empty(tokens, self.heads * self.width)
        assert cached.keys is not None
        assert cached.values is not None
        at = first * self.width * queries.element_size()
        self._attend(
            queries.data_ptr(),
            cached.keys.data_ptr() + at,
            cached.values.data_ptr() + at,
            cached.keys.stride(1),
            cached.owner.length - first + 1,
            tokens,
            self.heads,
            self.kv_heads,
            self.width,
            self.width**-0.5,
            self._scratch.data_ptr(),
            out.data_ptr(),
        )
        return out

    @torch.no_grad()
    def steady(self) -> bool:
        """Whether a few tokens at once have the bits that they have one by one, as far as one text tells."""
        generator, kind = torch.Generator().manual_seed(0), self._kind
        hidden = self.heads * self.width
        mixed = torch.randn(SHORT, hidden + 2 * self.kv_heads * self.width, generator=generator).to(kind)
        turned = torch.randn(2, SHORT, 1, self.width, generator=generator).to(kind)
        norm = rms_norm(torch.rand(hidden, generator=generator).to(kind), 1e-5)

        def run(at_once: int) -> torch.Tensor:
            cache, outs = PositionedCache([None], SHORT), []
            for some, cos, sin in zip(*(torch.split(one, at_once) for one in (mixed, *turned)), strict=True):
                seen = Seen((cos, sin), True, False, lambda _: None, self.heads // self.kv_heads, True)
                queries, held = self.turn(some, None, seen.angles, cache.layers[0])
                states = queries.transpose(0, 1).reshape(len(some), hidden)
                # Torch's attention is looked at elsewhere.
                if self._columns:
                    states = self.attend(queries, held, cache.layers[0], seen)
                outs.append(self.gated(self.norm(states, norm)))
                cache.advance(len(some))
            return torch.cat(outs)

        alone = run(1)
        return all(torch.equal(run(count), alone) for count in (3, 11, SHORT))


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled kernels, or why there are none, in words. Found out once a process."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return "no C++ compiler was found"
    try:
        found = _loaded(compiler)
    except (OSError, subprocess.SubprocessError, LoadError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip()
        return f"{compiler} failed: {words.splitlines()[0] if words else type(error).__name__}"
    for name, arguments in _ARGUMENTS.items():
        for dtype in TYPES.values():
            function = getattr(found, f"{name}_{dtype}")
            function.argtypes, function.restype = arguments, None
    return found


def _loaded(compiler: str) -> ctypes.CDLL:
    """The kernels' library, compiled now unless it was before: for this source, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=COMPILING_SECONDS, check=True).stdout
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), compiler.encode(), version, _processor())
    kept = cache_folder() / f"kernels-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    try:
        return ctypes.CDLL(str(kept))
    except OSError:
        # There is none yet, or something happened to it.
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / kept.name
            _compile(compiler, made)
            # Whole or not at all, whoever else compiles it at the moment.
            made.replace(kept)
        return ctypes.CDLL(str(kept))


def _compile(compiler: str, made: Path) -> None:
    for tuned in TUNED:
        command = [compiler, *FLAGS, *tuned, str(SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILING_SECONDS)
        if done.returncode == 0:
            return
    done.check_returncode()


def _processor() -> bytes:
    """What tells this processor's instructions from another's: folders are shared between machines."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {flags}".encode()
