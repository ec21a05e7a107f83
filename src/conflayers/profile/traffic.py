"""The bytes that a pass over one token has to read, counted from the tensors themselves."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from conflayers.body.portable import PortableBody


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read in a pass over one token.

    Attributes:
        matrices: weights and biases of the products, the head's among them; of stacked experts those that are asked.
        norms: weights of what is no product.
        embedding: the token's row.
        cache: keys and values of all tokens that the token sees, itself included.
    """

    matrices: int
    norms: int
    embedding: int
    cache: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.norms + self.embedding + self.cache

    def as_dict(self) -> dict[str, int]:
        """The parts and their sum, as plain values for JSON."""
        return {**asdict(self), "total": self.total}


def traffic(body: PortableBody) -> Traffic:
    """What the next pass over one token reads.

    Weights that are shared count once: of an embedding that is the head too, all of it is read by the head. Biases of
    products are read with them. Towers that see or hear have no part in such a pass and are left out.

    Args:
        body: its cache holds the tokens before the pass, one or more, and has room for one more.
    """
    model: Any = body.model
    experts = getattr(model.config.get_text_config(decoder=True), "num_experts_per_tok", None)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    read = {"matrices": 0, "norms": 0, "embedding": 0}
    # The head first: what it shares with the embedding is counted with it.
    seen: set[int] = set()
    for module in (head, *decoder.modules()):
        for weight in _own(module, seen):
            kind, size = _reads(module, weight, experts)
            read[kind] += size
    return Traffic(**read, cache=cache_bytes(body))


def cache_bytes(body: PortableBody) -> int:
    """Keys and values that the next token sees, itself included; a sliding window ends earlier."""
    total = 0
    for layer in body.cache.layers:
        rows, _ = layer.get_mask_sizes(1)
        for states in (layer.keys, layer.values):
            total += states[:, :, :1].numel() * states.element_size() * rows
    return total


def _own(module: nn.Module, seen: set[int]) -> Iterator[torch.Tensor]:
    """The module's own weights, each once."""
    for weight in module.parameters(recurse=False):
        if id(weight) not in seen:
            seen.add(id(weight))
            yield weight


def _reads(module: nn.Module, weight: torch.Tensor, experts: int | None) -> tuple[str, int]:
    if isinstance(module, nn.Embedding):
        return "embedding", weight[:1].nbytes
    if weight.dim() == 3 and experts:
        return "matrices", weight[:1].nbytes * min(experts, len(weight))
    matrices = any(other.dim() > 1 for other in module.parameters(recurse=False))
    return "matrices" if matrices else "norms", weight.nbytes
