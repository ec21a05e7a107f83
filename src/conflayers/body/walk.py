"""The last tokens once more, in several branches side by side, with a say in what goes from layer to layer.

What CLaSp and KnapSpec need: hidden states that took different ways through the layers, for the same tokens at the same
positions behind the same text, all in one pass. The branches are a tree in which none sees another.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from conflayers.body.anatomy import LayerParts
from conflayers.body.contract import ATTENTION, LAYER, MLP, Step
from conflayers.body.switch import Replacement, first_hidden, forwards_replaced, silent

if TYPE_CHECKING:
    from conflayers.body.portable import PortableBody


def walk(body: "PortableBody", tokens: Sequence[int], branches: int, step: Step) -> torch.Tensor:
    """See `contract.Body.walk`."""
    count = len(tokens)
    parents = [-1 if i % count == 0 else i - 1 for i in range(branches * count)]
    replaced = [_stepping(index, parts, branches, step) for index, parts in enumerate(body.anatomy.layers)]
    with body.aside(body.length - count), forwards_replaced(replaced):
        logits = body.forward([*tokens] * branches, parents=parents).logits
    return logits.view(branches, count, -1)


def _stepping(index: int, parts: LayerParts, branches: int, step: Step) -> Replacement:
    own = parts.layer.module.forward
    returns = parts.layer.returns

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = first_hidden(args, kwargs)
        flat = hidden.shape

        def run(states: torch.Tensor, part: str) -> torch.Tensor:
            given = (states.reshape(flat), *args[1:]) if args else args
            named = kwargs if args else {**kwargs, "hidden_states": states.reshape(flat)}
            left_out = {LAYER: (), ATTENTION: parts.mlp, MLP: (parts.attention,)}[part]
            with forwards_replaced(map(silent, left_out)):
                output = own(*given, **named)
            out: torch.Tensor = output[0] if returns else output
            return out.reshape(states.shape)

        # Copies: some layers write into what they are given.
        states = step(index, hidden.reshape(branches, -1, flat[-1]).clone(), run).reshape(flat)
        return (states, *[None] * (returns - 1)) if returns else states

    return parts.layer.module, forward
