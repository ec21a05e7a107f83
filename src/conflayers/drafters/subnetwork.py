"""Draft with the model itself, some of its sublayers switched off."""

from dataclasses import dataclass

from conflayers.options import share, whole
from conflayers.plan import Plan
from conflayers.round import State


@dataclass(frozen=True, slots=True)
class Subnetwork:
    """A greedy chain that ends where the draft is no longer sure of itself.

    Attributes:
        max_draft_tokens: the longest chain, 1 or more (25 in SWIFT and ConfLayers).
        confidence_stop: end the chain after a token that the draft gives less than this probability, 0 to 1 (0.8 in
            SWIFT and ConfLayers). The doubtful token itself is kept: its draft step is already paid for, and verifying
            one more row costs next to nothing.
    """

    max_draft_tokens: int = 25
    confidence_stop: float = 0.8

    def __post_init__(self) -> None:
        whole("max_draft_tokens", self.max_draft_tokens, 1)
        share("confidence_stop", self.confidence_stop)

    def draft(self, state: State, plan: Plan) -> list[int]:
        """See `round.Drafter.draft`."""
        body, start = state.body, state.body.length
        budget = min(self.max_draft_tokens, state.left - 1)
        text = list(state.tokens)
        with body.running(plan):
            while len(text) - len(state.tokens) < budget:
                logits = body.forward(text[-1:]).logits[0]
                token, confidence = state.sampler.propose(text, logits)
                text.append(token)
                # `not >=` rather than `<`, so that a confidence that is not a number ends the chain too.
                if token in state.end or not confidence >= self.confidence_stop:
                    break
        body.rollback(start)
        return text[len(state.tokens) :]
