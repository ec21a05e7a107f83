"""The randomness of one request."""

from dataclasses import dataclass

import numpy as np
import torch

from conflayers.errors import NumericalError

NO_TOKEN = (
    "the model's scores leave no token to choose: they are not finite, or the processors ruled every token out; "
    "check the weights, their dtype and the processors"
)


@dataclass(frozen=True, slots=True)
class Chance:
    """A stream of random numbers.

    Attributes:
        generator: of the CPU; None for torch's global one.
    """

    generator: torch.Generator | None = None

    def uniform(self) -> float:
        """A number from [0, 1), in double precision: float32 would never say yes to odds below 6e-8."""
        return float(torch.rand((), dtype=torch.float64, generator=self.generator))

    def draw(self, probabilities: torch.Tensor) -> int:
        """A token by its probability.

        By one number and the cumulative sum, which is several times cheaper than `multinomial` and, in double
        precision, gives every token its due.

        Args:
            probabilities: [vocabulary], 0 or more, with a sum of about 1.

        Raises:
            NumericalError: they are no probabilities: not finite, or all zero.
        """
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        total = float(cumulative[-1])
        if not 0 < total < float("inf"):
            raise NumericalError(NO_TOKEN)
        # The product may round up to the total, past the last token that is possible.
        at = min(self.uniform() * total, torch.nextafter(cumulative[-1], cumulative.new_zeros(())).item())
        return int(torch.searchsorted(cumulative, at, right=True))


def gumbel(seed: int, position: int, size: int, device: torch.device) -> torch.Tensor:
    """Gumbel noise [size] that belongs to one position of the text under one seed, the same whoever asks for it.

    The argmax of log-probabilities plus this noise is a draw from these probabilities.
    """
    source = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed % 2**64, position])))
    # numpy's exponentials take a quarter of the time of torch's. Double precision, for the smallest decide who wins.
    waits = torch.from_numpy(source.standard_exponential(size)).float().clamp_(min=torch.finfo(torch.float32).tiny)
    return waits.log_().neg_().to(device)
