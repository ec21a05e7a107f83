"""The first pass over a prompt that is more than tokens: the arguments the model's own `generate` would run it with."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from conflayers.errors import InputError

# Where models note on themselves by how much a prompt's images shift the positions of what follows.
_NOTED = "rope_deltas"
_PREPARES = ("image_processor", "video_processor", "feature_extractor")


def processor_and_tokenizer(given: Any) -> tuple[Any, Any]:
    """A processor, which prepares more than text, and the tokenizer in it; or None and the tokenizer `given`."""
    # Some tokenizers have a tokenizer of another library inside.
    if hasattr(given, "tokenizer") and any(hasattr(given, part) for part in _PREPARES):
        return given, given.tokenizer
    return None, given


def check_inputs(model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Raise InputError, naming them, if there are `inputs` that `model` has no use for."""
    try:
        model._validate_model_kwargs(dict(inputs))
    except ValueError as error:
        known = inspect.signature(model.forward).parameters
        names = ", ".join(sorted(name for name in inputs if name not in known)) or "some of these inputs"
        raise InputError(f"{type(model).__name__} does not take {names}") from error


def prompt_arguments(
    model: PreTrainedModel, tokens: torch.Tensor, inputs: Mapping[str, Any], cache: Cache
) -> dict[str, Any]:
    """What to call `model` with for a whole prompt, as its own `generate` would.

    Args:
        tokens: [1, tokens], on the model's device.
        inputs: what belongs to them beside the ids, such as pixel values, on any device.
        cache: an empty cache.

    Raises:
        ValueError: among others; whatever the model makes of inputs that do not fit.
    """
    known = {name: _moved(value, model.device) for name, value in inputs.items()}
    known |= {"past_key_values": cache, "use_cache": True}
    if known.get("position_ids") is None and "position_ids" in inspect.signature(model.forward).parameters:
        # Some models need the mask to place the images, but it hides nothing, so no layer is given it.
        visible = {"attention_mask": torch.ones_like(tokens)}
        try:
            known["position_ids"] = model._prepare_position_ids_for_generation(tokens, known | visible)
        except RuntimeError as error:
            raise ValueError(f"the images do not fit the tokens ({error})") from error
    arguments: dict[str, Any] = model.prepare_inputs_for_generation(tokens, is_first_iteration=True, **known)
    return arguments


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


@contextmanager
def nothing_noted(model: PreTrainedModel) -> Iterator[None]:
    """Whatever `model` notes on itself about a prompt inside this context is as before afterwards."""
    noted = [(module, getattr(module, _NOTED)) for module in model.modules() if _NOTED in vars(module)]
    try:
        yield
    finally:
        for module, value in noted:
            setattr(module, _NOTED, value)
