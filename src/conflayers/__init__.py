"""ConfLayers: a language model that drafts for itself and checks itself, faster with the same output."""

from conflayers.api import Llm, Result, Stream, load
from conflayers.errors import ConfLayersError, InputError, LoadError, PlanError, UnsupportedModelError
from conflayers.plan import FULL, Plan

__version__ = "0.1.0"

__all__ = [
    "FULL",
    "ConfLayersError",
    "InputError",
    "Llm",
    "LoadError",
    "Plan",
    "PlanError",
    "Result",
    "Stream",
    "UnsupportedModelError",
    "load",
]
