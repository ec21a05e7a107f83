"""What transformers itself says, and whether a model is still as it was."""

import torch
from transformers import PreTrainedModel

NEW_TOKENS = 64
# Longer than the sliding windows of the tiny models, so that the prefill already drops tokens from view.
PROMPT = [5, 17, 33, 60, 44, 91, 100, 7, 23, 55, 71, 12]

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def greedy(model: PreTrainedModel, tokens: int = NEW_TOKENS) -> list[int]:
    """The new tokens of `generate` without sampling."""
    output: list[int] = model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=tokens)[0].tolist()
    return output[len(PROMPT) :]


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """Of every token of the prompt, in one pass."""
    ids = torch.tensor([PROMPT])
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    output: torch.Tensor = model(input_ids=ids, use_cache=False, **decoder).logits
    return output


def assert_untouched(model: PreTrainedModel) -> None:
    """No module carries a hook or a forward of its own, and none is in training mode."""
    for name, module in model.named_modules():
        assert not any(getattr(module, hooks) for hooks in HOOKS), name
        assert "forward" not in module.__dict__, name
        assert not module.training, name
