"""From what a user gives as a prompt to what the model is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from conflayers.errors import InputError
from conflayers.multimodal import Encoded, from_processor, media, token_row, with_parts
from conflayers.options import yes_or_no

Prompt = str | Sequence[int] | Sequence[dict[str, Any]] | Mapping[str, Any] | torch.Tensor


def encode(
    prompt: Prompt, tokenizer: Any, name: str, vocab_size: int, chat: bool | None, processor: Any = None
) -> Encoded:
    """The token ids of `prompt`, and what else the model is given with them.

    Args:
        prompt: a text, a list of chat messages, token ids, as a list or as a tensor of one row, or the inputs that a
            processor or tokenizer put out for one prompt.
        tokenizer: the model's, or None.
        name: what to call the model in errors.
        vocab_size: ids must lie below it.
        chat: put a text into the chat template: True, False, or None for where there is one.
        processor: the model's, for messages with images; None for models of text.

    Raises:
        InputError: the prompt is empty, a batch, or needs a tokenizer, processor or template the model does not have.
    """
    if chat is not None:
        yes_or_no("chat", chat)
    encoded = _encoded(prompt, tokenizer, name, chat, processor)
    if not encoded.ids:
        raise InputError("the prompt is empty")
    outside = next((token for token in encoded.ids if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise InputError(f"token id {outside} is outside the model's vocabulary of {vocab_size}")
    return encoded


def _encoded(prompt: Prompt, tokenizer: Any, name: str, chat: bool | None, processor: Any) -> Encoded:
    if isinstance(prompt, torch.Tensor):
        _no_template(chat)
        return Encoded(token_row(prompt))
    if isinstance(prompt, Mapping):
        _no_template(chat)
        return from_processor(prompt)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InputError(f"a prompt is a text, a list of chat messages, or token ids, not {type(prompt).__name__}")
    if isinstance(prompt, str):
        return _encode_text(prompt, tokenizer, name, chat, processor)
    items: list[Any] = list(prompt)
    if items and all(isinstance(item, dict) for item in items):
        if chat is False:
            raise InputError("chat messages need the chat template: leave out chat=False, or give a text")
        return _encode_chat(items, tokenizer, name, processor)
    if items and all(isinstance(item, str | list | tuple) for item in items):
        raise InputError(f"a batch of {len(items)} prompts: only one sequence at a time is supported")
    if not all(type(item) is int for item in items):
        raise InputError("a prompt is a text, a list of chat messages, or a list of token ids")
    _no_template(chat)
    return Encoded(items)


def _no_template(chat: bool | None) -> None:
    if chat:
        raise InputError("token ids go to the model as they are: leave out chat=True, or give a text")


def _encode_text(text: str, tokenizer: Any, name: str, chat: bool | None, processor: Any) -> Encoded:
    if not text:
        raise InputError("the prompt is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not UTF-8 text: {error.reason} at character {error.start}") from error
    _need_tokenizer(tokenizer, name)
    templated = _has_template(processor) or _has_template(tokenizer)
    if chat and not templated:
        raise InputError(f"{name} has no chat template; leave out chat=True, or give token ids")
    if templated and chat is not False:
        return _encode_chat([{"role": "user", "content": text}], tokenizer, name, processor)
    return Encoded(tokenizer(text)["input_ids"])


def _encode_chat(messages: list[dict[str, Any]], tokenizer: Any, name: str, processor: Any) -> Encoded:
    _need_tokenizer(tokenizer, name)
    kinds = media(messages)
    if kinds and processor is None:
        raise InputError(
            f"the messages hold {' and '.join(sorted(kinds))}, but {name} came without a processor for that: give "
            "Llm the model's processor in place of the tokenizer"
        )
    template = processor if _has_template(processor) else tokenizer
    if not _has_template(template) or (kinds and template is not processor):
        raise InputError(f"{name} has no chat template{' for media' if kinds else ''}; give the prompt as a text")
    try:
        if template is processor:
            options = {"tokenize": True, "return_tensors": "pt"}
            messages = with_parts(messages)
        else:
            options = {}
        encoded = template.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **options)
    except Exception as error:
        raise InputError(f"the chat template of {name} rejects the messages: {error}") from error
    if template is not processor:
        return Encoded(encoded["input_ids"])
    found = from_processor(encoded)
    if kinds and not found.inputs:
        raise InputError(
            f"the messages speak of {' and '.join(sorted(kinds))}, but none is in them: no pixels came out"
        )
    return found


def _has_template(source: Any) -> bool:
    return bool(getattr(source, "chat_template", None))


def _need_tokenizer(tokenizer: Any, name: str) -> None:
    if tokenizer is None:
        raise InputError(f"{name} came without a tokenizer: give the prompt as token ids")
