"""A model's profile: bandwidth, passes and operators at some lengths of context, and where the next millisecond is."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conflayers.body.anatomy import probe_tokens
from conflayers.body.claim import exclusively
from conflayers.body.portable import PortableBody
from conflayers.errors import InputError
from conflayers.profile.bandwidth import Bandwidth, Clock, bandwidth
from conflayers.profile.operators import ATTENTION, BETWEEN, NORMS, OTHER, PRODUCTS, Operators, operators
from conflayers.profile.passes import SIZES, Passes, passes
from conflayers.profile.traffic import Traffic, traffic

if TYPE_CHECKING:
    from conflayers.api import Llm

CONTEXTS = (100, 800)
# What the largest pass adds to a context.
ROOM = max(SIZES)


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of a pass against the limit.

    Attributes:
        name: of a group of operators, or what is between them.
        seconds: what it takes.
        size: bytes it has to read.
        above: seconds that it takes more than reading them takes at the limit; negative where it is faster.
    """

    name: str
    seconds: float
    size: int
    above: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured at one length of context.

    Attributes:
        context: tokens in the cache before each pass.
        bandwidth: of the machine, measured before and after the passes.
        traffic: bytes that a pass over one token reads.
        passes: seconds by kind of pass.
        operators: the best pass over one token taken apart.
    """

    context: int
    bandwidth: Bandwidth
    traffic: Traffic
    passes: Passes
    operators: Operators

    def rate(self, seconds: float) -> float:
        """Bytes a second that a pass over one token comes to if it takes `seconds`."""
        return self.traffic.total / seconds

    def share(self, seconds: float) -> float:
        """Of the limit, 0 to about 1; above it where the machine was busier while the limit was measured."""
        return self.rate(seconds) / self.bandwidth.limit

    @property
    def least(self) -> float:
        """Seconds that reading the pass's bytes takes at the limit."""
        return self.traffic.total / self.bandwidth.limit

    @property
    def gaps(self) -> list[Gap]:
        """Where the next millisecond is, the largest first; together, what the best pass takes above `least`."""
        read = self.traffic
        sizes = {PRODUCTS: read.matrices, ATTENTION: read.cache, NORMS: read.norms, OTHER: read.embedding}
        spent = {group.name: group.seconds for group in self.operators.groups} | {BETWEEN: self.operators.between}
        found = [
            Gap(name, seconds, sizes.get(name, 0), seconds - sizes.get(name, 0) / self.bandwidth.limit)
            for name, seconds in spent.items()
        ]
        return sorted(found, key=lambda gap: -gap.above)

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, bytes and GB (10^9 bytes) a second, as plain values for JSON."""
        return {
            "context": self.context,
            "bandwidth": {
                "memory_gb_per_second": self.bandwidth.memory / 1e9,
                "again_gb_per_second": self.bandwidth.again / 1e9,
                "limit_gb_per_second": self.bandwidth.limit / 1e9,
            },
            "bytes": self.traffic.as_dict(),
            "median": self._achieved(self.passes.plain.median),
            "best": self._achieved(self.passes.plain.best),
            "least_ms": self.least * 1e3,
            "passes": self.passes.as_dict(),
            "operators": self.operators.as_dict(),
            "next_milliseconds": [
                {"name": gap.name, "ms": gap.seconds * 1e3, "bytes": gap.size, "above_limit_ms": gap.above * 1e3}
                for gap in self.gaps
            ],
        }

    def _achieved(self, seconds: float) -> dict[str, float]:
        rate = self.rate(seconds)
        return {"ms": seconds * 1e3, "gb_per_second": rate / 1e9, "share_of_limit": self.share(seconds)}


def measure(llm: "Llm", contexts: Sequence[int] | None = None, clock: Clock = time.perf_counter) -> list[Profile]:
    """Profile a model at some lengths of context. Its cache is emptied and given back, whatever happens.

    Args:
        llm: the model.
        contexts: tokens before the passes; by default 100 and 800, as far as the model's context allows.
        clock: seconds.

    Raises:
        InputError: a context that the model has no room for, or the model is generating. OutOfMemoryError: there is
            not the memory for it.
    """
    wanted = lengths(contexts, llm.body.context)
    return list(exclusively(llm.body, _profiles(llm.body, wanted, clock)))


def lengths(contexts: Sequence[int] | None, most: int) -> list[int]:
    """The contexts to measure at, in order, each once.

    Args:
        contexts: as asked for; None for those that fit of the usual ones, or the longest that does.
        most: positions that the model supports.

    Raises:
        InputError: one is below 1, or too long for the model; the message names it.
    """
    if most <= ROOM:
        raise InputError(f"the model's context of {most} tokens has no room for passes over {ROOM}")
    if contexts is None:
        return [length for length in CONTEXTS if length + ROOM <= most] or [most - ROOM]
    for length in contexts:
        if length < 1:
            raise InputError(f"a context takes 1 token or more, not {length}")
        if length + ROOM > most:
            raise InputError(
                f"a context of {length} tokens and passes over {ROOM} more exceed the model's context of {most}; at "
                f"most {most - ROOM} fit"
            )
    return sorted(set(contexts))


def _profiles(body: PortableBody, contexts: Sequence[int], clock: Clock) -> Generator[Profile, None, None]:
    try:
        for context in contexts:
            yield _profile(body, context, clock)
    finally:
        body.release()


def _profile(body: PortableBody, context: int, clock: Clock) -> Profile:
    tokens = probe_tokens(body.model, context + ROOM)
    before, new = tokens[:context], tokens[context:]
    body.reserve(len(tokens))
    body.forward(before, rows=1)
    read = traffic(body)
    device = body.model.device
    machine = bandwidth(device, read.total, clock)
    timed = passes(body, new, clock)
    parts = operators(body, new[:1], timed.plain.best, clock)
    # Whatever else runs on the machine comes and goes: once more, and the better of both.
    machine = machine.best(bandwidth(device, read.total, clock))
    return Profile(context, machine, read, timed, parts)
