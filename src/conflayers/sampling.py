"""From logits to tokens. Draft and target go through the same processors: what is drawn from is accepted with.

Three samplers, one per way to decide: `Greedy`, `Sampled` (rejection sampling) and `Coupled` (the same noise for draft
and target at every position, so that a seed gives one text whatever is drafted).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import ClassVar, Protocol

import torch
from transformers import LogitsProcessorList

from conflayers.acceptance import Verdict, accept_greedy, accept_sampled, without
from conflayers.body.contract import Best
from conflayers.chance import NO_TOKEN, Chance, gumbel
from conflayers.draft import Draft
from conflayers.errors import NumericalError
from conflayers.warpers import quick


@dataclass(frozen=True, slots=True)
class Proposal:
    """The draft's next token.

    Attributes:
        token: the token.
        confidence: the probability the draft gives its likeliest token, 0 to 1; maybe not a number.
        ranking: [vocabulary], what siblings are chosen by: scores, or the probabilities the token was drawn from.
        probabilities: [vocabulary] it was drawn from; None where nothing is drawn.
    """

    token: int
    confidence: float
    ranking: torch.Tensor
    probabilities: torch.Tensor | None = None


# Scores among which `likeliest` looks at once.
BLOCK = 64


class Sampler(Protocol):
    """Proposes with the draft's logits and decides with the target's.

    Attributes:
        random: whether tokens are drawn at random.
    """

    random: ClassVar[bool]

    def propose(self, prefix: Sequence[int], logits: torch.Tensor, best: Best | None = None) -> Proposal | None:
        """The draft's token after `prefix`, from its logits [vocabulary]; None where they are no numbers.

        Args:
            best: what is likeliest by the logits as they are, if that is known.
        """
        ...

    def certain(self, token: int, size: int) -> torch.Tensor | None:
        """The probabilities [size] that a token comes from which was not drawn; None where nobody asks for them."""
        ...

    def siblings(self, proposal: Proposal, most: int, worth: Callable[[float], bool]) -> list[int]:
        """Other tokens for the same place, at most `most`, while the next is `worth` its row by its probability.

        That probability must be known before a token is drawn: whether to keep one may not depend on which it is.
        """
        ...

    def accept(
        self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: Sequence[Best] | None = None
    ) -> Verdict:
        """Decide by the target's logits [1 + nodes, vocabulary], of the last token of `prefix` and of every node.

        Args:
            best: what is likeliest by each row as it is, if that is known.
        """
        ...


def likeliest(scores: torch.Tensor) -> torch.Tensor:
    """The argmax over the last dimension, the first one where several are, of scores [..., vocabulary].

    On the CPU torch looks for the largest of many numbers far sooner than for its place: so first for that of every
    block, and for the place within the block alone.
    """
    vocabulary = scores.shape[-1]
    if scores.device.type != "cpu" or vocabulary % BLOCK:
        return scores.argmax(-1)
    blocks = scores.view(*scores.shape[:-1], vocabulary // BLOCK, BLOCK)
    block = blocks.amax(-1).argmax(-1, keepdim=True)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK)).squeeze(-2).argmax(-1)
    found: torch.Tensor = block.squeeze(-1) * BLOCK + inside
    return found


@dataclass(slots=True)
class Processed:
    """Logits after the processors, with the true prefix of their position.

    Attributes:
        processors: transformers' processors, those that sampling asks for included. They must not keep state from call
            to call: drafts are among the calls.
        before: tokens that the processors see in front of every prefix, though the body does not (left padding).
    """

    processors: LogitsProcessorList
    before: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.processors = quick(self.processors)

    def scores(self, prefix: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """Processed scores [vocabulary] in float32, as in transformers' own decoding, from logits [vocabulary]."""
        if not self.processors:
            return logits.float()
        ids = torch.tensor([[*self.before, *prefix]], device=logits.device)
        # Processors may write in place, and the pass owns the logits.
        scores: torch.Tensor = self.processors(ids, logits[None].float().clone())
        return scores[0]

    def scores_after(self, prefix: Sequence[int], draft: Draft, node: int, logits: torch.Tensor) -> torch.Tensor:
        """Processed scores after a node of the draft, from the logits [1 + nodes, vocabulary] of a verification."""
        text = [*prefix, *draft.text(node)] if self.processors else ()
        return self.scores(text, logits[node + 1])


