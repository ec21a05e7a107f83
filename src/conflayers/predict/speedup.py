"""The arithmetic of a speedup: tokens a round brings, what the round takes, and what acceptance it needs to pay."""

import math

from conflayers.errors import InputError

# Halvings of an interval of acceptances: more than a float can tell apart.
HALVINGS = 60


def expected_tokens(acceptance: float, length: float) -> float:
    """New tokens of a round, the bonus token included: (1 - a^(g + 1)) / (1 - a).

    Each drafted token is taken to be accepted with the same probability once all before it are (Leviathan et al. 2023,
    arXiv 2211.17192, equation 1).

    Args:
        acceptance: a, per drafted token, 0 to 1.
        length: g, drafted tokens a round, 0 or more; a mean may be broken.

    Returns:
        From 1 (nothing accepted) to g + 1 (everything).

    Raises:
        InputError: an argument out of range.
    """
    _check_share("acceptance", acceptance)
    _check_least("draft length", length, 0)
    if acceptance == 1:
        return length + 1
    if acceptance == 0:
        return 1.0
    # expm1 keeps the digits that 1 - a^(g + 1) loses near an acceptance of 1.
    return -math.expm1((length + 1) * math.log(acceptance)) / (1 - acceptance)


def needed_acceptance(tokens: float, length: float) -> float | None:
    """The acceptance per drafted token at which a round brings so many tokens: the inverse of `expected_tokens`.

    Args:
        tokens: new tokens a round; what is below 1 needs no acceptance.
        length: drafted tokens a round, 0 or more.

    Returns:
        0 to 1, or None where even drafts that are always right bring less.

    Raises:
        InputError: an argument out of range.
    """
    _check_least("draft length", length, 0)
    if not math.isfinite(tokens):
        raise InputError(f"tokens a round must be a number, not {tokens}")
    if tokens <= 1:
        return 0.0
    if tokens > length + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, length) < tokens else (low, middle)
    return high


def mean_length(mean_accepted: float, acceptance_rate: float) -> float:
    """The mean draft length that two published figures imply: g = (M - 1) / alpha.

    Args:
        mean_accepted: M, new tokens a verification, the bonus token included, 1 or more.
        acceptance_rate: alpha, accepted over drafted tokens of the chains, above 0 and at most 1. It is not the
            acceptance per drafted token of `expected_tokens`: what comes after a rejected token counts as drafted too.

    Raises:
        InputError: an argument out of range.
    """
    _check_least("mean accepted tokens", mean_accepted, 1)
    _check_share("acceptance rate", acceptance_rate)
    if acceptance_rate == 0:
        raise InputError("an acceptance rate of 0 says nothing about how long the drafts were: give the draft length")
    return (mean_accepted - 1) / acceptance_rate


def round_seconds(draft_step: float, verification: float, length: float, overhead: float = 0.0) -> float:
    """Seconds of a round: g draft steps, each with its overhead, and one verification.

    Args:
        draft_step, verification: seconds, 0 or more.
        length: g, draft steps, 0 or more.
        overhead: seconds a draft step takes besides its pass, 0 or more.

    Raises:
        InputError: an argument out of range.
    """
    for name, value in (("draft step", draft_step), ("verification", verification), ("overhead", overhead)):
        _check_least(name, value, 0)
    _check_least("draft length", length, 0)
    return length * (draft_step + overhead) + verification


def speedup(tokens: float, plain: float, seconds: float) -> float:
    """Tokens per second over plain decoding's.

    Args:
        tokens: new tokens a round.
        plain, seconds: of a step of plain decoding and of the round, above 0.

    Raises:
        InputError: an argument out of range.
    """
    if not (plain > 0 and seconds > 0):
        raise InputError(f"a plain step and a round take time: not {plain} and {seconds} seconds")
    return tokens * plain / seconds


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be from 0 to 1, not {value}")


def _check_least(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise InputError(f"{name} must be {least} or more, not {value}")
