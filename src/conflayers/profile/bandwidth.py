"""How fast this machine reads memory: what no pass that has to read its weights can beat."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from conflayers.bench.ways import synchronise

Clock = Callable[[], float]

# Far more than any cache holds.
BYTES = 1 << 30
REPEAT = 8


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second, the best of several tries.

    Attributes:
        memory: of a buffer that no cache holds.
        again: of as many bytes as a pass reads, again and again, from wherever the machine keeps them by then.
    """

    memory: float
    again: float

    @property
    def limit(self) -> float:
        """The larger of both: what fits the caches may be read faster than memory, and is, pass after pass."""
        return max(self.memory, self.again)

    def best(self, other: "Bandwidth") -> "Bandwidth":
        """Of two measurements the larger figures: whatever disturbs one makes it smaller."""
        return Bandwidth(max(self.memory, other.memory), max(self.again, other.again))


def bandwidth(device: torch.device, again: int, clock: Clock = time.perf_counter) -> Bandwidth:
    """Measure both with the threads in use.

    Args:
        device: whose memory.
        again: bytes that a pass reads, 1 or more.
        clock: seconds.
    """
    return Bandwidth(read_rate(device, BYTES, clock), read_rate(device, again, clock))


def read_rate(device: torch.device, size: int, clock: Clock = time.perf_counter) -> float:
    """Bytes a second over a buffer of about `size` bytes, the best of several reductions.

    An accelerator may also copy one half of the buffer to the other, where it counts what is read and written.

    Args:
        device: whose memory.
        size: bytes, 1 or more.
        clock: seconds.
    """
    buffer = torch.ones(max(size // 4, 2) // 2 * 2, device=device)
    halves = buffer.chunk(2)
    ways: list[Callable[[], object]] = [buffer.sum]
    if device.type != "cpu":
        ways.append(lambda: halves[1].copy_(halves[0]))
    for way in ways:
        way()
    seconds = min(_seconds(way, device, clock) for _ in range(REPEAT) for way in ways)
    return buffer.nbytes / seconds


def _seconds(way: Callable[[], object], device: torch.device, clock: Clock) -> float:
    synchronise(device)
    begun = clock()
    way()
    synchronise(device)
    return clock() - begun
