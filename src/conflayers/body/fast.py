"""The body for the Llama family: the portable body's contract, with few operators of our own in place of its forward.

Llama 2 and 3, CodeLlama, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3 are one computation: pre-norm layers of attention
with rotated queries and keys, and a gated MLP. Here it takes one product for queries, keys and values and one for gate
and up; every key-value head is read once, its query heads being rows beside each other; and a sublayer that is skipped
is not called, without a module being replaced.

What is cached, masks, positions and everything else is the portable body's, and every model that is not exactly this is
left to it. The self-test compares with the model's own forward at every load.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from conflayers.body.anatomy import Anatomy
from conflayers.body.contract import ATTENTION, MLP, Pass, Step, Trace
from conflayers.body.fingerprint import Fingerprint
from conflayers.body.graphs.graph_pass import GraphPass
from conflayers.body.graphs.products import Matrix
from conflayers.body.kernels import NoKernelsError
from conflayers.body.linears import hooks_of
from conflayers.body.llama import FastLayer, why_not
from conflayers.body.native import Native
from conflayers.body.operators import SHORT, Operators, Seen
from conflayers.body.short_passes import ShortPasses
from conflayers.body.steady import MOST_ROWS, attention_steady
from conflayers.body.trees import later_mask, text_mask
from conflayers.body.views import VIEWS
from conflayers.body.weights import Form, read_weights
from conflayers.plan import FULL, NOTHING, WHOLE, Plan

Masks = torch.Tensor | Mapping[str, torch.Tensor] | None


class FastBody(ShortPasses):
    """Drives a model of the Llama family by position; see the module's docstring and `contract.Body`."""

    kind = "fast"

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy | None = None, layout: str = "auto") -> None:
        super().__init__(model, anatomy)
        self.layout = layout
        self._windows = set(self.anatomy.windows)
        self._branches = 1
        # The plan that was last found to fit the model.
        self._checked = FULL
        self._torch = Operators(self._heads, self._kv_heads, self._width)
        self._native: Native | None = None
        self._seen_weights: Fingerprint | None = None
        self._steady = self._whole_steady = self._was_fast = False
        self._hooks: list[Mapping[int, Any]] = []
        self._later = torch.empty(0)
        self._read_weights()

    @property
    def fast(self) -> bool:
        """Whether passes are this body's own; else, since the model was changed, the portable body's.

        So under autocast, where operators choose their own precision. Drafts are as the last pass of the whole model
        was: there are hundreds of modules that somebody may listen to.
        """
        if self._plan is FULL:
            autocast = torch.is_autocast_enabled(self._device.type)
            self._was_fast = self._weights is not None and not any(self._hooks) and not autocast
        return self._was_fast

    @property
    def steady(self) -> bool:
        """Whether a chain of up to `steady.MOST_ROWS` tokens has the logits of one-token passes, bit for bit.

        Only with full attention: where a layer sees a window, its rows begin at another one for every token.
        """
        return self.fast and (self._steady if self._short(1) is None else self._whole_steady)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions besides the whole that drafts can have."""
        return tuple(name for name, why in self.why_not_precise().items() if why is None)

    def why_not_precise(self) -> dict[str, str | None]:
        """By precision, why drafts cannot have it, in words; None where they can."""
        if torch.is_autocast_enabled(self._device.type):
            return dict.fromkeys(VIEWS, "under autocast the model runs its own modules")
        if self._weights is None or not self.fast:
            return super().why_not_precise()
        if isinstance(self._weights.target.head, Matrix) and self._whole is None:
            return dict.fromkeys(
                VIEWS, "passes are torch's operators here, which lower precision would not make faster"
            )
        return {precision: self._weights.why_not(precision) for precision in VIEWS}

    def quick(self) -> tuple[str, ...]:
        """See `contract.Body.quick`."""
        return self._weights.quick() if self._weights is not None and self.precisions else ()

    @property
    def extra_bytes(self) -> int:
        """Memory held beside the model's own weights and the cache."""
        held = 0 if self._whole is None else self._whole.bytes
        return held + self._weights.extra_bytes if self._weights is not None else 0

    @property
    def why_not_compiled(self) -> str | None:
        """See `PortableBody.why_not_compiled`."""
        if not self.fast:
            return super().why_not_compiled
        return None if isinstance(self._whole, GraphPass) else self._why_not_compiled

    @property
    def key_shape(self) -> tuple[int, int] | None:
        """See `PortableBody.key_shape`."""
        return self._kv_heads, self._width

    def _kernels(self) -> tuple[Native | None, str | None]:
        """The compiled operators for short passes, or why there are none, in words."""
        try:
            shape = (self._heads, self._kv_heads, self._width)
            return Native(*shape, self.model.dtype, self.model.device), None
        except NoKernelsError as error:
            return None, str(error)

    def prepare(self, plan: Plan) -> None:
        """Make what drafts by `plan` need, which else is made by the first of them."""
        if self._weights is not None and self.fast and plan.precision != NOTHING:
            plan.check(self.layers)
            self.check_precision(plan)
            self._weights.form(plan.precision)
            self._ready(plan)

    def _read_weights(self) -> None:
        """Look at the model as it is now: somebody may have exchanged weights, or added adapters or hooks."""
        model: Any = self.model
        if why_not(model) is not None:
            self._weights = self._whole = self._seen_weights = None
        elif self._seen_weights is None or not self._seen_weights.still(model):
            # The old ones are let go before new ones are made.
            self._weights = self._whole = None
            self._weights = read_weights(model, self.layout)
            # Whoever insisted on a layout did so for the weights there were.
            self.layout = "plain" if self.layout == "plain" else "auto"
            self._seen_weights = Fingerprint.of(model)
            self._native, self._why_not_compiled = self._kernels()
            compiled = self._native is not None
            self._whole = self._passes(self._weights, compiled) if self._windows == {None} else None
            self._later, self._angles = torch.empty(0), (torch.empty(0), torch.empty(0))
            shape = (self._heads, self._kv_heads, self._width, model.dtype, model.device)
            self._steady = self._weights.steady and self._windows == {None} and attention_steady(*shape)
            self._steady = self._steady and (self._native is None or self._native.steady())
            self._whole_steady = self._look_at_passes()
            # Who listens in the middle of a request is heard from the next pass on.
            self._hooks = [hooks for module in model.modules() for hooks in hooks_of(module)]

    def reserve(self, capacity: int) -> None:
        """See `contract.Body.reserve`."""
        self._read_weights()
        super().reserve(capacity)
        # A draft may come before any pass of the whole model.
        self._was_fast = self.fast
        if len(self._angles[0]) < self._cache.rows:
            self._tables(self._cache.rows)
        self._ready(FULL)

    def _tables(self, count: int) -> None:
        """The model's own rotations of so many positions, and what texts take their masks from."""
        model: Any = self.model
        positions = torch.arange(count, device=model.device)[None]
        cos, sin = model.model.rotary_emb(model.model.norm.weight[:1], positions)
        # The sine carries the sign, so that one roll does the rest.
        half = sin.shape[-1] // 2
        self._angles = (cos[0].contiguous(), torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1))
        self._later = later_mask(MOST_ROWS, count, model.dtype).to(model.device)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """Inside this context `forward` leaves out what `plan` skips."""
        before, self._plan = self._plan, plan
        try:
            if plan is not self._checked:
                plan.check(self.layers)
                self._checked = plan
            if self.fast:
                self.check_precision(plan)
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
            # Who has just changed the model gets drafts of its own modules, in their own precision.
            with super().running(self._plan.at(WHOLE)):
                return super()._run(arguments, count, wanted, record)
        assert self._weights is not None
        form = self._weights.form(self._plan.precision)
        states = functional.embedding(arguments["input_ids"][0], self._weights.embedding)
        kept = min(record, count)
        trace = Trace([], [])
        # A draft need not be steady.
        steady = self._plan == FULL and self.steady and not self._cache.is_aside
        with self._cache.in_steps() if steady else nullcontext():
            states = self._through(form, states, self._seen(arguments, count), kept, trace, wanted)
        if not self._cache.is_aside:
            self._cache.advance(count)
        return Pass(form.head(states), trace if kept else None)

    def _through(
        self, form: Form, states: torch.Tensor, seen: Seen, kept: int, trace: Trace, wanted: int
    ) -> torch.Tensor:
        """States [tokens, hidden] through all layers that run; of what they add, the last `kept` rows are traced.

        Returns:
            The last `wanted` rows of what goes into the head.
        """
        assert self._weights is not None
        # What the last sublayer adds is added by the norm that follows.
        added = None
        few = len(states) <= SHORT and not self._cache.is_aside
        run = self._native if self._native and few else self._torch
        for index, layer in enumerate(form.layers):
            if self._step is not None:
                states = self._stepped(index, layer, states, seen)
                continue
            if index not in self._plan.attention:
                added = self._attention(index, layer, run.norm(states, layer.norm, added), seen, run)
                if kept:
                    trace.attention.append(added[-kept:].clone())
            if index not in self._plan.mlp:
                added = layer.down(run.gated(layer.gate_up(run.norm(states, layer.mlp_norm, added))))
                if kept:
                    trace.mlp.append(added[-kept:].clone())
        return run.norm(states[-wanted:], self._weights.norm, None if added is None else added[-wanted:])

    def _seen(self, arguments: Mapping[str, Any], count: int) -> Seen:
        """What attention needs beside states."""
        positions, mask = arguments["position_ids"][0], arguments["attention_mask"]
        cos, sin = (table.index_select(0, positions)[:, None] for table in self._angles)
        return Seen(
            positions=positions,
            angles=(cos, sin),
            chain=mask is None,
            whole=mask is None and self._cache.length == 0 and count > 1,
            biased=lambda window: self._bias(window, mask, count),
            group=self._heads // self._kv_heads,
            steady=self._cache.step > 1,
        )

    def _bias(self, window: int | None, mask: Masks, count: int) -> torch.Tensor | None:
        """What to add to the scores, [tokens, columns]; None where one token sees all that the cache returns."""
        length, whole_steps = self._cache.length, self._cache.step > 1
        columns = self._cache.rounded(length + count)
        if mask is None and count == 1 and not whole_steps:
            return None
        if mask is not None:
            one = (mask if isinstance(mask, torch.Tensor) else mask[self._kind(window)])[0, 0]
            # Nobody sees rows behind the last.
            if behind := columns - length - count if whole_steps else 0:
                one = functional.pad(one, (0, behind), value=torch.finfo(one.dtype).min)
        elif window is None and count <= MOST_ROWS:
            one = self._later[:count, self._later.shape[1] // 2 - length :][:, :columns]
        else:
            one = text_mask(count, length, window, self.model.dtype)[0, 0].to(self.model.device)
            if columns > one.shape[1] and window is None:
                one = functional.pad(one, (0, columns - one.shape[1]), value=torch.finfo(one.dtype).min)
        return one

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

    def _stepped(self, index: int, layer: FastLayer, states: torch.Tensor, seen: Seen) -> torch.Tensor:
        """One layer as `walk` is told to run it."""
        assert self._step is not None
        shape = (self._branches, -1, states.shape[-1])

        def run(given: torch.Tensor, part: str) -> torch.Tensor:
            flat = given.reshape(states.shape)
            if part != MLP:
                flat = flat + self._attention(index, layer, layer.norm(flat), seen, self._torch)
            if part != ATTENTION:
                flat = flat + layer.down(self._torch.gated(layer.gate_up(layer.mlp_norm(flat))))
            return flat.reshape(given.shape)

        return self._step(index, states.reshape(shape), run).reshape(states.shape)

    def _attention(
        self, index: int, layer: FastLayer, normed: torch.Tensor, seen: Seen, run: Operators
    ) -> torch.Tensor:
        """What the attention adds for states [tokens, hidden], normed; its keys and values go into the cache."""
        cached = self._cache.layers[index]
        parts = run.turn(layer.qkv(normed), layer.head_norms, seen.angles if layer.rotated else None, cached)
        return layer.out(run.attend(*parts, cached, seen))
