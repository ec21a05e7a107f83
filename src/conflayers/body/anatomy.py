"""The structure of a transformers decoder, learnt from one probe pass and not from a table of names.

A decoder layer's attention is the submodule that writes to the cache; its MLP is every other direct child that holds
weight matrices and puts out hidden states. What does not fit is refused with the reason.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from conflayers.body.cache import PositionedCache, PositionedLayer
from conflayers.errors import UnsupportedModelError

PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Part:
    """A module that can be switched off.

    Attributes:
        returns: how many values its forward returns; 0 for a bare tensor.
        width: of the states it puts out, first of these values.
        final: whether the layer leaves these states as they are; some add to them in place.
    """

    module: nn.Module
    returns: int
    width: int
    final: bool


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One decoder layer: the layer itself, its attention, and the modules that together are its MLP."""

    layer: Part
    attention: Part
    mlp: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What the body needs to know of a model.

    Attributes:
        name: the model's class.
        layers: its decoder layers in the order they run.
        windows: per layer, the sliding window in tokens, None for full attention.
        kinds: per layer, what its configuration calls this kind of attention; empty if it has no names for them.
        hidden_size, vocab_size: widths.
        context: the most positions that it supports and that are rotated the same whatever follows them.
    """

    name: str
    layers: tuple[LayerParts, ...]
    windows: tuple[int | None, ...]
    kinds: tuple[str, ...]
    hidden_size: int
    vocab_size: int
    context: int


def examine(model: PreTrainedModel) -> Anatomy:
    """Learn the structure of `model` by running a few tokens through it once.

    Raises:
        UnsupportedModelError: not a decoder, keeps state that cannot be rolled back by position, or runs its layers in
            a way that cannot be followed; the message says which.
    """
    name = type(model).__name__
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder; only decoder-only language models are supported")
    if model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no language-model head; load it as a causal language model")
    missing = next((weights for weights, tensor in model.named_parameters() if tensor.is_meta), None)
    if missing is not None:
        raise UnsupportedModelError(
            f"{name} has weights without memory ({missing} is on the meta device: offloaded or never loaded); "
            "load the whole model onto one device"
        )
    windows = _windows(name, model, config)
    blocks = _decoder_layers(name, model, len(windows))
    layers, vocab_size = _probe(name, model, blocks, windows, config)
    return Anatomy(
        name=name,
        layers=layers,
        windows=windows,
        kinds=tuple(getattr(config, "layer_types", None) or ()),
        hidden_size=config.hidden_size,
        vocab_size=vocab_size,
        context=_context(config),
    )


def probe_tokens(model: PreTrainedModel, count: int) -> list[int]:
    """Ordinary token ids, the same on every call, that avoid the ids a configuration gives a meaning to."""
    config = model.config.get_text_config(decoder=True)
    named = [v for c in (config, model.config) for k, v in c.to_dict().items() if k.endswith("token_id")]
    special = {token for ids in named for token in (ids if isinstance(ids, list) else [ids])}
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(config.vocab_size, (8 * count + 64,), generator=generator).tolist()
    return [token for token in drawn if token not in special][:count]


def _context(config: Any) -> int:
    """How long a text may grow without changing how its first tokens are rotated.

    LongRoPE rotates every position by other factors once the text is longer than in pretraining. What is cached by then
    is rotated by the old ones, so crossing that length is not plain decoding token by token.
    """
    longest = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") == "longrope":
            longest = min(longest, int(parameters["original_max_position_embeddings"]))
    return longest


def _windows(name: str, model: PreTrainedModel, config: Any) -> tuple[int | None, ...]:
    """Each layer's sliding window, read from the cache transformers itself would build."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if "chunked_attention" in kinds:
        raise UnsupportedModelError(f"{name} uses chunked attention, which this version cannot roll back exactly")
    windows: list[int | None] = []
    for index, layer in enumerate(DynamicCache(config=config).layers):
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            windows.append(layer.sliding_window)
        elif type(layer).__name__ == "DummyLayer":  # by name: older versions of transformers have no such class
            raise UnsupportedModelError(
                f"{name}: layer {index} keeps no keys and values of its own, so the layers cannot be skipped one by one"
            )
        else:
            kind = config.layer_types[index] if kinds else type(layer).__name__
            raise UnsupportedModelError(
                f"{name} keeps state in layer {index} ({kind}) that cannot be rolled back by position: "
                "models with recurrent or compressed state are not supported"
            )
    # Some classes are marked as stateful for what other configurations of theirs keep; the layer types tell.
    if (getattr(model, "_is_stateful", False) and not kinds) or not windows:
        raise UnsupportedModelError(f"{name} keeps recurrent state, which cannot be rolled back by position")
    return tuple(windows)


