"""Draft with the model itself, some of its sublayers switched off."""

from dataclasses import dataclass, field

from conflayers.body.contract import Pass
from conflayers.draft import MOST_SIBLINGS, Draft
from conflayers.drafters.length import ConfidenceStop, Length
from conflayers.drafters.siblings import NoSiblings, Siblings, wide
from conflayers.plan import Plan
from conflayers.round import Round, State


@dataclass(frozen=True, slots=True)
class Subnetwork:
    """A chain of the draft's own tokens, as long as one rule says, with siblings where another rule wants them.

    Attributes:
        length: after each token, whether to draft another.
        siblings: what is verified beside it.
    """

    length: Length = field(default_factory=ConfidenceStop)
    siblings: Siblings = field(default_factory=NoSiblings)

    def draft(self, state: State, plan: Plan) -> Draft:
        """See `round.Drafter.draft`."""
        body, start, most = state.body, state.body.length, state.left - 1
        draft = Draft()
        beside: list[list[int]] = []
        text, more = list(state.tokens), self.length.rule(plan)

        def following(step: Pass) -> int | None:
            proposal = state.sampler.propose(text, step.logits[0], step.best[0] if step.best else None)
            if proposal is None:
                return None
            if widens:
                beside.append(self.siblings.beside(proposal, draft.confidences, plan, state.sampler))
            if proposal.probabilities is not None:
                draft.drawn_from[draft.chain - 1] = proposal.probabilities
            draft.extend(proposal.token, proposal.confidence)
            text.append(proposal.token)
            ends = proposal.token in state.end or not more(proposal.confidence, draft.chain)
            return None if ends else proposal.token

        with body.running(plan):
            widens = wide(self.siblings, body)
            if most:
                body.chain(text[-1:], most, following)
        body.rollback(start)
        for node, tokens in enumerate(beside):
            for token in tokens[: MOST_SIBLINGS + draft.chain - len(draft)]:
                draft.add_sibling(node, token)
        return draft

    def learn(self, done: Round) -> None:
        """See `round.Drafter.learn`."""
        self.length.learn(done)
