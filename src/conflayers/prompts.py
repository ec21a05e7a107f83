"""From what a user gives as a prompt to the token ids the model is given."""

from collections.abc import Sequence
from typing import Any

import torch

from conflayers.errors import InputError

Prompt = str | Sequence[int] | Sequence[dict[str, Any]] | torch.Tensor


def encode(prompt: Prompt, tokenizer: Any, name: str, vocab_size: int, chat: bool | None) -> list[int]:
    """The token ids of `prompt`.

    Args:
        prompt: a text, a list of chat messages, or token ids, as a list or as a tensor of one row.
        tokenizer: the model's, or None.
        name: what to call the model in errors.
        vocab_size: ids must lie below it.
        chat: put a text into the chat template: True, False, or None for where there is one.

    Raises:
        InputError: the prompt is empty, a batch, or needs a tokenizer or template the model does not have.
    """
    ids = _ids(prompt, tokenizer, name, chat)
    if not ids:
        raise InputError("the prompt is empty")
    outside = next((token for token in ids if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise InputError(f"token id {outside} is outside the model's vocabulary of {vocab_size}")
    return ids


def _ids(prompt: Prompt, tokenizer: Any, name: str, chat: bool | None) -> list[int]:
    if isinstance(prompt, torch.Tensor):
        _no_template(chat)
        return _single_row(prompt)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InputError(f"a prompt is a text, a list of chat messages, or token ids, not {type(prompt).__name__}")
    if isinstance(prompt, str):
        return _encode_text(prompt, tokenizer, name, chat)
    items: list[Any] = list(prompt)
    if items and all(isinstance(item, dict) for item in items):
        if chat is False:
            raise InputError("chat messages need the chat template: leave out chat=False, or give a text")
        return _encode_chat(items, tokenizer, name)
    if items and all(isinstance(item, str | list | tuple) for item in items):
        raise InputError(f"a batch of {len(items)} prompts: only one sequence at a time is supported")
    if not all(type(item) is int for item in items):
        raise InputError("a prompt is a text, a list of chat messages, or a list of token ids")
    _no_template(chat)
    return items


def _no_template(chat: bool | None) -> None:
    if chat:
        raise InputError("token ids go to the model as they are: leave out chat=True, or give a text")


def _encode_text(text: str, tokenizer: Any, name: str, chat: bool | None) -> list[int]:
    if not text:
        raise InputError("the prompt is empty")
    _need_tokenizer(tokenizer, name)
    templated = bool(getattr(tokenizer, "chat_template", None))
    if chat and not templated:
        raise InputError(f"{name} has no chat template; leave out chat=True, or give token ids")
    if templated and chat is not False:
        return _encode_chat([{"role": "user", "content": text}], tokenizer, name)
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def _encode_chat(messages: list[dict[str, Any]], tokenizer: Any, name: str) -> list[int]:
    _need_tokenizer(tokenizer, name)
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{name} has no chat template; give the prompt as a text")
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except Exception as error:
        raise InputError(f"the chat template of {name} rejects the messages: {error}") from error
    ids: list[int] = encoded["input_ids"]
    return ids


def _need_tokenizer(tokenizer: Any, name: str) -> None:
    if tokenizer is None:
        raise InputError(f"{name} came without a tokenizer: give the prompt as token ids")


def _single_row(ids: torch.Tensor) -> list[int]:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"token ids must be whole numbers, not {ids.dtype}")
    if ids.dim() == 2 and ids.shape[0] != 1:
        raise InputError(f"a batch of {ids.shape[0]} prompts: only one sequence at a time is supported")
    if ids.dim() not in (1, 2):
        raise InputError(f"token ids must have one or two dimensions, not {ids.dim()}")
    row: list[int] = ids.reshape(-1).tolist()
    return row
