"""Stop strings of `generate`, which wants a tokenizer for them and hands a decoding function none."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.generation import StopStringCriteria

from conflayers.errors import InputError

Strings = str | Sequence[str] | None


def with_stop_strings(criteria: StoppingCriteriaList, strings: Strings, tokenizer: Any) -> StoppingCriteriaList:
    """`criteria`, and transformers' own for these strings, so that a text ends where plain `generate` ends it.

    Raises:
        InputError: no tokenizer, or strings that are none.
    """
    if strings is None:
        return criteria
    if tokenizer is None:
        raise InputError(
            "stop_strings needs the tokenizer, which generate() keeps to itself: SelfSpeculative(tokenizer=tokenizer)"
        )
    wanted = [strings] if isinstance(strings, str) else list(strings)
    if not wanted or not all(isinstance(string, str) and string for string in wanted):
        raise InputError(f"stop_strings must be one text or several, none empty, not {strings!r}")
    return StoppingCriteriaList([StopStringCriteria(tokenizer, wanted), *criteria])


@contextmanager
def stop_strings_apart(
    model: PreTrainedModel, config: GenerationConfig | None, strings: Strings
) -> Iterator[tuple[GenerationConfig | None, Strings]]:
    """Settings without stop strings, and the strings, wherever they were asked for.

    Inside this context the model's own settings have none either: `generate` would look for a tokenizer.

    Args:
        model: whose settings hold where the other two say nothing.
        config: what `generate` is given; it is not changed.
        strings: what `generate` is given.
    """
    own = model.generation_config.stop_strings
    if config is not None and config.stop_strings is not None:
        strings = config.stop_strings if strings is None else strings
        config = copy.deepcopy(config)
        config.stop_strings = None
    if own is None:
        yield config, strings
        return
    model.generation_config.stop_strings = None
    try:
        yield config, own if strings is None else strings
    finally:
        model.generation_config.stop_strings = own
