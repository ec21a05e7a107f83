"""The same cuts as transformers' processors, in less time."""

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

# Tokens looked at first. The cut usually falls among them, and then the vocabulary need not be sorted, which for tens
# of thousands of tokens takes longer than a draft step of a small model.
CANDIDATES = 512


class QuickTopP(LogitsProcessor):  # type: ignore[misc]
    """What `TopPLogitsWarper` keeps: the fewest likeliest tokens that together have the probability top_p.

    Args:
        original: what it stands for, and what is asked where the cut falls outside of the candidates.
    """

    def __init__(self, original: TopPLogitsWarper) -> None:
        self.original = original

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [1, vocabulary] with all but the kept tokens at the filter value."""
        top_p, least = self.original.top_p, self.original.min_tokens_to_keep
        if scores.shape[-1] <= 2 * CANDIDATES:
            return self._in_full(input_ids, scores)
        likeliest = scores.softmax(-1).topk(CANDIDATES)
        before = likeliest.values.cumsum(-1) - likeliest.values
        if not bool((before[0, -1] >= top_p) & (before[0, -1] < 1)):
            return self._in_full(input_ids, scores)
        kept = before < top_p
        kept[:, :least] = True
        count = int(kept.sum())
        if count == CANDIDATES or bool(likeliest.values[0, count - 1] == likeliest.values[0, count]):
            return self._in_full(input_ids, scores)  # which of equal tokens are kept is the original's to say
        cut = torch.full_like(scores, self.original.filter_value)
        indices = likeliest.indices[kept][None]
        return cut.scatter_(1, indices, scores.gather(1, indices))

    def _in_full(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        cut: torch.Tensor = self.original(input_ids, scores)
        return cut


def quick(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The list with quicker stand-ins where there are any; the same list where there are none."""
    if not any(type(processor) is TopPLogitsWarper for processor in processors):
        return processors
    stand_ins = [QuickTopP(one) if type(one) is TopPLogitsWarper else one for one in processors]
    return LogitsProcessorList(stand_ins)