def _decoder_layers(name: str, model: PreTrainedModel, count: int) -> nn.ModuleList:
    # The decoder comes first: a vision tower beside it may have as many layers.
    for root in (model.get_decoder(), model.base_model):
        for module in root.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
    raise UnsupportedModelError(
        f"{name}: no list of {count} decoder layers, one for each layer of its cache, found inside it"
    )


class _SpyCache(PositionedCache):
    """Notes which modules are running when a layer writes its keys and values."""

    def __init__(self, windows: tuple[int | None, ...], running: list[nn.Module]) -> None:
        super().__init__(list(windows), PROBE_TOKENS)
        self.running = running
        self.writers: dict[int, list[nn.Module]] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.writers[layer_idx] = list(self.running)
        layer: PositionedLayer = self.layers[layer_idx]
        return layer.update(key_states, value_states)


class _Call:
    """What one call of a module returned, and a copy of the first value as it was then."""

    def __init__(self, output: Any) -> None:
        self.returns = len(output) if isinstance(output, tuple) else 0
        self.first = output[0] if self.returns else output
        self.copy = self.first.clone() if isinstance(self.first, torch.Tensor) else None


_Calls = dict[nn.Module, list[_Call]]


@contextmanager
def _followed(blocks: nn.ModuleList, running: list[nn.Module], calls: _Calls) -> Iterator[None]:
    """Keep `running` the stack of active layers and their direct children, and collect what each returns."""

    def enter(module: nn.Module, *_: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        running.pop()
        calls.setdefault(module, []).append(_Call(output))

    with ExitStack() as hooks:
        for block in blocks:
            for module in (block, *block.children()):
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield


def _probe(
    name: str, model: PreTrainedModel, blocks: nn.ModuleList, windows: tuple[int | None, ...], config: Any
) -> tuple[tuple[LayerParts, ...], int]:
    running: list[nn.Module] = []
    calls: _Calls = {}
    cache = _SpyCache(windows, running)
    tokens = torch.tensor([probe_tokens(model, PROBE_TOKENS)], device=model.device)
    positions = torch.arange(PROBE_TOKENS, device=model.device)[None]
    with torch.no_grad(), _followed(blocks, running, calls):
        try:
            result = model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True)
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"{name} does not run on a cache indexed by position ({type(error).__name__}: {error})"
            ) from error
    order = [block for block in calls if any(block is b for b in blocks)]
    if order != list(blocks) or any(len(calls[block]) != 1 for block in blocks):
        raise UnsupportedModelError(f"{name} does not run its {len(blocks)} decoder layers once each, in order")
    parts = tuple(
        _layer_parts(name, index, block, cache.writers.get(index, []), calls, config.hidden_size)
        for index, block in enumerate(blocks)
    )
    return parts, result.logits.shape[-1]


def _layer_parts(
    name: str,
    index: int,
    block: nn.Module,
    writer: list[nn.Module],
    calls: _Calls,
    width: int,
) -> LayerParts:
    if len(writer) != 2 or writer[0] is not block:
        raise UnsupportedModelError(
            f"{name}: layer {index} has no attention module that keeps its own keys and values in the cache"
        )
    attention = writer[1]
    others = [child for child in block.children() if child is not attention and child in calls and _has_weights(child)]
    parts = [_part(module, calls[module][0], width) for module in (block, attention, *others)]
    once = all(len(calls[module]) == 1 for module in (block, attention, *others))
    if not once or parts[0] is None or parts[1] is None:
        raise UnsupportedModelError(f"{name}: layer {index} is not attention and MLP around one residual stream")
    mlp = tuple(part for part in parts[2:] if part is not None)
    if not mlp:
        raise UnsupportedModelError(f"{name}: layer {index} has no MLP module that puts out hidden states")
    return LayerParts(layer=parts[0], attention=parts[1], mlp=mlp)


def _has_weights(module: nn.Module) -> bool:
    """Whether it holds a matrix; quantised ones are often buffers."""
    return any(tensor.dim() > 1 for tensor in (*module.parameters(), *module.buffers()))


def _part(module: nn.Module, call: _Call, width: int) -> Part | None:
    """`module` as a part to switch off, if it puts out one hidden state a token, batch and tokens flattened or not."""
    if call.copy is None or call.copy.shape[-1:] != (width,) or call.copy.numel() != PROBE_TOKENS * width:
        return None
    return Part(module, call.returns, width, final=torch.equal(call.first, call.copy))
