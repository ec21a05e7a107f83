"""Switching modules off in place, for as long as a context lasts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from conflayers.body.anatomy import Part

Replacement = tuple[nn.Module, Callable[..., Any]]

# The name under which a replaced forward carries what it stands for; None where the module had none of its own.
REPLACED = "_conflayers_replaced"


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


def listening(part: Part, hear: Callable[[Part, Any], None]) -> Replacement:
    """The part's own forward, whose every output is shown to `hear`."""
    own = part.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        hear(part, output)
        return output

    return part.module, forward


@contextmanager
def forwards_replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Give modules another forward inside the context, and back their own afterwards, whatever happens inside.

    Should an interrupt hit the very moment of leaving, `put_back` still does it.
    """
    replaced: list[Replacement] = []
    try:
        for module, forward in replacements:
            # A module may already carry a forward of its own (offloading libraries set one): that is put back.
            forward.__dict__[REPLACED] = module.__dict__.get("forward")
            replaced.append((module, forward))
            module.__dict__["forward"] = forward
        yield
    finally:
        try:
            _restore(replaced)
        except KeyboardInterrupt:
            # A second Ctrl-C must not leave half of them switched off.
            _restore(replaced)
            raise


def _restore(replaced: list[Replacement]) -> None:
    for module, forward in replaced:
        if module.__dict__.get("forward") is forward:
            _put_back(module)


def put_back(modules: Iterable[nn.Module]) -> None:
    """Give every module its own forward back, where an interrupt left it another."""
    for module in modules:
        while REPLACED in getattr(module.__dict__.get("forward"), "__dict__", ()):
            _put_back(module)


def _put_back(module: nn.Module) -> None:
    original = module.__dict__["forward"].__dict__[REPLACED]
    if original is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = original