@dataclass(slots=True)
class Greedy(Processed):
    """The most likely token."""

    random: ClassVar[bool] = False

    def propose(self, prefix: Sequence[int], logits: torch.Tensor, best: Best | None = None) -> Proposal | None:
        """See `Sampler`."""
        if best is not None and not self.processors:
            return Proposal(*best, logits)
        scores = self.scores(prefix, logits)
        token = likeliest(scores)
        # Reading the two values waits for the device, once a draft step: whether to go on depends on them.
        return Proposal(int(token), float(torch.exp(scores[token] - scores.logsumexp(-1))), scores)

    def certain(self, token: int, size: int) -> torch.Tensor | None:
        """See `Sampler`."""
        return None

    def siblings(self, proposal: Proposal, most: int, worth: Callable[[float], bool]) -> list[int]:
        """See `Sampler`: the next most likely ones."""
        likely = proposal.ranking.float().softmax(-1).topk(min(most + 1, proposal.ranking.shape[-1]))
        pairs = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
        others = ((token, p) for token, p in pairs if token != proposal.token and p > 0)
        return [token for token, _ in takewhile(lambda pair: worth(pair[1]), others)][:most]

    def accept(
        self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: Sequence[Best] | None = None
    ) -> Verdict:
        """See `Sampler`."""
        if self.processors:
            # One position at a time: what comes after the first rejection is never processed.
            return accept_greedy(draft, lambda node: int(self.scores_after(prefix, draft, node, logits).argmax()))
        # float32 first, as transformers does, so that ties fall the same way.
        choices: list[int] = [token for token, _ in best] if best else likeliest(logits.float()).tolist()
        return accept_greedy(draft, lambda node: choices[node + 1])


@dataclass(slots=True)
class Sampled(Processed):
    """A random token, accepted by rejection sampling.

    Attributes:
        chance: the randomness of the request.
    """

    random: ClassVar[bool] = True

    chance: Chance = field(default_factory=Chance)

    def propose(self, prefix: Sequence[int], logits: torch.Tensor, best: Best | None = None) -> Proposal | None:
        """See `Sampler`. The confidence is that of the draft before temperature and cuts."""
        q = _probabilities(self.scores(prefix, logits))
        try:
            token = self.chance.draw(q)
        except NumericalError:
            return None  # only the target's scores decide whether the request fails
        return Proposal(token, best[1] if best else _confidence(logits), q, q)

    def certain(self, token: int, size: int) -> torch.Tensor | None:
        """See `Sampler`."""
        return torch.zeros(size).index_fill_(0, torch.tensor([token]), 1.0)

    def siblings(self, proposal: Proposal, most: int, worth: Callable[[float], bool]) -> list[int]:
        """See `Sampler`: drawn without replacement from what the token was drawn from."""
        q = without(proposal.ranking, proposal.token)
        found: list[int] = []
        while len(found) < most and q.sum() > 0 and worth(float((q * proposal.ranking).sum())):
            found.append(self.chance.draw(q))
            q = without(q, found[-1])
        return found

    def accept(
        self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: Sequence[Best] | None = None
    ) -> Verdict:
        """See `Sampler`."""

        def probabilities(node: int) -> torch.Tensor:
            return _probabilities(self.scores_after(prefix, draft, node, logits))

        return accept_sampled(draft, probabilities, self.chance)


@dataclass(slots=True)
class Coupled(Greedy):
    """A random token, by noise that belongs to the seed and the position alone.

    Draft and target add the same Gumbel noise and take the largest sum, so they agree wherever their probabilities are
    alike, and the text is the one that plain decoding with this seed gives, token for token, whatever was drafted and
    however long (Daliri et al., arXiv 2408.07978). Somewhat fewer drafts are accepted than by rejection sampling.

    Attributes:
        seed: any whole number.
    """

    random: ClassVar[bool] = True

    seed: int = 0
    _noise: dict[int, torch.Tensor] = field(default_factory=dict)

    def propose(self, prefix: Sequence[int], logits: torch.Tensor, best: Best | None = None) -> Proposal | None:
        """See `Sampler`. The confidence is that of the draft before temperature and cuts.

        Siblings come in the noisy order, which is drawing without replacement.
        """
        noisy = self._noisy(len(prefix), self.scores(prefix, logits))
        highest, token = noisy.max(-1)
        sure = best[1] if best else _confidence(logits)
        return Proposal(int(token), sure, noisy) if bool(highest.isfinite()) else None

    def accept(
        self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: Sequence[Best] | None = None
    ) -> Verdict:
        """See `Sampler`.

        Raises:
            NumericalError: the target's scores are not finite, or every token is ruled out.
        """
        # Noise of the past is of no use any more.
        self._noise = {position: noise for position, noise in self._noise.items() if position >= len(prefix)}

        def choose(node: int) -> int:
            scores = self.scores_after(prefix, draft, node, logits)
            highest, token = self._noisy(len(prefix) + len(draft.path(node)), scores).max(-1)
            if not bool(highest.isfinite()):
                raise NumericalError(NO_TOKEN)
            return int(token)

        return accept_greedy(draft, choose)

    def _noisy(self, position: int, scores: torch.Tensor) -> torch.Tensor:
        if position not in self._noise:
            self._noise[position] = gumbel(self.seed, position, scores.shape[-1], scores.device)
        return scores + self._noise[position]


def _probabilities(scores: torch.Tensor) -> torch.Tensor:
    # On the CPU, where the generator is and where single values are read.
    return scores.softmax(-1).cpu()


def _confidence(logits: torch.Tensor) -> float:
    scores = logits.float()
    return float(torch.exp(scores.amax(-1) - scores.logsumexp(-1)))
