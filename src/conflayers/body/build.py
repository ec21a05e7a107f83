"""From a checked recipe to a model: the calls of transformers, and what must hold afterwards.

Whatever transformers raises becomes one error that names the source, and a model that is not wholly what the source
says is never returned.
"""

import contextlib
import copy
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from conflayers.body.folder_guard import MAX_TEMPLATE, TRUST_ADVICE
from conflayers.body.multimodal import processor_and_tokenizer
from conflayers.errors import ConfLayersError, LoadError, UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model for transformers to load: what, how, and what is known of it beforehand.

    `label` names the source in errors; `location` is the folder or hub id to load from, at `revision`, or the path of
    the file `gguf`; `nbytes` is what the weights take in memory, roughly, and `weights` how many the checkpoint
    holds; `files` is the file of each tensor, where known; `online` tells whether trusted code may fetch more from
    the hub.
    """

    label: str
    location: str
    dtype: torch.dtype | str
    device: torch.device
    trust: bool
    nbytes: int
    weights: int
    has_tokenizer: bool
    has_processor: bool = False
    tokenizer_code: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    gguf: Path | None = None
    revision: str | None = None
    online: bool = False


def build(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load the model and its tokenizer as `recipe` says, the model in evaluation mode.

    Raises LoadError if anything in the source does not fit together or does not fit into memory, and
    UnsupportedModelError if the model is not a decoder.
    """
    shared: dict[str, Any] = {
        "trust_remote_code": recipe.trust,
        "revision": recipe.revision,
        # The files have been fetched and checked: only trusted code may refer to yet another repository.
        "local_files_only": not (recipe.trust and recipe.online),
    }
    try:
        if recipe.gguf is None:
            model, tokenizer, report = _load(recipe, recipe.location, shared)
        else:
            with _alone(recipe.gguf) as folder:
                model, tokenizer, report = _load(recipe, folder, shared | {"gguf_file": recipe.gguf.name})
    except ConfLayersError:
        raise
    except Exception as error:  # any library underneath, with any error: the file decides which
        raise _explain(recipe, error) from error
    _check_whole(recipe, model, report)
    return model.eval(), tokenizer


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[str]:
    """A folder with nothing but a link to `file`: transformers would also read what lies beside it, unchecked."""
    with tempfile.TemporaryDirectory(prefix="conflayers-", ignore_cleanup_errors=True) as folder:
        try:
            (Path(folder) / file.name).symlink_to(file)
        except OSError:  # some systems keep symbolic links for administrators
            (Path(folder) / file.name).hardlink_to(file)
        yield folder


