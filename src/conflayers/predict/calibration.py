"""What passes cost on this machine, timed apart from any run: plain steps, draft steps, verifications, prefills."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from conflayers.errors import InputError
from conflayers.plan import Plan

if TYPE_CHECKING:
    from conflayers.api import Llm
    from conflayers.round import State

Clock = Callable[[], float]

REPEAT = 40
# Turns that are run and not counted, so that nothing is timed for the first time.
WARM_UP = 2
# Draft steps timed together: few, for on a busy machine what takes long is interrupted more often than what does not.
STEPS = 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Median seconds of passes at one length of context.

    Attributes:
        context: tokens up to and with the first that each pass runs; a prefill begins with an empty cache.
        plain: a step of plain decoding.
        prefill: a pass over a prompt.
        steps: a draft step, by plan.
        verifications: a pass of the whole model over so many rows, by rows; 1 is a plain step.
    """

    context: int
    plain: float
    prefill: float
    steps: dict[Plan, float]
    verifications: dict[int, float]

    def verification(self, rows: float) -> float:
        """Seconds of a verification: on the straight line between the sizes measured, or through the nearest two."""
        sizes = sorted(self.verifications)
        if len(sizes) == 1:
            return self.verifications[sizes[0]]
        above = next((i for i, size in enumerate(sizes) if size >= rows), len(sizes) - 1)
        low, high = sizes[max(above - 1, 0)], sizes[max(above, 1)]
        share = (rows - low) / (high - low)
        return self.verifications[low] + share * (self.verifications[high] - self.verifications[low])

    def draft_step(self, plan: Plan, skip_ratio: float, layers: int) -> float:
        """Seconds of a draft step that skips `skip_ratio`, from a plan that skips about as much.

        Between a plain step and the plan's step, and beyond, a draft step is taken to follow a straight line.
        """
        whole = plan.skip_ratio(layers)
        if not whole:
            return self.steps[plan]
        return max(self.plain + (self.steps[plan] - self.plain) * skip_ratio / whole, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, as plain values for JSON."""
        return {
            "context": self.context,
            "plain_ms": self.plain * 1e3,
            "prefill_ms": self.prefill * 1e3,
            "draft_step_ms": {str(plan): seconds * 1e3 for plan, seconds in self.steps.items()},
            "verification_ms": {str(rows): seconds * 1e3 for rows, seconds in self.verifications.items()},
        }


def calibrate(
    llm: "Llm",
    plans: Sequence[Plan],
    rows: Sequence[int],
    tokens: Sequence[int],
    *,
    prompt: int | None = None,
    repeat: int = REPEAT,
    clock: Clock = time.perf_counter,
) -> Costs:
    """Time every kind of pass in turns and take the medians, so that a machine that drifts drifts for all alike.

    The parts are those that a round is made of (drafter, pass, greedy decision), called one by one; no method is run.

    Args:
        llm: the model; its cache is emptied and given back.
        plans: of the draft steps.
        rows: sizes of verification, each 1 or more.
        tokens: the text to stand before each pass, two tokens or more.
        prompt: how many of these a prefill runs, 1 or more; all by default.
        repeat: how often each is timed, 1 or more.
        clock: seconds.

    Raises:
        InputError: an argument out of range, or more tokens than the model's context has room for.
    """
    from transformers import LogitsProcessorList

    from conflayers.round import State
    from conflayers.sampling import Greedy

    if repeat < 1 or len(tokens) < 2 or any(size < 1 for size in rows):
        raise InputError("a calibration needs two tokens of context or more, sizes and repeats of 1 or more")
    prompt = len(tokens) if prompt is None else prompt
    if not 1 <= prompt <= len(tokens):
        raise InputError(f"the prompt must be 1 to {len(tokens)} of the tokens, not {prompt}")
    room = max([STEPS, *rows]) + 1
    if len(tokens) + room > llm.body.context:
        raise InputError(f"{len(tokens)} tokens and {room} more do not fit the context of {llm.body.context}")
    llm.body.reserve(len(tokens) + room)
    try:
        state = State(llm.body, Greedy(LogitsProcessorList()), list(tokens), len(tokens), room, frozenset())
        llm.body.forward(tokens[:-1], rows=1)
        medians = _medians(state, _jobs(state, plans, sorted({1, *rows}), prompt), repeat, clock)
    finally:
        llm.body.release()
    sizes = {key: seconds for key, seconds in medians.items() if isinstance(key, int)}
    steps = {key: seconds / STEPS for key, seconds in medians.items() if isinstance(key, Plan)}
    return Costs(len(tokens), sizes[1], medians["prefill"], steps, sizes)


def _medians(state: "State", jobs: dict[object, Callable[[], None]], repeat: int, clock: Clock) -> dict[object, float]:
    """Of each job's seconds, all jobs in turns. The cache then holds the text but for its last token, as before."""
    body, cached = state.body, len(state.tokens) - 1
    times: dict[object, list[float]] = {key: [] for key in jobs}
    for turn in range(WARM_UP + repeat):
        for key, job in jobs.items():
            begun = clock()
            job()
            seconds = clock() - begun
            if turn >= WARM_UP:
                times[key].append(seconds)
            body.rollback(min(body.length, cached))
            if body.length < cached:  # after a prefill
                body.forward(state.tokens[body.length : cached], rows=1)
    return {key: median(values) for key, values in times.items()}


def _jobs(state: "State", plans: Sequence[Plan], sizes: Sequence[int], prompt: int) -> dict[object, Callable[[], None]]:
    """By rows, by plan, and "prefill": what to time."""
    from conflayers.draft import Draft
    from conflayers.drafters.length import FixedLength
    from conflayers.drafters.subnetwork import Subnetwork

    body, tokens = state.body, state.tokens
    drafter = Subnetwork(FixedLength(STEPS))

    def verify(size: int) -> Callable[[], None]:
        drafted = [tokens[-2]] * (size - 1)

        def job() -> None:
            logits = body.forward([tokens[-1], *drafted]).logits
            state.sampler.accept(tokens, Draft.of(drafted), logits)

        return job

    def step(plan: Plan) -> Callable[[], None]:
        def job() -> None:
            drafter.draft(state, plan)

        return job

    def prefill() -> None:
        body.rollback(0)
        state.sampler.accept(tokens[:prompt], Draft(), body.forward(tokens[:prompt], rows=1).logits)

    return {**{size: verify(size) for size in sizes}, **{plan: step(plan) for plan in plans}, "prefill": prefill}
