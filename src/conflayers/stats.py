"""What happened during one request, counted and timed, under vLLM's names where it has one."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conflayers.round import Round


@dataclass(slots=True)
class Stats:
    """Counts and seconds of one request.

    Attributes:
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens generated, the end-of-sequence token included.
        num_spec_steps: verifications of a draft; plain steps are not among them.
        num_plain_steps: passes of the whole model for a single token, after the prefill.
        num_draft_tokens: tokens of the main chains drafted, one draft step each but for those looked up.
        num_lookup_tokens: of these, found in the text without a draft step.
        num_sibling_tokens: tokens drafted beside them.
        num_accepted_draft_tokens: drafted tokens accepted, siblings included, and those that come to lie behind the
            end of the text.
        num_accepted_sibling_tokens: of those, the siblings.
        acceptance_histogram: drafted tokens accepted -> number of verifications.
        chain_histogram: of these, tokens of the main chain -> number of verifications.
        draft_histogram: tokens of the main chain drafted -> number of verifications.
        skipped_share: sum over draft steps of the share of sublayers skipped.
        prefill_seconds, draft_seconds, verify_seconds, select_seconds, total_seconds: time by phase; a plain step
            counts as verification, and choosing the plan, search included, as selection. What is in none of the phases
            is what every method does: keeping tokens, asking whether the text ends, noting what passes took.
        first_token_seconds: of `total_seconds`, until the first new token was there.
        decisions: what the method decided on the way, in words.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    num_spec_steps: int = 0
    num_plain_steps: int = 0
    num_draft_tokens: int = 0
    num_lookup_tokens: int = 0
    num_sibling_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    num_accepted_sibling_tokens: int = 0
    acceptance_histogram: Counter[int] = field(default_factory=Counter)
    chain_histogram: Counter[int] = field(default_factory=Counter)
    draft_histogram: Counter[int] = field(default_factory=Counter)
    skipped_share: float = 0.0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    select_seconds: float = 0.0
    total_seconds: float = 0.0
    first_token_seconds: float = 0.0
    decisions: list[str] = field(default_factory=list)

    def count(self, layers: int, done: "Round") -> None:
        """Count one round of a model of `layers` layers."""
        self.draft_seconds += done.draft_seconds
        self.verify_seconds += done.verify_seconds
        if not done.drafted:
            self.num_plain_steps += 1
            return
        self.num_spec_steps += 1
        self.num_draft_tokens += done.drafted
        self.num_lookup_tokens += len(done.looked_up)
        self.num_sibling_tokens += done.siblings
        self.num_accepted_draft_tokens += done.accepted
        self.num_accepted_sibling_tokens += done.accepted - done.on_chain
        self.acceptance_histogram[done.accepted] += 1
        self.chain_histogram[done.on_chain] += 1
        self.draft_histogram[done.drafted] += 1
        if done.plan is not None:
            self.skipped_share += done.steps * done.plan.skip_ratio(layers)

    def include(self, other: "Stats") -> None:
        """Add another request's counts, seconds and decisions."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    @property
    def tokens_per_second(self) -> float:
        """New tokens over the whole time of the request."""
        return self.new_tokens / self.total_seconds if self.total_seconds > 0 else 0.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted over drafted tokens of the main chains; 0 where nothing was drafted."""
        on_chain = self.num_accepted_draft_tokens - self.num_accepted_sibling_tokens
        return on_chain / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def num_accepted_tokens_per_pos(self) -> list[int]:
        """For each depth of the draft, from the first on, how many verifications accepted a token there."""
        deepest = max(self.acceptance_histogram, default=0)
        return [_beyond(self.acceptance_histogram, i) for i in range(deepest)]

    @property
    def acceptance_by_position(self) -> list[float]:
        """For each depth of the main chain, from the first on: tokens accepted there over tokens drafted there."""
        deepest = max(self.draft_histogram, default=0)
        return [_beyond(self.chain_histogram, i) / _beyond(self.draft_histogram, i) for i in range(deepest)]

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a pass of the whole model yields, bonus token included: plain decoding has 1."""
        passes = self.num_spec_steps + self.num_plain_steps
        return 1 + self.num_accepted_draft_tokens / passes if passes else 1.0

    @property
    def skip_ratio(self) -> float:
        """Mean share of sublayers that draft steps skipped; 0 where there were none."""
        steps = self.num_draft_tokens - self.num_lookup_tokens
        return self.skipped_share / steps if steps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values for JSON."""
        histograms = ("acceptance_histogram", "chain_histogram", "draft_histogram")
        names = [name for name in self.__slots__ if name not in ("skipped_share", *histograms)]
        derived = (
            "tokens_per_second",
            "draft_acceptance_rate",
            "mean_acceptance_length",
            "num_accepted_tokens_per_pos",
            "skip_ratio",
        )
        values = {name: getattr(self, name) for name in (*names, *derived)}
        for name in histograms:
            values[name] = {str(k): v for k, v in sorted(getattr(self, name).items())}
        return values


def _beyond(histogram: Counter[int], depth: int) -> int:
    return sum(count for length, count in histogram.items() if length > depth)
