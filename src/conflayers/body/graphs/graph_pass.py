"""A pass of a few tokens through all layers and the head as one graph of kernels.

Launching a few hundred kernels one by one takes an accelerator's host many times as long as a small model's weights
take to read. So the launches of a pass are recorded once, for each plan and size of pass, and from then on are one.
"""

import operator
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from conflayers.body.cache import PositionedCache
from conflayers.body.contract import Pass, Trace
from conflayers.body.graphs import launches
from conflayers.body.graphs.launches import CHUNK, GIVEN, MOST_PARTS, ROWS, recorded
from conflayers.body.graphs.products import Matrix
from conflayers.body.operators import RmsNorm
from conflayers.body.passes import Angles, Passes
from conflayers.body.sight import Sight
from conflayers.body.views import Product
from conflayers.body.weights import Form
from conflayers.plan import FULL, WHOLE, Plan

# How long a text is sooner done in short passes: seconds that a layer takes in a pass of torch's operators over up to
# some hundred tokens, to launch them, and in a short one, and bytes of weights a second, as measured on an H100.
TORCH_LAYER, LAYER, RATE = 0.35e-3, 25e-6, 2.6e12
# Graphs are recorded for passes over up to so many tokens.
SIZES = (1, 8, ROWS)
# Rows of caches come in multiples of the first: where one is made anew, all graphs are too. Of the second where so many
# take no more than this share of the device's memory.
CAPACITY, LARGE, SHARE = 1024, 4096, 1 / 64
# Graphs that are kept; each takes some memory.
MOST_GRAPHS = 256
# Heads that the kernels have room for.
WIDEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class _Size:
    """What a graph is for: up to so many tokens, and whether they are no text."""

    rows: int
    mapped: bool


