"""What the `custom_generate/generate.py` of an exported model folder calls."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput

from conflayers.custom_generate import SelfSpeculative
from conflayers.errors import InputError

FORMAT = 1
# The name under which a model from an exported folder carries what serves its requests.
KEY = "_conflayers_generate"


class Kept:
    """A `SelfSpeculative` and the settings it was made with. It is not copied with the model, nor pickled."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.speculative = SelfSpeculative(settings["method"], plan=settings["plan"], **settings["options"])

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def generate_with(
    settings: Mapping[str, Any], model: PreTrainedModel, *inputs: Any, **arguments: Any
) -> GenerateDecoderOnlyOutput | torch.Tensor:
    """`model.generate(*inputs, **arguments)` of transformers, self-speculatively.

    Args:
        settings: "format", "method", "options", "plan" (what is in a saved plan's file, or None), and "stats" (a file
            that a line of statistics is appended to for each request, or None).

    Raises:
        InputError: an argument that cannot be honoured, or settings of another version.
    """
    if settings.get("format") != FORMAT:
        raise InputError(
            f"the model folder was exported in format {settings.get('format')!r}, this version reads {FORMAT}: "
            "run `conflayers export` on it again"
        )
    kept = model.__dict__.get(KEY)
    if kept is None or kept.settings != settings:
        kept = model.__dict__[KEY] = Kept(settings)
    output = kept.speculative.generate(model, *inputs, **arguments)
    if settings["stats"] is not None:
        _append(settings["stats"], kept.speculative)
    return output


def _append(path: str, speculative: SelfSpeculative) -> None:
    plan = speculative.result.plan
    line = json.dumps({**speculative.stats.as_dict(), "plan": None if plan is None else str(plan)})
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        # The answer is there; it must not be lost for the sake of its statistics.
        warnings.warn(f"cannot append statistics to {path}: {error.strerror or error}", stacklevel=3)
