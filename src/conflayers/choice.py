"""How tokens are chosen: what a user asks for, under the names of transformers' `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import LogitsProcessorList

from conflayers.chance import Chance
from conflayers.errors import InputError
from conflayers.options import number, share, whole, yes_or_no
from conflayers.sampling import Coupled, Greedy, Sampled, Sampler

# Settings that mean nothing unless tokens are drawn.
WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
ACCEPTANCE = ("residual", "coupled")


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings of one request; None leaves a setting to the checkpoint, as transformers does.

    Attributes:
        do_sample: draw tokens at random. By default so if any of the next five is given, and else not. A temperature of
            0 is greedy whatever the other four say.
        temperature, top_k, top_p, min_p, typical_p: as in transformers.
        seed: any whole number. The same seed gives the same text, whatever the method, its plans and the speed of the
            machine: every position has its own noise. Only when sampling.
        acceptance: how drafts are accepted when sampling. "residual": by min(1, p / q), the most that is possible.
            "coupled": by the seed's noise, shared by draft and target; the default with a seed. With "residual" a seed
            repeats a text only if nothing is decided by measured time.
        repetition_penalty, no_repeat_ngram_size, bad_words_ids, min_new_tokens, eos_token_id: as in transformers.
        logits_processor: transformers' processors to apply after those; they must keep no state from call to call.

    Raises:
        InputError: a value out of range, or settings that contradict each other.
    """

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    acceptance: str | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    min_new_tokens: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    logits_processor: LogitsProcessorList | None = None

    def __post_init__(self) -> None:
        given = {name for name in self.__slots__ if getattr(self, name) is not None}
        for name in given & {"temperature", "repetition_penalty"}:
            number(name, getattr(self, name), 0)
        for name in given & {"top_p", "min_p", "typical_p"}:
            share(name, getattr(self, name))
        for name in given & {"top_k", "no_repeat_ngram_size", "min_new_tokens"}:
            whole(name, getattr(self, name), 0)
        if self.do_sample is not None:
            yes_or_no("do_sample", self.do_sample)
        if self.seed is not None and type(self.seed) is not int:
            raise InputError(f"seed must be a whole number, not {self.seed!r}")
        if self.acceptance not in (None, *ACCEPTANCE):
            raise InputError(f"acceptance must be 'residual' or 'coupled', not {self.acceptance!r}")
        listed = self.logits_processor
        if listed is not None and not (isinstance(listed, list) and all(map(callable, listed))):
            raise InputError(f"logits_processor must be a list of transformers' processors, not {listed!r}")
        if self.bad_words_ids is not None and not all(self.bad_words_ids):
            raise InputError("bad_words_ids has an empty word: leave it out")
        if self.repetition_penalty == 0 or self.typical_p == 0:
            raise InputError("repetition_penalty and typical_p must be above 0")
        self._check_contradictions(given)

    def _check_contradictions(self, given: set[str]) -> None:
        warpers = [name for name in WARPERS if name in given]
        if self.do_sample is False and warpers and self.temperature != 0:
            raise InputError(f"do_sample=False contradicts {', '.join(warpers)}: leave out one or the other")
        if self.do_sample and self.temperature == 0:
            raise InputError("do_sample=True contradicts temperature=0, which is greedy")
        if not self.sampled and (idle := sorted(given & {"seed", "acceptance"})):
            raise InputError(f"{' and '.join(idle)} needs sampling: set a temperature or do_sample=True")

    def check_length(self, max_new_tokens: int) -> None:
        """Raise InputError if fewer tokens may be generated than must be."""
        if self.min_new_tokens is not None and self.min_new_tokens > max_new_tokens:
            raise InputError(
                f"min_new_tokens={self.min_new_tokens} is more than the {max_new_tokens} new tokens allowed"
            )

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.temperature == 0:
            return False
        if self.do_sample is not None:
            return self.do_sample
        return any(getattr(self, name) is not None for name in WARPERS)

    def settings(self) -> dict[str, Any]:
        """What transformers' generation settings are to be changed by."""
        own = ("seed", "acceptance", "logits_processor", "do_sample")
        values = {name: getattr(self, name) for name in SETTINGS if name not in own}
        left_out = WARPERS if not self.sampled else ()
        given = {name: value for name, value in values.items() if value is not None and name not in left_out}
        return {"do_sample": self.sampled, **given}

    def sampler(self, processors: LogitsProcessorList, before: tuple[int, ...] = ()) -> Sampler:
        """The sampler that these settings ask for; see `conflayers.sampling.Processed` for the arguments."""
        if not self.sampled:
            return Greedy(processors, before)
        if self.acceptance == "coupled" or (self.acceptance is None and self.seed is not None):
            seed = self.seed if self.seed is not None else int(torch.randint(2**62, ()))
            return Coupled(processors, before, seed=seed)
        generator = torch.Generator().manual_seed(self.seed % 2**64) if self.seed is not None else None
        return Sampled(processors, before, chance=Chance(generator))


# The names of these settings.
SETTINGS = tuple(item.name for item in fields(Choice))


def split_choice(options: Mapping[str, Any]) -> tuple[Choice, dict[str, Any]]:
    """The choice among `options`, and the rest of them.

    Raises:
        InputError: as `Choice`.
    """
    mine = {name: value for name, value in options.items() if name in SETTINGS}
    return Choice(**mine), {name: value for name, value in options.items() if name not in SETTINGS}
