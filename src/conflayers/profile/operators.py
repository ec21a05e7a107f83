"""What a pass spends in torch's operators, by group, and what it spends between them."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, supported_activities

from conflayers.body.portable import PortableBody
from conflayers.profile.bandwidth import Clock
from conflayers.profile.passes import one_pass

PRODUCTS, ATTENTION, NORMS = "matrix products", "attention", "norms"
ELEMENTWISE, COPIES, OTHER = "rotation and elementwise", "cache writes and copies", "views and other"
BETWEEN, WAITING = "between operators", "threads waiting for each other"
GROUPS = (PRODUCTS, ATTENTION, NORMS, ELEMENTWISE, COPIES, OTHER, WAITING)
# Of the stages of passes that are compiled as a whole, which the profiler does not see.
OF_STAGES = {
    "products": PRODUCTS,
    "norms": NORMS,
    "rotation": ELEMENTWISE,
    "attention": ATTENTION,
    "gate": ELEMENTWISE,
    "waiting": WAITING,
    "choice": ELEMENTWISE,
}
# Of the kernels that an accelerator's graphs are of, which no operator called.
OF_KERNELS = {
    "embed": OTHER,
    "norm": NORMS,
    "multiply": PRODUCTS,
    "turn": ELEMENTWISE,
    "attend": ATTENTION,
    "combine": ATTENTION,
}
# By an operator's name without its namespace; the first that matches. A norm that a model spells out is told by the
# operators that little else uses.
NAMES = (
    (ATTENTION, re.compile(r"attention|softmax")),
    (PRODUCTS, re.compile(r"linear|mm(_|$)|^matmul$|einsum|gemm|gemv|^mv$")),
    (NORMS, re.compile(r"norm|^(pow|mean|var|rsqrt)$")),
    (COPIES, re.compile(r"^(copy_|to|_to_copy|clone|contiguous|cat|stack|repeat|index_copy_|index_put_)$")),
    (ELEMENTWISE, re.compile(r"^(add|sub|mul|div|neg|roll|cos|sin|exp|tanh|sigmoid|silu|gelu|relu|clamp|where)_?$")),
)
REPEAT = 10
# Operators that the profiler's own price is taken from.
PRICED, PRICE_REPEAT = 300, 20


@dataclass(frozen=True, slots=True)
class Group:
    """Operators of one kind in one pass: seconds, and how often one was called that is not part of another."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True)
class Operators:
    """One pass over one token, taken apart.

    Attributes:
        groups: every group, by falling seconds.
        between: seconds that are no operator's: Python, the way into operators, and what torch does not see. Of an
            accelerator, all seconds in which no operator's kernels ran.
        profiler: seconds that the profiler added to a pass; they are left out of all others.
        on: whose time the operators' is: "cpu", or the accelerator's name.
    """

    groups: tuple[Group, ...]
    between: float
    profiler: float
    on: str

    @property
    def seconds(self) -> float:
        """Of the whole pass."""
        return self.between + sum(group.seconds for group in self.groups)

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, as plain values for JSON."""
        return {
            "time_of": self.on,
            "groups": [{"name": one.name, "ms": one.seconds * 1e3, "calls": one.calls} for one in self.groups],
            "between_ms": self.between * 1e3,
            "profiler_ms": self.profiler * 1e3,
        }


@dataclass(slots=True)
class Seen:
    """One profiled pass.

    Attributes:
        seconds: by group.
        calls: by group.
        inside: by group, operators that an operator of the group called itself.
        outermost: operators that no other called.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0.0))
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    inside: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    outermost: int = 0

    def add(self, stages: Mapping[str, tuple[float, int]]) -> None:
        """Count what compiled passes tell of themselves: stage -> seconds, times."""
        for stage, (seconds, times) in stages.items():
            self.seconds[OF_STAGES[stage]] += seconds
            self.calls[OF_STAGES[stage]] += times

    @property
    def operators(self) -> int:
        """All of them."""
        return self.outermost + sum(self.inside.values())


def operators(body: PortableBody, tokens: Sequence[int], seconds: float, clock: Clock = time.perf_counter) -> Operators:
    """Profile passes, and say how the seconds of one that is not profiled divide.

    Args:
        body: its cache holds the context and has room for the tokens; it then holds the same.
        tokens: what a pass runs.
        seconds: what a pass takes that is not profiled: the parts are scaled to come to that.
        clock: seconds.
    """
    on = accelerator(body.model.device)

    def run() -> float:
        return one_pass(body, tokens, clock=clock)

    def watched() -> tuple[float, Seen]:
        with body.watched() as stages:
            wall, profiler = profiled(run, on)
        seen = sort_events(profiler.events() or (), on)
        seen.add(stages)
        return wall, seen

    # Nobody's first time.
    profiled(run, on)
    return divide([watched() for _ in range(REPEAT)], event_price(clock), seconds, on)


