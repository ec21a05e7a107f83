"""From logits to the token chosen. Draft and target go through the same processors, so that they choose alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList


@dataclass(frozen=True, slots=True)
class Greedy:
    """The most likely token, after the model's own logits processors (a repetition penalty, say).

    Attributes:
        processors: transformers' processors, applied at every position with the true prefix of that position.
    """

    processors: LogitsProcessorList

    def propose(self, prefix: Sequence[int], logits: torch.Tensor) -> tuple[int, float]:
        """The draft's next token after `prefix`, and the probability the draft gives it.

        Args:
            prefix: all tokens so far.
            logits: [vocabulary], of the draft.
        """
        scores = self._processed(prefix, logits[None])[0].float()
        best, token = scores.max(-1)
        # Reading the two values waits for the device, once a draft step: whether to go on depends on them.
        confidence = torch.exp(best - scores.logsumexp(-1))
        return int(token), float(confidence)

    def choose(self, prefix: Sequence[int], drafted: Sequence[int], logits: torch.Tensor) -> list[int]:
        """The target's own token after `prefix` and after each drafted token.

        Args:
            prefix: all accepted tokens.
            drafted: k drafted tokens.
            logits: [k + 1, vocabulary], of the whole model.
        """
        if self.processors:
            text = [*prefix, *drafted]
            rows = [self._processed(text[: len(prefix) + i], logits[i : i + 1]) for i in range(logits.shape[0])]
            logits = torch.cat(rows)
        # float32 first, as transformers does, so that ties fall the same way.
        tokens: list[int] = logits.float().argmax(-1).tolist()
        return tokens

    def _processed(self, prefix: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if not self.processors:
            return logits
        # float32 as in transformers' own decoding; processors may write in place, and the pass owns the logits.
        scores: torch.Tensor = self.processors(torch.tensor([prefix], device=logits.device), logits.float().clone())
        return scores
