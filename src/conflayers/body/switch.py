"""Switching modules off in place, for as long as a context lasts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from conflayers.body.anatomy import Part

Replacement = tuple[nn.Module, Callable[..., Any]]


def first_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states among the arguments of a layer or sublayer: the first, or the one of that name."""
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def passing(part: Part) -> Replacement:
    """A forward that returns its input, in the shape the layer's own forward returns."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = first_hidden(args, kwargs)
        return (hidden, *[None] * (part.returns - 1)) if part.returns else hidden

    return part.module, forward


def silent(part: Part) -> Replacement:
    """A forward that adds nothing to the residual stream."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = first_hidden(args, kwargs)
        # Real zeros, not one zero expanded: some layers add to this in place. The input may have another width.
        nothing = hidden.new_zeros((*hidden.shape[:-1], part.width))
        return (nothing, *[None] * (part.returns - 1)) if part.returns else nothing

    return part.module, forward


@contextmanager
def forwards_replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Give modules another forward inside the context, and back their own afterwards, whatever happens inside."""
    replacements = list(replacements)
    # A module may already carry a forward of its own (offloading libraries set one), so that is put back, not dropped.
    originals = [(module, module.__dict__.get("forward")) for module, _ in replacements]
    try:
        for module, forward in replacements:
            module.__dict__["forward"] = forward
        yield
    finally:
        try:
            _restore(originals)
        except KeyboardInterrupt:
            # A second Ctrl-C must not leave half of them switched off.
            _restore(originals)
            raise


def _restore(originals: list[tuple[nn.Module, Callable[..., Any] | None]]) -> None:
    for module, original in originals:
        if original is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = original
