"""What a layer does beside its products, in as few of torch's operators as it lets us."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from conflayers.body.cache import PositionedLayer
from conflayers.body.steady import MOST_ROWS, attend, blocks

# Up to so many tokens a pass is short, and its time is that of launching operators. Passes whose rows are to have the
# same bits all have to be short, or none.
SHORT = MOST_ROWS


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Divides by the root of the mean square, and scales.

    On the CPU torch has no kernel for it, but a dozen small operators. It has one for the layer norm, and that of a
    vector together with its negative is this one: their mean is zero, and their variance the mean square.

    Attributes:
        weight: [width].
        twice: the same, twice in a row.
        eps: added to the mean square.
    """

    weight: torch.Tensor
    twice: torch.Tensor
    eps: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [tokens, ..., width] to the same shape."""
        width = len(self.weight)
        if len(states) > SHORT or states.device.type != "cpu":
            return functional.rms_norm(states, (width,), self.weight, self.eps)
        mirrored = torch.cat([states, states.neg()], -1)
        normed = functional.layer_norm(mirrored, (2 * width,), self.twice, None, self.eps)
        return normed.narrow(-1, 0, width).contiguous()


def rms_norm(weight: torch.Tensor, eps: float) -> RmsNorm:
    """The norm that a module with this weight computes."""
    return RmsNorm(weight, torch.cat([weight, weight]), eps)


# Keys and values, [1, key-value heads, columns, width].
Held = tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class Seen:
    """What the attention of every layer needs to know of a pass's tokens.

    Attributes:
        positions: [tokens].
        angles: cosine and sine, [tokens, 1, head_dim]; the sine carries the sign of the rotation.
        chain: whether they follow the text one after the other.
        whole: whether they are a text from its beginning, and more than one.
        biased: by sliding window, what to add to the scores, [tokens, columns]; None where all that the cache returns
            may be seen.
        group: query heads of a key-value head.
        steady: whether rows are to have the same bits in any company.
    """

    positions: torch.Tensor
    angles: tuple[torch.Tensor, torch.Tensor]
    chain: bool
    whole: bool
    biased: Callable[[int | None], torch.Tensor | None]
    group: int
    steady: bool
    _blocks: dict[int | None, list[torch.Tensor] | None] = field(default_factory=dict)
    _exact: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def blocks(self, window: int | None) -> list[torch.Tensor] | None:
        """See `steady.blocks`; made once for all layers."""
        if window not in self._blocks:
            bias = self.biased(window)
            self._blocks[window] = None if bias is None else blocks(bias, self.group, self.steady)
        return self._blocks[window]

    def exact(self, window: int | None) -> torch.Tensor | None:
        """`biased` in float32, made once for all layers."""
        if window not in self._exact:
            bias = self.biased(window)
            self._exact[window] = None if bias is None else bias.float().contiguous()
        return self._exact[window]


class Operators:
    """In torch's own operators: on any device, of any number of rows."""

    def __init__(self, heads: int, kv_heads: int, width: int) -> None:
        self.heads, self.kv_heads, self.width = heads, kv_heads, width

    def norm(self, states: torch.Tensor, norm: RmsNorm, added: torch.Tensor | None = None) -> torch.Tensor:
        """Add to states [tokens, hidden], in place, what a sublayer adds, if anything; and norm them."""
        if added is not None:
            states += added
        return norm(states)

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Gate and up [tokens, 2 * inner], one after the other, to what goes down [tokens, inner]."""
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate).mul_(up)

    def turn(
        self,
        mixed: torch.Tensor,
        norms: tuple[RmsNorm, RmsNorm] | None,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        cached: PositionedLayer,
    ) -> tuple[torch.Tensor, Held | None]:
        """Rotate queries and keys by position, and write keys and values into the cache.

        Args:
            mixed: queries, keys and values of every token, [tokens, (heads + 2 * key-value heads) * width].
            norms: of each head of queries and of keys, where the model has them.
            angles: cosine and sine, [tokens, 1, width], if they are rotated; the sine carries the sign, so that one
                roll does.
            cached: where they go.

        Returns:
            Queries [heads, tokens, width], and the keys and values that may be seen unless `cached` has them.
        """
        mixed = mixed.view(mixed.shape[0], -1, self.width)
        turned = mixed.narrow(1, 0, self.heads + self.kv_heads)
        if norms:
            queries, keys = torch.split(turned, [self.heads, self.kv_heads], 1)
            turned = torch.cat([norms[0](queries), norms[1](keys)], 1)
        if angles:
            cos, sin = angles
            turned = torch.addcmul(turned * cos, turned.roll(self.width // 2, -1), sin)
        # Tokens last but one, as the cache has them; of one token that is a view.
        heads_first = turned.transpose(0, 1)
        values = mixed.narrow(1, self.heads + self.kv_heads, self.kv_heads).transpose(0, 1)
        return heads_first[: self.heads], cached.update(heads_first[None, self.heads :], values[None])

    def attend(self, queries: torch.Tensor, held: Held | None, cached: PositionedLayer, seen: Seen) -> torch.Tensor:
        """The attention of tokens over what `turn` returned, [tokens, heads * width]."""
        keys, values = held or cached.visible(queries.shape[1])
        if seen.whole and cached.window is None:
            # A prompt is torch's own case.
            out = functional.scaled_dot_product_attention(
                queries[None], keys, values, is_causal=True, enable_gqa=seen.group > 1
            )[0]
        else:
            out = attend(queries, keys, values, seen.blocks(cached.window))
        return out.transpose(0, 1).reshape(queries.shape[1], -1)
