"""Are a model's weights still those that were read? Copies of them have to be made anew where they are not."""

from dataclasses import dataclass

import torch
from torch import nn

# Numbers of each parameter that are compared. A merged adapter changes nearly all of them.
SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What weights looked like.

    Attributes:
        places: of every parameter where it lies, and how often it was written to, as far as torch counts.
        sample: some numbers of each, for writes that torch does not count: those through `.data`.
    """

    places: tuple[tuple[int, int], ...]
    sample: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Fingerprint":
        """What they look like now."""
        return cls(_places(model), tuple(taken.clone() for taken in _samples(model)))

    def still(self, model: nn.Module) -> bool:
        """Whether they look the same."""
        if self.places != _places(model):
            return False
        return all(map(torch.equal, self.sample, _samples(model)))


def _places(model: nn.Module) -> tuple[tuple[int, int], ...]:
    # Tensors made in inference mode have no counter.
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


def _samples(model: nn.Module) -> list[torch.Tensor]:
    """By kind of number and device, some numbers of each parameter, one after the other."""
    taken: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for parameter in model.parameters():
        numbers = parameter.detach().reshape(-1)
        spread = numbers[:: max(1, len(numbers) // SAMPLE)][:SAMPLE]
        taken.setdefault((parameter.dtype, parameter.device), []).append(spread)
    return [torch.cat(some) for some in taken.values()]