class _Buffers:
    """Where passes have their states, at the same place in every one.

    Attributes:
        given, placed: see order.py.
        parts: what a sublayer adds, in parts, [most parts, ROWS, hidden].
        added: what every sublayer adds, attention and MLP in turns, [2 * layers, ROWS, hidden].
    """

    def __init__(self, form: Form, like: torch.Tensor, heads: int, kv_heads: int, width: int) -> None:
        products: list[Any] = list(form.products())
        hidden, inner, outs = like.shape[1], products[3].ins, products[-1].outs

        def rows(*shape: int, dtype: torch.dtype = like.dtype) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=like.device)

        self.given, self.placed = rows(GIVEN, dtype=torch.int32), rows(ROWS, ROWS, dtype=torch.int32)
        self.states, self.normed = rows(ROWS, hidden), rows(ROWS, hidden)
        self.mixed = rows(ROWS, (heads + 2 * kv_heads) * width)
        self.queries, self.attended = rows(ROWS, heads, width), rows(ROWS, heads * width)
        self.parts, self.gated = rows(MOST_PARTS, ROWS, hidden, dtype=torch.float32), rows(ROWS, inner)
        self.added, self.logits = rows(2 * len(form.layers), ROWS, hidden), rows(ROWS, outs)
        self._heads, self._width = heads, width

    def chunks(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What attention over each chunk of so many columns comes to; see `attending.attend`."""
        count = -(-rows // CHUNK)
        sums = torch.empty(count, ROWS, self._heads, self._width, dtype=torch.float32, device=self.given.device)
        return sums, torch.empty_like(sums[..., 0]), torch.empty_like(sums[..., 0])


@dataclass(frozen=True, slots=True)
class _Place:
    """What all graphs read and write, for as long as it is there.

    Attributes:
        fits: whether the kernels can read and write there.
        chunks: see `_Buffers.chunks`.
        angles: of every position; None until they are known.
    """

    cache: weakref.ref[PositionedCache]
    fits: bool
    chunks: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    angles: tuple[torch.Tensor, torch.Tensor] | None = None


class GraphPass(Passes):
    """Passes over one model's forms whose products are all the accelerator's kernels'.

    Args:
        heads, kv_heads, width: of the attention.
        norm: of what goes into the head.
        embedding: [vocabulary, hidden].
    """

    recorded = True

    def __init__(self, heads: int, kv_heads: int, width: int, norm: RmsNorm, embedding: torch.Tensor) -> None:
        self.heads, self.kv_heads, self.width, self.norm, self.embedding = heads, kv_heads, width, norm, embedding
        self._runs: dict[int, Form | None] = {}
        self._texts = 0
        self._buffers: _Buffers | None = None
        self._place: _Place | None = None
        self._graphs: OrderedDict[tuple[int, Plan, _Size], Callable[[], None]] = OrderedDict()
        # Of these graphs, what `prepare` has seen to.
        self._prepared: set[tuple[int, Plan]] = set()
        # Kernels have to be compiled before they are recorded.
        self._compiled: set[tuple[int, _Size]] = set()

    def __reduce__(self) -> tuple[type["GraphPass"], tuple[int, int, int, RmsNorm, torch.Tensor]]:
        return GraphPass, (self.heads, self.kv_heads, self.width, self.norm, self.embedding)

    @property
    def texts(self) -> int:
        """See `Passes`."""
        return self._texts

    def runs(self, form: Form) -> bool:
        """See `Passes`."""
        if id(form) not in self._runs:
            ours = self.width <= WIDEST_HEAD and self.width % 2 == 0 and self.embedding.is_contiguous()
            ours = ours and all(isinstance(one, Matrix) for one in form.products()) and self._uniform(form)
            self._runs[id(form)] = form if ours else None
            if ours and not self._texts:
                size = sum(matrix.weight.nbytes for matrix in form.products() if isinstance(matrix, Matrix))
                count = len(form.layers)
                self._texts = ROWS * max(int(count * TORCH_LAYER / (count * LAYER + size / RATE)), 1)
        return self._runs[id(form)] is not None

    def _uniform(self, form: Form) -> bool:
        """Whether all layers have one shape: whoever prunes a model may leave it some of another width."""
        products: list[Any] = list(form.products())
        hidden, asked, inner = self.embedding.shape[1], self.heads * self.width, products[3].ins
        mixed = asked + 2 * self.kv_heads * self.width
        wanted = [(hidden, mixed), (asked, hidden), (hidden, 2 * inner), (inner, hidden)] * len(form.layers)
        return products[-1].ins == hidden and [(one.ins, one.outs) for one in products[:-1]] == wanted

    def capacity(self, tokens: int) -> int:
        """See `Passes`."""
        device, layers = self.embedding.device, max(len(form.layers) for form in self._runs.values() if form)
        large = 2 * layers * LARGE * self.kv_heads * self.width * self.embedding.element_size()
        free = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        step = LARGE if large <= SHARE * free else CAPACITY
        return -(-tokens // step) * step

    def takes(self, cache: PositionedCache) -> bool:
        """See `Passes`."""
        if self._place is None or self._place.cache() is not cache:
            self.forget()
            # Whoever loads a model in inference mode may use it outside, where such tensors cannot be written to.
            with torch.inference_mode(False):
                if self._buffers is None:
                    form = next(form for form in self._runs.values() if form is not None)
                    self._buffers = _Buffers(form, self.embedding, self.heads, self.kv_heads, self.width)
                self._place = _Place(weakref.ref(cache), self._fits(cache), self._buffers.chunks(cache.rows))
        return self._place.fits and not cache.is_aside

    def _fits(self, cache: PositionedCache) -> bool:
        nothing = self.norm.weight.new_empty(1, self.kv_heads, 0, self.width)
        for layer in cache.layers:
            if not layer.is_initialized:
                layer.lazy_initialization(nothing, nothing)
        # Whoever hands over a cache may have computed in another precision.
        wanted = self.embedding.dtype, self.embedding.device, (1, self.kv_heads, cache.rows, self.width)
        parts = [one for layer in cache.layers for one in (layer.keys, layer.values)]
        return all((one.dtype, one.device, one.shape) == wanted and one.is_contiguous() for one in parts)

    @property
    def bytes(self) -> int:
        """See `Passes`."""
        held = [] if self._buffers is None else [one for one in vars(self._buffers).values() if torch.is_tensor(one)]
        return sum(one.nbytes for one in (*held, *(self._place.chunks if self._place else ())))

    def forget(self) -> None:
        """See `Passes`."""
        self._graphs.clear()
        self._prepared.clear()
        self._place = None

    def prepare(self, form: Form, plan: Plan, angles: Angles, cache: PositionedCache) -> None:
        """See `Passes`."""
        # Asked before every draft.
        if not self.takes(cache) or (id(form), plan) in self._prepared:
            return
        sizes = [_Size(rows, mapped) for rows in SIZES for mapped in (False, True) if rows > 1 or not mapped]
        with launches.on(self.embedding.device):
            # Only the whole model runs over several tokens again and again; drafts do where they are looked at.
            for size in sizes if plan == FULL else sizes[:1]:
                self._graph(form, plan, size, angles, cache)
            for size in sizes if plan.at(WHOLE) == FULL else ():
                self._compile(form, size, cache)
        self._prepared.add((id(form), plan))

    def __call__(
        self,
        form: Form,
        plan: Plan,
        tokens: Sequence[int],
        sight: Sight,
        angles: Angles,
        cache: PositionedCache,
        wanted: int,
        traced: int,
    ) -> Pass:
        """See `Passes`."""
        self.check_tokens(tokens)
        assert self._buffers is not None
        count = len(tokens)
        size = _Size(next(size for size in SIZES if size >= count), sight.behind is not None)
        with launches.on(self.embedding.device):
            run = self._graph(form, plan, size, angles, cache)
            self._give(tokens, sight)
            run()
            # The next pass writes to the same places.
            logits = self._buffers.logits[count - wanted : count].clone()
            trace = self._trace(plan, len(form.layers), count, traced) if traced else None
        return Pass(logits, trace)

    def _give(self, tokens: Sequence[int], sight: Sight) -> None:
        """Write what the pass is over to where the kernels read it."""
        assert self._buffers is not None
        rest = [0] * (ROWS - len(tokens))
        # One list, since every small operator here is time in which nothing else happens.
        given = [len(tokens), sight.length]
        given += [*tokens, *rest, *(position + 1 for position in sight.positions), *rest, *sight.based, *rest]
        self._buffers.given.copy_(torch.tensor(given, dtype=torch.int32, device="cpu"), non_blocking=True)
        if sight.behind is not None:
            placed = [[*behind, *[0] * (ROWS - len(behind))] for behind in sight.behind]
            self._buffers.placed[: len(placed)].copy_(torch.tensor(placed, dtype=torch.int32, device="cpu"))

    def _graph(self, form: Form, plan: Plan, size: _Size, angles: Angles, cache: PositionedCache) -> Callable[[], None]:
        """The launches of a pass as one, recorded unless they are."""
        assert self._buffers is not None
        assert self._place is not None
        if self._place.angles is None or any(map(operator.is_not, angles, self._place.angles)):
            self._graphs.clear()
            self._prepared.clear()
            self._place = replace(self._place, angles=angles)
        key = (id(form), plan, size)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        self._compile(form, size, cache)
        self._graphs[key] = recorded(partial(self._launch, form, plan, size, cache), self.embedding.device)
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[key]

    def _compile(self, form: Form, size: _Size, cache: PositionedCache) -> None:
        """Have all kernels of such passes compiled, or read from where Triton keeps them."""
        if (id(form), size) not in self._compiled:
            assert self._buffers is not None
            # Over no token: nothing is written.
            self._buffers.given.zero_()
            self._launch(form, FULL, size, cache)
            self._compiled.add((id(form), size))

    def _launch(self, form: Form, plan: Plan, size: _Size, cache: PositionedCache) -> None:
        """The kernels of a pass, one after the other."""
        at, place, rows = self._buffers, self._place, size.rows
        assert at is not None
        assert place is not None
        assert place.angles is not None
        # What the last sublayer adds is added by the norm that follows.
        parts = added = None
        launches.embed(at.given, self.embedding, at.states, rows)
        for index, layer in enumerate(form.layers):
            if index not in plan.attention:
                held: Any = cache.layers[index]
                keys, values = held.keys, held.values
                launches.norm(at.given, at.states, parts, added, layer.norm, at.normed, rows)
                _multiply(at, layer.qkv, at.normed, at.mixed, rows)
                launches.turn(
                    at.given, at.mixed, place.angles, layer.rotated, layer.head_norms, at.queries, keys, values, rows
                )
                launches.attend(
                    at.given, at.placed, at.queries, keys, values, place.chunks, at.attended, rows, size.mapped
                )
                parts, added = _multiply(at, layer.out, at.attended, None, rows), at.added[2 * index]
            if index not in plan.mlp:
                launches.norm(at.given, at.states, parts, added, layer.mlp_norm, at.normed, rows)
                _multiply(at, layer.gate_up, at.normed, at.gated, rows, gated=True)
                parts, added = _multiply(at, layer.down, at.gated, None, rows), at.added[2 * index + 1]
        launches.norm(at.given, at.states, parts, added, self.norm, at.normed, rows)
        _multiply(at, form.head, at.normed, at.logits, rows)

    def _trace(self, plan: Plan, layers: int, count: int, traced: int) -> Trace:
        assert self._buffers is not None
        kept = self._buffers.added[:, count - traced : count].clone()
        return Trace(
            [kept[2 * index] for index in range(layers) if index not in plan.attention],
            [kept[2 * index + 1] for index in range(layers) if index not in plan.mlp],
        )


def _multiply(
    at: _Buffers, product: Product, states: torch.Tensor, out: torch.Tensor | None, rows: int, gated: bool = False
) -> torch.Tensor:
    """Where the product is put: in `out`, or in parts if that is None."""
    assert isinstance(product, Matrix)
    if out is None:
        out = at.parts[: launches.parts(product)]
    launches.multiply(at.given, product, states, out, rows, gated)
    return out
