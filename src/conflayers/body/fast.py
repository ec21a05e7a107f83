"""The body for the Llama family: the portable body's contract, with few operators of our own in place of its forward.

Llama 2 and 3, CodeLlama, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3 are one computation: pre-norm layers of attention
with rotated queries and keys, and a gated MLP. Here it takes one product for queries, keys and values and one for gate
and up; every key-value head is read once, its query heads being rows beside each other; and a sublayer that is skipped
is not called, without a module being replaced.

What is cached, masks, positions and everything else is the portable body's, and every model that is not exactly this is
left to it. The self-test compares with the model's own forward at every load.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from conflayers.body.anatomy import Anatomy
from conflayers.body.cache import PositionedLayer
from conflayers.body.contract import ATTENTION, MLP, Pass, Step, Trace
from conflayers.body.linears import hooks_of, owned, single
from conflayers.body.llama import FastLayer, read_layer, why_not
from conflayers.body.portable import PortableBody
from conflayers.body.trees import text_mask
from conflayers.plan import FULL, Plan


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the attention of every layer needs to know of the tokens.

    Attributes:
        cos, sin: [tokens, 1, head_dim]; the sine carries the sign of the rotation.
        bias: by sliding window, what to add to the scores, [query heads of one key-value head * tokens, columns].
        whole: whether the tokens are a text that begins with them.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    bias: Mapping[int | None, torch.Tensor]
    whole: bool


Masks = torch.Tensor | Mapping[str, torch.Tensor] | None


class FastBody(PortableBody):
    """Drives a model of the Llama family by position; see the module's docstring and `contract.Body`."""

    kind = "fast"

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy | None = None) -> None:
        super().__init__(model, anatomy)
        config: Any = model.config
        self._plan = FULL
        self._step: Step | None = None
        self._branches = 1
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps = config.rms_norm_eps
        self._hidden = (config.hidden_size,)
        self._layers: list[FastLayer] = []
        self._addresses: tuple[int, ...] = ()
        self._hooks: list[Mapping[int, Any]] = []
        self._cos = self._sin = torch.empty(0)
        self._read_weights()

    @property
    def fast(self) -> bool:
        """Whether passes are this body's own; else, since the model was changed, the portable body's."""
        return bool(self._layers) and not any(self._hooks)

    def _read_weights(self) -> None:
        """Look at the model as it is now: somebody may have exchanged weights, or added adapters or hooks."""
        model: Any = self.model
        addresses = tuple(parameter.data_ptr() for parameter in model.parameters())
        if why_not(model) is not None:
            self._layers, self._addresses = [], ()
        elif addresses != self._addresses:
            self._layers = [read_layer(layer) for layer in model.model.layers]
            self._norm = owned(model.model.norm.weight)
            self._head, embedding = single(model.lm_head), model.model.embed_tokens.weight
            self._embedding = self._head.weight if embedding is model.lm_head.weight else owned(embedding)
            self._addresses = tuple(parameter.data_ptr() for parameter in model.parameters())
            # Who listens in the middle of a request is heard from the next pass on.
            self._hooks = [hooks for module in model.modules() for hooks in hooks_of(module)]

    def reserve(self, capacity: int) -> None:
        """See `contract.Body.reserve`."""
        self._read_weights()
        super().reserve(capacity)
        if len(self._cos) < self._cache.capacity:
            self._rotations(self._cache.capacity)

    def _rotations(self, count: int) -> None:
        """A table of the model's own rotations. The sine carries the sign, so that one roll does the rest."""
        model: Any = self.model
        positions = torch.arange(count, device=model.device)[None]
        cos, sin = model.model.rotary_emb(self._embedding[:1], positions)
        self._cos, half = cos[0], sin.shape[-1] // 2
        self._sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """Inside this context `forward` leaves out what `plan` skips."""
        plan.check(self.layers)
        before, self._plan = self._plan, plan
        try:
            yield
        finally:
            self._plan = before

    def put_back(self) -> None:
        """Switch on whatever an interrupt left switched off."""
        super().put_back()
        self._plan, self._step = FULL, None

    def _run(self, arguments: Mapping[str, Any], count: int, wanted: int, record: int) -> Pass:
        """One pass; see `PortableBody._run`."""
        if not self.fast or arguments.keys() - {"input_ids", "position_ids", "attention_mask"}:
            with super().running(self._plan):
                return super()._run(arguments, count, wanted, record)
        states = functional.embedding(arguments["input_ids"][0], self._embedding)
        seen = self._seen(arguments["position_ids"][0], arguments["attention_mask"], count)
        kept = min(record, count)
        trace = Trace([], [])
        for index, layer in enumerate(self._layers):
            if self._step is not None:
                states = self._stepped(index, layer, states, seen)
                continue
            if index not in self._plan.attention:
                added = self._attention(index, layer, states, seen)
                states = states + added
                if kept:
                    trace.attention.append(added[-kept:].clone())
            if index not in self._plan.mlp:
                added = self._mlp(layer, states)
                states = states + added
                if kept:
                    trace.mlp.append(added[-kept:].clone())
        if not self._cache.is_aside:
            self._cache.advance(count)
        return Pass(self._logits(states[-wanted:]), trace if kept else None)

    def _seen(self, positions: torch.Tensor, mask: Masks, count: int) -> _Seen:
        """What attention needs beside states: the rotation, and what to add to the scores by sliding window."""
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        # A prompt is the kernel's own case, and one token sees all that the cache returns.
        whole = mask is None and self._cache.length == 0 and count > 1
        group, found = self._heads // self._kv_heads, {}
        for window in set(self.anatomy.windows) if mask is not None or count > 1 else ():
            if whole and window is None:
                continue
            if mask is None:
                one = text_mask(count, self._cache.length, window, self.model.dtype).to(self.model.device)
            else:
                one = mask if isinstance(mask, torch.Tensor) else mask[self._kind(window)]
            found[window] = one[0, 0].repeat(group, 1)
        return _Seen(cos, sin, found, whole)

    def _kind(self, window: int | None) -> str:
        return self.anatomy.kinds[self.anatomy.windows.index(window)]

    def walk(self, tokens: Sequence[int], branches: int, step: Step) -> torch.Tensor:
        """The last cached tokens once more, in several branches; see `contract.Body.walk`."""
        if not self.fast:
            return super().walk(tokens, branches, step)
        count = len(tokens)
        parents = [-1 if i % count == 0 else i - 1 for i in range(branches * count)]
        self._step, self._branches = step, branches
        try:
            with self.aside(self.length - count):
                logits = self.forward([*tokens] * branches, parents=parents).logits
        finally:
            self._step = None
        return logits.view(branches, count, -1)

    def _stepped(self, index: int, layer: FastLayer, states: torch.Tensor, seen: _Seen) -> torch.Tensor:
        """One layer as `walk` is told to run it."""
        assert self._step is not None
        shape = (self._branches, -1, states.shape[-1])

        def run(given: torch.Tensor, part: str) -> torch.Tensor:
            flat = given.reshape(states.shape)
            if part != MLP:
                flat = flat + self._attention(index, layer, flat, seen)
            if part != ATTENTION:
                flat = flat + self._mlp(layer, flat)
            return flat.reshape(given.shape)

        return self._step(index, states.reshape(shape), run).reshape(states.shape)

    def _attention(self, index: int, layer: FastLayer, states: torch.Tensor, seen: _Seen) -> torch.Tensor:
        """What the attention adds to states [tokens, hidden]; its keys and values go into the cache."""
        count, heads, kv_heads, width = len(states), self._heads, self._kv_heads, self._width
        normed = functional.rms_norm(states, self._hidden, layer.norm, self._eps)
        mixed = layer.qkv(normed).view(count, heads + 2 * kv_heads, width)
        turned = mixed[:, : heads + kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            queries, keys = torch.split(turned, [heads, kv_heads], 1)
            queries = functional.rms_norm(queries, (width,), layer.q_norm, self._eps)
            turned = torch.cat([queries, functional.rms_norm(keys, (width,), layer.k_norm, self._eps)], 1)
        if layer.rotated:
            turned = turned * seen.cos + turned.roll(width // 2, -1) * seen.sin
        # Tokens last but one, as the cache has them.
        heads_first = turned.transpose(0, 1)[None]
        cached: PositionedLayer = self._cache.layers[index]
        keys, values = cached.update(heads_first[:, heads:], mixed[:, heads + kv_heads :].transpose(0, 1)[None])
        if seen.whole and cached.window is None:
            out = functional.scaled_dot_product_attention(
                heads_first[:, :heads], keys, values, is_causal=True, enable_gqa=heads != kv_heads
            )
        else:
            # The query heads of one key-value head are rows beside each other, so that it is read once.
            queries = heads_first[:, :heads].reshape(1, kv_heads, -1, width)
            out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen.bias.get(cached.window))
        return layer.out(out.view(heads, count, width).transpose(0, 1).reshape(count, heads * width))

    def _mlp(self, layer: FastLayer, states: torch.Tensor) -> torch.Tensor:
        """What the MLP adds to states [tokens, hidden]."""
        gate, up = layer.gate_up(functional.rms_norm(states, self._hidden, layer.mlp_norm, self._eps)).chunk(2, -1)
        return layer.down(functional.silu(gate) * up)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self._head(functional.rms_norm(states, self._hidden, self._norm, self._eps))