def _load(
    recipe: Recipe, location: str, shared: Mapping[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, Mapping[str, Any]]:
    config = AutoConfig.from_pretrained(location, **shared)
    _check_decoder(recipe, config)
    _check_size(recipe, config)
    model, report = _load_model(recipe, location, config, shared)
    tokenizer = _load_tokenizer(recipe, location, shared) if recipe.has_tokenizer else None
    if tokenizer is not None and recipe.has_processor and _takes_images(config):
        tokenizer = _load_processor(recipe, location, shared) or tokenizer
    if location != recipe.location:
        model.config.name_or_path = recipe.location
        if tokenizer is not None:
            tokenizer.name_or_path = recipe.location
    return model, tokenizer, report


def _load_model(
    recipe: Recipe, location: str, config: PreTrainedConfig, shared: Mapping[str, Any]
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    options: dict[str, Any] = {"dtype": recipe.dtype, "device_map": {"": recipe.device}, "use_safetensors": True}
    # Not ignored but reported by name, with everything else that does not fit.
    options["ignore_mismatched_sizes"] = True
    # Newer versions keep the weights of a GGUF file packed if they find kernels for that: plain weights are wanted.
    if recipe.gguf is not None and hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, report = _auto_class(config).from_pretrained(
        location, config=config, output_loading_info=True, **options, **shared
    )
    # Older versions leave the mark of a quantised model on what are plain weights by now.
    if recipe.gguf is not None and hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, report


def _load_tokenizer(recipe: Recipe, location: str, shared: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, **shared)
    except Exception as error:
        if recipe.tokenizer_code and not recipe.trust:
            classes = ", ".join(recipe.tokenizer_code)
            raise LoadError(f"{recipe.label}: its tokenizer needs its own code ({classes}); {TRUST_ADVICE}") from error
        raise
    _check_template(recipe, tokenizer.chat_template)
    return tokenizer


def _check_template(recipe: Recipe, templates: Any) -> None:
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if template is not None and len(template) > MAX_TEMPLATE:
            raise LoadError(f"{recipe.label}: a chat template longer than {MAX_TEMPLATE} characters")


def _load_processor(recipe: Recipe, location: str, shared: Mapping[str, Any]) -> Any:
    """The processor, or None where a library that it needs is missing: the model still answers texts."""
    try:
        processor = AutoProcessor.from_pretrained(location, **shared)
    except ImportError as error:
        reason = textwrap.shorten(str(error), 120)
        warnings.warn(f"{recipe.label}: prompts with images need more than is installed: {reason}", stacklevel=2)
        return None
    _check_template(recipe, getattr(processor, "chat_template", None))
    return processor_and_tokenizer(processor)[0]


def _takes_images(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint is of a model that takes images, and not of the text model in it alone."""
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return False
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return True
    text_model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return (config.architectures or [None])[0] != text_model.__name__ or (
        text_model is MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    )


def _auto_class(config: PreTrainedConfig) -> Any:
    return AutoModelForImageTextToText if _takes_images(config) else AutoModelForCausalLM


def _check_decoder(recipe: Recipe, config: PreTrainedConfig) -> None:
    name = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{recipe.label}: {name} is an encoder-decoder; only decoders can be loaded")
    own_code = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not _takes_images(config):
        if own_code is None:
            raise UnsupportedModelError(f"{recipe.label}: {name} is not a causal language model")
        if not recipe.trust:
            raise LoadError(f"{recipe.label}: needs its own code ({own_code}); {TRUST_ADVICE}")
    # Encoders have a causal head too, which only makes sense in a checkpoint that was trained with it.
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False:
        raise UnsupportedModelError(f"{recipe.label}: {name} is an encoder (is_decoder is false)")


def _check_size(recipe: Recipe, config: PreTrainedConfig) -> None:
    # transformers makes room for what the config describes before it finds that the weights are not that large.
    with torch.device("meta"):
        outline = _auto_class(config).from_config(copy.deepcopy(config), trust_remote_code=recipe.trust)
    described = sum(parameter.numel() for parameter in outline.parameters())
    # Packed weights: up to 16 to an element. Twice, since what is shared may be counted once or more often.
    packed = 16 if getattr(config, "quantization_config", None) is not None else 1
    if described > 2 * packed * recipe.weights:
        raise LoadError(f"{recipe.label}: describes a model of {described} weights, but holds {recipe.weights}")


def _explain(recipe: Recipe, error: Exception) -> LoadError:
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in text.lower()):
        return LoadError(
            f"{recipe.label}: not enough memory on {recipe.device} for weights of {recipe.nbytes / 1e9:.1f} GB "
            f"(dtype {str(recipe.dtype).removeprefix('torch.')}); try dtype='bfloat16', another device or a smaller "
            "model"
        )
    reason = textwrap.shorten(text, 300) or "no reason given"
    return LoadError(f"{recipe.label}: transformers could not load it: {type(error).__name__}: {reason}")


def _check_whole(recipe: Recipe, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    # transformers would go on with random values, and the text would be nonsense.
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoadError(f"{recipe.label}: the checkpoint has no tensor for {missing[0]}{more}")
    for name, stored, described in sorted(report["mismatched_keys"]):
        where = recipe.files.get(name, recipe.label)
        raise LoadError(f"{where}: tensor {name!r} has shape {list(stored)}; the config means {list(described)}")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise LoadError(f"{recipe.label}: {name} was left without memory (on the meta device)")
        if not _is_finite(parameter):
            where = recipe.files.get(name, recipe.label)
            raise LoadError(f"{where}: tensor {name!r} holds NaN or infinity")


def _is_finite(parameter: torch.Tensor) -> bool:
    # Types of one byte have no sum, and most have no infinity either.
    if not parameter.is_floating_point() or parameter.dtype.itemsize == 1:
        return True
    # One sum finds a single NaN or infinity without a second tensor; in the narrow types it could itself overflow.
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return bool(parameter.detach().sum(dtype=wide).isfinite())
