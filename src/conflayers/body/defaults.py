"""What a checkpoint and a request ask of decoding: logits processors and the tokens that end a text."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedModel

from conflayers.errors import InputError

# Settings of `generate` that ask for another way to decode: the values that ask for nothing, the last of them being the
# one to set, and what to do instead.
ANOTHER_WAY: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), "one text is decoded at a time; leave it out"),
    "num_beam_groups": ((None, 1), "one text is decoded at a time; leave it out"),
    "num_return_sequences": ((None, 1), "call generate once for each text"),
    "guidance_scale": ((None, 1), "its processor runs the model a second time; leave it out"),
    "penalty_alpha": ((0, None), "contrastive search is not plain decoding; leave it out"),
    "dola_layers": ((None,), "DoLa is not plain decoding; leave it out"),
    "token_healing": ((None, False), "heal the prompt before generating"),
    "constraints": ((None,), "it needs beams; leave it out"),
    "force_words_ids": ((None,), "it needs beams; leave it out"),
}
# Those that are honoured inside `generate` and not here.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "stop_strings": (None,),
    "max_time": (None,),
    "encoder_repetition_penalty": (None, 1),
    "encoder_no_repeat_ngram_size": (None, 0),
    "forced_eos_token_id": (None,),
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
    for name, nothing in ({name: values for name, (values, _) in ANOTHER_WAY.items()} | _NOT_HERE).items():
        value = getattr(model.generation_config, name, None)
        if value not in nothing:
            raise InputError(
                f"the model's generation settings ask for {name}={value!r}, which is not supported: "
                f"set model.generation_config.{name} = {nothing[-1]!r} to go without"
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
