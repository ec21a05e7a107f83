"""ConfLayers: a language model that drafts for itself and checks itself, faster with the same output."""

from typing import TYPE_CHECKING, Any

from conflayers.errors import (
    ConfLayersError,
    DraftError,
    InputError,
    LoadError,
    NumericalError,
    OutOfMemoryError,
    PlanError,
    UnsupportedModelError,
)
from conflayers.plan import FULL, Plan

if TYPE_CHECKING:
    from conflayers.api import Llm, Result, Stream, load
    from conflayers.custom_generate import SelfSpeculative

__version__ = "0.1.0"

__all__ = [
    "FULL",
    "ConfLayersError",
    "DraftError",
    "InputError",
    "Llm",
    "LoadError",
    "NumericalError",
    "OutOfMemoryError",
    "Plan",
    "PlanError",
    "Result",
    "SelfSpeculative",
    "Stream",
    "UnsupportedModelError",
    "load",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, and the command line's help needs neither.
    if name in ("Llm", "Result", "Stream", "load"):
        from conflayers import api

        return getattr(api, name)
    if name == "SelfSpeculative":
        from conflayers.custom_generate import SelfSpeculative

        return SelfSpeculative
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
