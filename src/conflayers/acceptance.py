"""Which drafted tokens stay. Pure: no model, no tensors."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification.

    Attributes:
        accepted: how many of the drafted tokens are the target's own.
        tokens: those, followed by the one token that the target's pass adds to them (the bonus token).
    """

    accepted: int
    tokens: tuple[int, ...]


def accept_greedy(drafted: Sequence[int], target: Sequence[int]) -> Verdict:
    """Keep the longest prefix of the draft that the target would have said itself.

    Args:
        drafted: k drafted tokens.
        target: the target's choice after the last accepted token and after each drafted one, k + 1 tokens.

    Raises:
        ValueError: `target` does not have one token more than `drafted`.
    """
    if len(target) != len(drafted) + 1:
        raise ValueError(f"{len(drafted)} drafted tokens need {len(drafted) + 1} target tokens, got {len(target)}")
    accepted = 0
    while accepted < len(drafted) and drafted[accepted] == target[accepted]:
        accepted += 1
    return Verdict(accepted, tuple(target[: accepted + 1]))


def cut_at_end(tokens: Sequence[int], end: frozenset[int]) -> tuple[tuple[int, ...], bool]:
    """`tokens` up to and including the first that ends a text, and whether there was one."""
    for index, token in enumerate(tokens):
        if token in end:
            return tuple(tokens[: index + 1]), True
    return tuple(tokens), False
