"""What is done with every token as plain `generate` does it: stopping criteria, streamer, scores kept."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from conflayers.generate_request import Request


class Seen(LogitsProcessor):  # type: ignore[misc]
    """Applies processors to the tokens that the caller sees, and remembers what went in and came out by position.

    The whole model's scores of a position are asked for after the draft's, and take their place.

    Args:
        hidden: tokens at the beginning that the caller does not see.
    """

    def __init__(self, hidden: int) -> None:
        self.processors = LogitsProcessorList()
        self.hidden = hidden
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Processed scores [1, vocabulary] after `input_ids` [1, tokens]."""
        raw = scores.clone()
        processed: torch.Tensor = self.processors(input_ids[:, self.hidden :], scores)
        self._rows[input_ids.shape[1] - self.hidden] = (raw, processed)
        return processed

    def take(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits and scores that the token at `position` was chosen by, each [1, vocabulary]."""
        return self._rows.pop(position)


class Follower:
    """Asked by the round after every token whether the text ends there.

    Attributes:
        criteria: transformers' stopping criteria.
        seen: the processor that keeps scores; None where nothing asks for it.
        scores, logits: of every new token, each [1, vocabulary], if `seen` and wanted.
    """

    def __init__(
        self, request: Request, criteria: StoppingCriteriaList, streamer: Any, config: GenerationConfig
    ) -> None:
        self.criteria = criteria
        self._streamer = streamer
        self._keeps_scores = bool(config.return_dict_in_generate and config.output_scores)
        self._keeps_logits = bool(config.return_dict_in_generate and config.output_logits)
        needed = self._keeps_scores or self._keeps_logits or request.hidden
        self.seen = Seen(request.hidden) if needed else None
        self.scores: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self._prompt = request.ids
        self._length = request.ids.shape[1]
        self._buffer = request.ids.new_empty((1, self._length + request.new_tokens))
        self._buffer[:, : self._length] = request.ids

    @property
    def ids(self) -> torch.Tensor:
        """Prompt and new tokens so far, [1, tokens], as the caller counts them."""
        return self._buffer[:, : self._length]

    def begin(self) -> None:
        """Give the prompt to the streamer, as `generate` does."""
        if self._streamer is not None:
            self._streamer.put(self._prompt.cpu())

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Take the last of `tokens`, and say whether it ends the text."""
        if self.seen is not None:
            self._keep(*self.seen.take(self._length))
        self._buffer[0, self._length] = tokens[-1]
        self._length += 1
        over = bool(self.criteria(self.ids, tuple(self.scores) if self._keeps_scores else None).all())
        if self._streamer is not None:
            self._streamer.put(self.ids[0, -1:].cpu())
        return over

    def end(self) -> None:
        """Tell the streamer that the text is over."""
        if self._streamer is not None:
            self._streamer.end()

    def _keep(self, logits: torch.Tensor, scores: torch.Tensor) -> None:
        if self._keeps_scores:
            self.scores.append(scores)
        if self._keeps_logits:
            self.logits.append(logits)


class AfterPrompt:
    """A streamer that `generate` has already given the prompt, before it calls a decoding function."""

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Pass on everything but the prompt."""
        if not self._prompt:
            self._streamer.put(value)
        self._prompt = False

    def end(self) -> None:
        """Pass it on."""
        self._streamer.end()
