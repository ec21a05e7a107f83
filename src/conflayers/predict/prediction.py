"""A table of predictions: speedup by skip ratio and draft length, from the costs of three kinds of pass."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from conflayers.errors import InputError
from conflayers.predict.roofline import Machine, pass_time, weight_gigabytes
from conflayers.predict.shapes import Shape
from conflayers.predict.speedup import expected_tokens, mean_length, needed_acceptance, round_seconds, speedup

# Tokens in the cache where nothing is said: a prompt and half an answer.
CONTEXT = 512


class Passes(Protocol):
    """What passes cost, in seconds."""

    def plain(self) -> float:
        """A step of plain decoding."""
        ...

    def draft_step(self, skip_ratio: float) -> float:
        """A draft step that skips this share of the sublayers."""
        ...

    def verification(self, rows: float) -> float:
        """A pass of the whole model over so many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Roofline:
    """Passes that nothing holds up but memory, products and launches.

    Attributes:
        context: tokens cached before the pass.
    """

    shape: Shape
    machine: Machine
    context: int = CONTEXT

    def plain(self) -> float:
        """See `Passes`."""
        return self.verification(1)

    def draft_step(self, skip_ratio: float) -> float:
        """See `Passes`; attention and MLP are skipped alike."""
        share = 1 - skip_ratio
        return pass_time(self.shape, self.machine, context=self.context, attention=share, mlp=share).seconds

    def verification(self, rows: float) -> float:
        """See `Passes`."""
        return pass_time(self.shape, self.machine, rows=rows, context=self.context).seconds

    def bound(self) -> str:
        """What holds up a plain step: memory, compute or launch."""
        return pass_time(self.shape, self.machine, context=self.context).bound

    def fits(self) -> bool | None:
        """Whether the weights fit into the devices; None where their memory is not known."""
        memory = self.machine.accelerator.memory
        if memory is None:
            return None
        return weight_gigabytes(self.shape, self.machine.dtype) <= memory * self.machine.devices

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the model's parameters, the machine, and what holds up a plain step."""
        return {
            "parameters": self.shape.parameters,
            **asdict(self.machine),
            "context": self.context,
            "bound": self.bound(),
        }


@dataclass(frozen=True, slots=True)
class Given:
    """Passes that were measured elsewhere: the same for every skip ratio and number of rows.

    Attributes:
        plain_seconds, draft_seconds, verify_seconds: each.
    """

    plain_seconds: float
    draft_seconds: float
    verify_seconds: float

    def plain(self) -> float:
        """See `Passes`."""
        return self.plain_seconds

    def draft_step(self, skip_ratio: float) -> float:
        """See `Passes`."""
        return self.draft_seconds

    def verification(self, rows: float) -> float:
        """See `Passes`."""
        return self.verify_seconds


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of the table.

    Attributes:
        skip_ratio: share of the sublayers that draft steps skip.
        draft_length: draft steps a round.
        tokens: new tokens a round, the bonus token included.
        plain_ms, draft_step_ms, verification_ms, round_ms: milliseconds; a draft step with its overhead.
        speedup: tokens per second over plain decoding's.
        tokens_per_second: with drafts.
        break_even: acceptance per drafted token at which it is as fast as plain decoding; None if it never is.
        best: whether no other draft length of the table is better with this skip ratio.
    """

    skip_ratio: float
    draft_length: float
    tokens: float
    plain_ms: float
    draft_step_ms: float
    verification_ms: float
    round_ms: float
    speedup: float
    tokens_per_second: float
    break_even: float | None
    best: bool = False


def predict(passes: Passes, skip_ratio: float, length: float, tokens: float, overhead: float = 0.0) -> Prediction:
    """Predict one row.

    Args:
        passes: what they cost.
        skip_ratio: share of the sublayers that draft steps skip, 0 to 1.
        length: draft steps a round, 0 or more; a mean may be broken.
        tokens: new tokens a round, 1 to length + 1.
        overhead: seconds a draft step takes besides its pass.

    Raises:
        InputError: an argument out of range.
    """
    if not 0 <= skip_ratio <= 1:
        raise InputError(f"the skip ratio must be from 0 to 1, not {skip_ratio}")
    plain, step, verification = passes.plain(), passes.draft_step(skip_ratio), passes.verification(length + 1)
    seconds = round_seconds(step, verification, length, overhead)
    return Prediction(
        skip_ratio=skip_ratio,
        draft_length=length,
        tokens=tokens,
        plain_ms=plain * 1e3,
        draft_step_ms=(step + overhead) * 1e3,
        verification_ms=verification * 1e3,
        round_ms=seconds * 1e3,
        speedup=speedup(tokens, plain, seconds),
        tokens_per_second=tokens / seconds,
        break_even=needed_acceptance(seconds / plain, length),
    )


def table(
    passes: Passes,
    skip_ratios: Sequence[float],
    lengths: Sequence[int],
    acceptance: float,
    *,
    mean_accepted: float | None = None,
    overhead: float = 0.0,
) -> list[Prediction]:
    """Predict every skip ratio with every draft length.

    Args:
        passes: what they cost.
        skip_ratios: one or more.
        lengths: draft lengths, one or more; none with `mean_accepted`, which implies the length.
        acceptance: per drafted token; with `mean_accepted`, accepted over drafted tokens.
        mean_accepted: new tokens a verification, the bonus token included.
        overhead: seconds a draft step takes besides its pass.

    Raises:
        InputError: an argument out of range, or lengths and `mean_accepted` both given or both missing.
    """
    if bool(lengths) == (mean_accepted is not None):
        raise InputError("give either draft lengths or the mean accepted tokens, from which the draft length follows")
    if not skip_ratios:
        raise InputError("give a skip ratio, or several")
    if mean_accepted is not None:
        length = mean_length(mean_accepted, acceptance)
        return [predict(passes, ratio, length, mean_accepted, overhead) for ratio in skip_ratios]
    found: list[Prediction] = []
    for ratio in skip_ratios:
        rows = [predict(passes, ratio, g, expected_tokens(acceptance, g), overhead) for g in sorted(set(lengths))]
        best = max(rows, key=lambda row: row.speedup)
        found += [replace(row, best=row is best) for row in rows]
    return found
