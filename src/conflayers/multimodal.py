"""Prompts that are more than tokens: what a processor of transformers puts out, checked and taken apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from conflayers.errors import InputError

# Inputs with one entry a token.
_MARKS = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
_PER_TOKEN = (*_MARKS, "position_ids")
# What takes the place of token ids, or comes from somewhere else than a processor.
_NOT_TAKEN = ("inputs_embeds", "past_key_values", "labels", "decoder_input_ids", "encoder_outputs")
_MEDIA = ("image", "image_url", "video", "audio", "input_audio")


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model is given.

    Attributes:
        ids: token ids, placeholders of images included.
        inputs: what belongs to them, such as pixel values, by transformers' names; empty for plain text.
    """

    ids: list[int]
    inputs: dict[str, Any] = field(default_factory=dict)


def from_processor(output: Mapping[str, Any]) -> Encoded:
    """Take apart what a processor or a tokenizer put out for one prompt.

    Args:
        output: `input_ids`, maybe an `attention_mask` (padding on the left is dropped), and tensors with a batch of
            one where they have one entry a token.

    Raises:
        InputError: no ids, a batch, padding elsewhere than on the left, or inputs that are not tensors.
    """
    if output.get("input_ids") is None:
        raise InputError(
            f"a prompt given as inputs needs input_ids; these have {', '.join(map(str, output)) or 'none'}"
        )
    refuse_other_prompts(output)
    ids = token_row(output["input_ids"])
    padding = _padding(output.get("attention_mask"), len(ids))
    inputs = {name: value for name, value in output.items() if name not in ("input_ids", "attention_mask")}
    for name, value in inputs.items():
        if value is not None and not _is_tensors(value):
            raise InputError(f"{name} must be a tensor: ask the processor for return_tensors='pt'")
    return Encoded(ids[padding:], beside_ids(inputs, len(ids), padding))


def refuse_other_prompts(inputs: Mapping[str, Any]) -> None:
    """Raise InputError, naming them, if there are `inputs` that stand for the prompt in another form than ids."""
    if taken := [name for name in _NOT_TAKEN if inputs.get(name) is not None]:
        raise InputError(f"{' and '.join(taken)} cannot be part of a prompt: give input_ids and a processor's inputs")


def beside_ids(inputs: Mapping[str, Any], count: int, padding: int) -> dict[str, Any]:
    """What a model is given with its ids, without their padding; nothing where it only says that all is text.

    Args:
        inputs: by transformers' names; None for what is not there.
        count: number of ids, padding included.
        padding: how many of them are padding, on the left.

    Raises:
        InputError: one that goes by tokens is not as long as the ids.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if all(_says_nothing(name, value) for name, value in given.items()):
        return {}
    return {
        name: _unpadded(name, value, count, padding) if name in _PER_TOKEN else value for name, value in given.items()
    }


def _says_nothing(name: str, value: Any) -> bool:
    """Marks of which tokens are images say nothing if none is, nor do the outputs of encoders that did not run."""
    if name in _MARKS:
        return isinstance(value, torch.Tensor) and not bool(value.any())
    return isinstance(value, Mapping) and all(output is None for output in value.values())


def _is_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_tensors(item) for item in value)
    return isinstance(value, torch.Tensor)


def _padding(mask: Any, count: int) -> int:
    """How many tokens on the left are padding."""
    if mask is None:
        return 0
    seen = token_row(torch.as_tensor(mask).long())
    if len(seen) != count:
        raise InputError(f"attention_mask has {len(seen)} entries for {count} input_ids")
    padding = seen.index(1) if 1 in seen else count
    if any(one != 1 for one in seen[padding:]):
        raise InputError(
            "attention_mask hides tokens behind the first visible one: only padding on the left is possible"
        )
    return padding


def _unpadded(name: str, value: Any, count: int, padding: int) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.shape[-1] != count:
        raise InputError(f"{name} must have one entry for each of the {count} input_ids")
    return value[..., padding:]


def token_row(ids: Any) -> list[int]:
    """The one row of token ids in a tensor or list of one or two dimensions.

    Raises:
        InputError: a batch, another number of dimensions, or no whole numbers.
    """
    try:
        row = ids if isinstance(ids, torch.Tensor) else torch.tensor(ids, dtype=None if len(ids) else torch.long)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"token ids must be whole numbers, in one row: {error}") from error
    if row.is_floating_point() or row.dtype == torch.bool:
        raise InputError(f"token ids must be whole numbers, not {row.dtype}")
    if row.dim() == 2 and row.shape[0] != 1:
        raise InputError(f"a batch of {row.shape[0]} prompts: only one sequence at a time is supported")
    if row.dim() not in (1, 2):
        raise InputError(f"token ids must have one or two dimensions, not {row.dim()}")
    found: list[int] = row.reshape(-1).tolist()
    return found


def media(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """The kinds of media that chat messages hold."""
    parts = [part for message in messages if isinstance(content := message.get("content"), list) for part in content]
    return {str(part["type"]) for part in parts if isinstance(part, Mapping) and part.get("type") in _MEDIA}


def with_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with every text as a list of one part: templates of processors iterate over parts."""
    return [
        {**message, "content": [{"type": "text", "text": text}]}
        if isinstance(text := message.get("content"), str)
        else dict(message)
        for message in messages
    ]
