"""What a checkpoint and a request ask of decoding: logits processors and the tokens that end a text."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedModel

from conflayers.errors import InputError

# What would change the text of `generate` and is not honoured, with the value that asks for nothing.
NOT_HONOURED = {
    "stop_strings": None,
    "guidance_scale": 1,
    "num_beams": 1,
    "num_beam_groups": 1,
    "max_time": None,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "forced_eos_token_id": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "token_healing": False,
    "num_return_sequences": 1,
    "constraints": None,
    "force_words_ids": None,
}


def logits_processors(
    model: PreTrainedModel,
    prompt_tokens: int,
    vocab_size: int,
    settings: Mapping[str, Any],
    extra: LogitsProcessorList | None = None,
) -> LogitsProcessorList:
    """The processors that transformers' `generate` would apply for this model and these settings.

    Args:
        model: whose own generation settings hold where `settings` says nothing.
        prompt_tokens: how long the prompt is.
        vocab_size: width of the logits.
        settings: fields of a generation configuration, `do_sample` among them.
        extra: a caller's own processors.

    Raises:
        InputError: the settings, or the model's own, ask for something that cannot be honoured.
    """
    for name, nothing in NOT_HONOURED.items():
        value = getattr(model.generation_config, name, None)
        if value is not None and value != nothing:
            raise InputError(
                f"the model's generation settings ask for {name}={value!r}, which is not supported: "
                f"set model.generation_config.{name} = {nothing!r} to go without"
            )
    watermark = getattr(model.generation_config, "watermarking_config", None)
    if type(watermark).__name__ == "SynthIDTextWatermarkingConfig":
        # It counts its own calls, and drafts would be counted too.
        raise InputError("the model's generation settings ask for a SynthID watermark, which is not supported")
    _check_ids(settings, vocab_size)
    # `generate` builds the list here and offers no public way to ask for it.
    try:
        complete, _ = model._prepare_generation_config(None, num_beams=1, **settings)
        complete.eos_token_id = sorted(end_tokens(model, settings)) or None
        if complete.min_new_tokens is not None:
            complete.min_length = 0  # the count of new tokens decides alone, as in `generate`
        model._prepare_special_tokens(complete, kwargs_has_attention_mask=True, device=model.device)
        processors: LogitsProcessorList = model._get_logits_processor(
            generation_config=complete,
            input_ids_seq_length=prompt_tokens,
            device=model.device,
            model_kwargs={},
            logits_processor=extra if extra is not None else LogitsProcessorList(),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"transformers refuses these generation settings: {error}") from error
    return processors


def _check_ids(settings: Mapping[str, Any], vocab_size: int) -> None:
    """Raise InputError for an id that no row of logits has."""
    words = settings.get("bad_words_ids") or ()
    try:
        ids = [("bad_words_ids", token) for word in words for token in word]
        ids += [("eos_token_id", token) for token in _as_list(settings.get("eos_token_id"))]
    except TypeError as error:
        raise InputError("bad_words_ids takes a list of lists of token ids, eos_token_id one id or a list") from error
    for name, token in ids:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise InputError(f"{name} has {token!r}, but the model's ids are whole numbers from 0 to {vocab_size - 1}")


def _as_list(ids: Any) -> list[Any]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def end_tokens(model: PreTrainedModel, settings: Mapping[str, Any] | None = None) -> frozenset[int]:
    """The ids after which a text is over: those of `settings` or else of the model's generation settings."""
    ids = (settings or {}).get("eos_token_id")
    if ids is None:
        ids = model.generation_config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(torch.as_tensor(ids).reshape(-1).tolist())
