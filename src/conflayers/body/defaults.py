"""What a checkpoint itself asks of greedy decoding: its logits processors and the tokens that end a text."""

import torch
from transformers import LogitsProcessorList, PreTrainedModel

from conflayers.errors import InputError

# What would change the text of `generate(do_sample=False)` and is not honoured, with the value that asks for nothing.
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


def logits_processors(model: PreTrainedModel, prompt_tokens: int) -> LogitsProcessorList:
    """The processors that transformers' `generate(do_sample=False)` would apply for this model.

    Raises:
        InputError: the model's generation settings ask for something that cannot be honoured.
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
    # `generate` builds the list here and offers no public way to ask for it.
    settings, _ = model._prepare_generation_config(None, do_sample=False, num_beams=1)
    settings.eos_token_id = sorted(end_tokens(model)) or None
    model._prepare_special_tokens(settings, kwargs_has_attention_mask=True, device=model.device)
    return model._get_logits_processor(
        generation_config=settings, input_ids_seq_length=prompt_tokens, device=model.device, model_kwargs={}
    )


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The ids after which a text is over, as `generate` takes them from the generation settings; maybe none."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(torch.as_tensor(ids).reshape(-1).tolist())