def profiled(run: Callable[[], float], on: str) -> tuple[float, Any]:
    """The seconds that `run` returns, and the profiler that watched it."""
    activities = (
        [ProfilerActivity.CPU] if on == "cpu" else [ProfilerActivity.CPU, getattr(ProfilerActivity, on.upper())]
    )
    with profile(activities=activities) as profiler:
        return run(), profiler


def event_price(clock: Clock = time.perf_counter) -> float:
    """Seconds that the profiler adds to an operator, 0 or more, by operators that do next to nothing."""
    nothing = torch.ones(1)

    def run() -> float:
        begun = clock()
        for _ in range(PRICED):
            nothing.neg_()
        return clock() - begun

    # In turns, and the least of each: whatever else runs on the machine only adds.
    pairs = [(run(), profiled(run, "cpu")[0]) for _ in range(PRICE_REPEAT)]
    return max(min(watched for _, watched in pairs) - min(alone for alone, _ in pairs), 0.0) / PRICED


def accelerator(device: torch.device) -> str:
    """The device whose time the profiler can tell: an accelerator that it knows, or "cpu"."""
    known = {activity.name for activity in supported_activities()}  # type: ignore[no-untyped-call]
    name = {"cuda": "CUDA", "xpu": "XPU"}.get(device.type)
    return device.type if name in known else "cpu"


def sort_events(events: Any, on: str = "cpu") -> Seen:
    """The operators among a profiler's events, by group; each event's own time is that of the group it is in."""
    seen = Seen()
    for event in events:
        if event.device_type.name != "CPU":
            if event.name in OF_KERNELS:
                # One may wait for the one before, which is time of both.
                seen.seconds[OF_KERNELS[event.name]] += event.time_range.elapsed_us() / 1e6
                seen.calls[OF_KERNELS[event.name]] += 1
            continue
        if "::" not in event.name:
            continue
        name, outer = _place(event)
        micros = event.self_cpu_time_total if on == "cpu" else event.self_device_time_total
        seen.seconds[name] += micros / 1e6
        seen.calls[name] += outer
        seen.inside[name] += len(event.cpu_children)
        seen.outermost += event.cpu_parent is None
    return seen


def divide(passes: Sequence[tuple[float, Seen]], price: float, seconds: float, on: str) -> Operators:
    """The least that each part took in any of the profiled passes, scaled to `seconds` altogether.

    The least, since whatever else runs on the machine only adds, to another part in every pass.

    Args:
        passes: seconds and what was seen, of one pass or more.
        price: seconds that the profiler added for each operator.
        seconds: what the parts are to come to.
        on: whose time the operators' is.
    """
    divided = [_parts(wall, seen, price, on) for wall, seen in passes]
    least = {name: min(parts[name] for parts in divided) for name in (*GROUPS, BETWEEN)}
    whole, seen = sum(least.values()), passes[0][1]
    scale = seconds / whole if whole else 0.0
    groups = [Group(name, least[name] * scale, seen.calls[name]) for name in GROUPS]
    groups.sort(key=lambda group: -group.seconds)
    return Operators(tuple(groups), least[BETWEEN] * scale, price * seen.operators, on)


def _parts(wall: float, seen: Seen, price: float, on: str) -> dict[str, float]:
    """Seconds by part of one pass, without what the profiler added.

    What it does for an operator it does before and after it is timed: in the time of the operator that called it, or
    between operators. On an accelerator all of it is between operators.
    """
    inside = seen.inside if on == "cpu" else dict.fromkeys(GROUPS, 0)
    parts = {name: max(seen.seconds[name] - price * inside[name], 0.0) for name in GROUPS}
    return {**parts, BETWEEN: max(wall - price * seen.operators - sum(parts.values()), 0.0)}


def _place(event: Any) -> tuple[str, bool]:
    """The group of an event, and whether it is the call that puts it there.

    The outermost of an event's callers that has a name of the table decides: what a product needs is the product's.
    """
    chain = [event]
    while chain[-1].cpu_parent is not None:
        chain.append(chain[-1].cpu_parent)
    for one in reversed(chain):
        if (name := group_of(one.name)) is not None:
            return name, one is event
    return OTHER, event.cpu_parent is None


def group_of(operator: str) -> str | None:
    """The group of an operator by its name, such as aten::linear; None if the table has none for it."""
    bare = operator.rpartition("::")[2]
    return next((group for group, pattern in NAMES if pattern.search(bare)), None)
