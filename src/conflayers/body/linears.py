"""Matrices of a model read the way that costs least: those that take the same input as one product.

No weight exists twice: matrices that belong together are laid side by side once, and the model's own modules become
views of them, with the same values. Whatever the model is used for elsewhere goes on as before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Linear:
    """One product: weight [out, in], and bias [out] where there is one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [tokens, in] to [tokens, out]."""
        return functional.linear(states, self.weight, self.bias)


def hooks_of(module: nn.Module) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """Who sees or changes what goes into a module and what comes out, as it is at any time."""
    return module._forward_pre_hooks, module._forward_hooks


def listened_to(module: nn.Module) -> bool:
    """Whether somebody sees or changes what goes into or comes out of a module, or replaced its forward."""
    return "forward" in module.__dict__ or any(hooks_of(module))


def plain(module: nn.Module) -> bool:
    """Whether a module is a matrix and nothing else: no adapter, no quantised weight."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.is_floating_point()
        and module.weight.layout is torch.strided
    )


def owned(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's values, in memory of its own.

    A checkpoint's tensors may all lie in one file that is mapped into memory. It can go once nothing lies there any
    more; until then whatever was laid side by side would be in memory twice.
    """
    if parameter.device.type == "cpu":
        parameter.data = parameter.data.clone()
    return parameter.detach()


def single(module: nn.Linear) -> Linear:
    """A module's matrix as it is."""
    return Linear(owned(module.weight), None if module.bias is None else owned(module.bias))


def joined(modules: Sequence[nn.Linear]) -> Linear:
    """The matrices of several modules as one, their outputs one after the other; the modules become views of it.

    Biases are small and are copied; all modules have one or none has.
    """
    weights = [module.weight for module in modules]
    whole = _adjacent(weights)
    if whole is None:
        whole = torch.cat([weight.detach() for weight in weights])
        for module, part in zip(modules, torch.split(whole, [len(weight) for weight in weights]), strict=True):
            module.weight.data = part
    biases = [owned(module.bias) for module in modules if module.bias is not None]
    return Linear(whole, torch.cat(biases) if biases else None)


def _adjacent(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The weights as one tensor if they lie one behind the other already."""
    first, width = weights[0].detach(), weights[0].shape[1]
    offset = first.storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or not weight.is_contiguous() or weight.shape[1] != width or weight.storage_offset() != offset:
            return None
        offset += weight.numel()
    rows = sum(len(weight) for weight in weights)
    return first.as_strided((rows, width), (width, 1), first.storage_offset())
