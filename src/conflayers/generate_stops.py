"""Stop strings of `generate`, which wants a tokenizer for them and hands a decoding function none."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.generation import StopStringCriteria

from conflayers.body.multimodal import processor_and_tokenizer
from conflayers.errors import InputError
from conflayers.text import stop_texts

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
            "stop_strings needs a tokenizer: generate(tokenizer=tokenizer), or SelfSpeculative(tokenizer=tokenizer)"
        )
    return StoppingCriteriaList([StopStringCriteria(tokenizer, stop_texts(strings)), *criteria])


def tokenizer_given(generate: FrameType) -> Any:
    """The `tokenizer=` of a running call of transformers' `generate`, if it can be found.

    `generate` takes it out of its arguments before it calls a decoding function; the wrapper that calls `generate`
    without gradients still has them.
    """
    wrapper = generate.f_back
    arguments = wrapper.f_locals.get("kwargs") if wrapper is not None else None
    found = arguments.get("tokenizer") if isinstance(arguments, dict) else None
    _, tokenizer = processor_and_tokenizer(found)
    return tokenizer


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
