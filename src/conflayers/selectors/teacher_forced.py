"""How well a draft would have guessed text that is there already: one parallel pass instead of drafting it."""

from conflayers.plan import Plan
from conflayers.round import State


def matchness(state: State, plan: Plan, first: int, last: int) -> float:
    """Share of the tokens at positions `first` + 1 to `last` - 1 that the draft of `plan` names itself, 0 to 1.

    The draft sees the text's own tokens and not its guesses (SWIFT, arXiv 2410.06916, section 4.1), so what it would
    get wrong on account of an earlier mistake does not show. The cache is as before afterwards.

    Args:
        state: the request; `last` - `first` is 2 or more and all of these positions but the text's last are cached.
        plan: what the draft skips.
        first, last: positions in `state.tokens`.
    """
    tokens = state.tokens[first:last]
    with state.body.preserve(first), state.body.running(plan):
        logits = state.body.forward(tokens[:-1]).logits
    guessed: list[int] = logits.float().argmax(-1).tolist()
    return sum(a == b for a, b in zip(guessed, tokens[1:], strict=True)) / len(guessed)
