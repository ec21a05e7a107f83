"""A pass of a few tokens through all layers and the head as one call of the compiled kernels.

What launching a few hundred operators takes is a fifth of a small model's pass; and threads that stay in one call meet
far sooner than those that are called anew for every product.
"""

import ctypes
import math
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from conflayers.body import kernels
from conflayers.body.cache import PositionedCache
from conflayers.body.contract import Best, Following, Pass, Trace
from conflayers.body.native import ATTENDED
from conflayers.body.operators import SHORT, RmsNorm
from conflayers.body.pass_records import Layer, PassRecord, records
from conflayers.body.passes import Angles, Passes
from conflayers.body.products import Plain, Record, Rounded
from conflayers.body.sight import Sight
from conflayers.body.weights import Form
from conflayers.plan import Plan

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
# Types are made once: to make one takes as long as a layer.
_COUNTS, _SHARES = _COUNT * SHORT, ctypes.c_float * SHORT
# Plans whose layers are known at a time.
PLANS = 16
# What a pass's time is spent on, as the kernels number it.
STAGES = ("products", "norms", "rotation", "attention", "gate", "waiting", "choice")


# Texts of up to so many tokens are run in short passes; longer ones are sooner done by torch's products over all of
# their tokens, which have tiles too, or vectors of floats. In bfloat16 without tiles torch has nothing that is faster.
TEXTS = {torch.bfloat16: 1 << 30, torch.float32: 2 * SHORT}
TEXTS_BY_TILES = 4 * SHORT


@dataclass(slots=True)
class _Prepared:
    """A form as the kernels know it, for as long as the form is there.

    Attributes:
        given: what all passes over it are given; each adds what is its own. A body runs one at a time.
        runs: by plan, what of each layer runs.
    """

    form: Form
    layers: "ctypes.Array[Layer]"
    head: Record
    given: PassRecord
    runs: "dict[Plan, ctypes.Array[ctypes.c_uint8]]" = field(default_factory=dict)

    def runs_by(self, plan: Plan) -> "ctypes.Array[ctypes.c_uint8]":
        """Of every layer 1 where its attention runs and 2 where its MLP does."""
        if plan not in self.runs:
            if len(self.runs) == PLANS:
                self.runs.clear()
            count = self.given.layers
            runs = ((i not in plan.attention) + 2 * (i not in plan.mlp) for i in range(count))
            self.runs[plan] = (ctypes.c_uint8 * count)(*runs)
        return self.runs[plan]


@dataclass(slots=True)
class _Place:
    """Where a cache has its keys and values, for as long as it is there.

    Attributes:
        stride: how far two heads' rows lie apart.
        fits: whether the kernels can read and write there.
    """

    cache: weakref.ref[PositionedCache]
    keys: "ctypes.Array[ctypes.c_void_p]"
    values: "ctypes.Array[ctypes.c_void_p]"
    stride: int
    fits: bool


class WholePass(Passes):
    """Passes over one model's forms whose products are all the kernels' own.

    Args:
        heads, kv_heads, width: of the attention.
        norm: of what goes into the head.
        embedding: [vocabulary, hidden].
    """

    def __init__(self, heads: int, kv_heads: int, width: int, norm: RmsNorm, embedding: torch.Tensor) -> None:
        self.heads, self.kv_heads, self.width, self.norm, self.embedding = heads, kv_heads, width, norm, embedding
        # By a form's identity; None for those that cannot be run.
        self._prepared: dict[int, _Prepared | None] = {}
        self._place: _Place | None = None
        self._watched: tuple[ctypes.Array[ctypes.c_double], ctypes.Array[ctypes.c_double]] | None = None
        self._scratch = torch.empty(0, dtype=torch.uint8, device="cpu")
        # Of every token of a pass its id and position; of every wanted one what it says.
        self._ids, self._positions = _COUNTS(), _COUNTS()
        self._best, self._probabilities = _COUNTS(), _SHARES()
        self._said = embedding.new_empty(1, 0)

    def __reduce__(self) -> tuple[type["WholePass"], tuple[int, int, int, RmsNorm, torch.Tensor]]:
        return WholePass, (self.heads, self.kv_heads, self.width, self.norm, self.embedding)

    @property
    def texts(self) -> int:
        """See `Passes`."""
        found, kind = kernels.library(), self.embedding.dtype
        by_tiles = kind == torch.bfloat16 and not isinstance(found, str) and found.has_tiles()
        return TEXTS_BY_TILES if by_tiles else TEXTS[kind]

    def runs(self, form: Form) -> bool:
        """See `Passes`."""
        if id(form) not in self._prepared:
            ours = self.width in ATTENDED and self.embedding.is_contiguous()
            ours = ours and all(isinstance(one, Plain | Rounded) for one in form.products())
            self._prepared[id(form)] = self._prepare(form) if ours else None
        return self._prepared[id(form)] is not None

    def _prepare(self, form: Form) -> _Prepared | None:
        """None unless all layers have one shape: whoever prunes a model may leave it some of another width."""
        layers, head = records(form)
        hidden, inner, asked = self.embedding.shape[1], layers[0].down.ins, self.heads * self.width
        mixed = asked + 2 * self.kv_heads * self.width
        wanted = [(hidden, mixed), (asked, hidden), (hidden, 2 * inner), (inner, hidden)]
        found = ([(one.ins, one.outs) for one in (x.qkv, x.out, x.gate_up, x.down)] for x in layers)
        if head.ins != hidden or any(shapes != wanted for shapes in found):
            return None
        given = PassRecord(
            layers=len(layers),
            hidden=hidden,
            inner=inner,
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
            eps=self.norm.eps,
            layer=ctypes.addressof(layers),
            norm=self.norm.weight.data_ptr(),
            head=ctypes.addressof(head),
            embedding=self.embedding.data_ptr(),
            ids=ctypes.addressof(self._ids),
            positions=ctypes.addressof(self._positions),
            best=ctypes.addressof(self._best),
            probabilities=ctypes.addressof(self._probabilities),
        )
        return _Prepared(form, layers, head, given)

    def takes(self, cache: PositionedCache) -> bool:
        """See `Passes`."""
        if self._place is None or self._place.cache() is not cache:
            self._place = self._find(cache)
        return self._place.fits and not cache.is_aside

    def prepare(self, form: Form, plan: Plan, angles: Angles, cache: PositionedCache) -> None:
        """See `Passes`: nothing."""

    def forget(self) -> None:
        """See `Passes`."""
        self._place = None

    def _find(self, cache: PositionedCache) -> _Place:
        nothing = self.norm.weight.new_empty(1, self.kv_heads, 0, self.width)
        for layer in cache.layers:
            if not layer.is_initialized:
                layer.lazy_initialization(nothing, nothing)
        parts = [[layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]]
        keys, values = ((_POINTER * len(part))(*(one.data_ptr() for one in part)) for part in parts)
        # Whoever hands over a cache may have computed in another precision.
        wanted = self.embedding.dtype, (1, self.kv_heads, cache.rows, self.width)
        fits = all((one.dtype, one.shape) == wanted and one.is_contiguous() for part in parts for one in part)
        return _Place(weakref.ref(cache), keys, values, parts[0][0].stride(1), fits)

    @contextmanager
    def watched(self) -> Iterator[dict[str, tuple[float, int]]]:
        """Fills, at the end, a dictionary with the seconds of every stage of the passes inside, and how often it was.

        The seconds are the first thread's.
        """
        found: dict[str, tuple[float, int]] = {}
        self._watched = seconds, times = ((ctypes.c_double * len(STAGES))(), (ctypes.c_double * len(STAGES))())
        try:
            yield found
        finally:
            self._watched = None
        found |= {name: (seconds[i], int(times[i])) for i, name in enumerate(STAGES)}

    def __call__(
        self,
        form: Form,
        plan: Plan,
        tokens: Sequence[int],
        sight: Sight,
        angles: tuple[torch.Tensor, torch.Tensor],
        cache: PositionedCache,
        wanted: int,
        traced: int,
    ) -> Pass:
        """See `Passes`."""
        bias, count = sight.bias(), len(tokens)
        prepared = self._ready(form, plan, tokens, angles, cache)
        given = prepared.given
        self._positions[:count] = [*sight.positions]
        logits = self.embedding.new_empty(wanted, prepared.head.outs)
        given.wanted, given.logits, given.traced, given.trace = wanted, logits.data_ptr(), traced, None
        if traced:
            runs = prepared.runs_by(plan)
            kept = self.embedding.new_empty(sum(map(int.bit_count, runs)), traced, self.embedding.shape[1])
            given.trace = kept.data_ptr()
        given.bias, given.biases = (None, 0) if bias is None else (bias.data_ptr(), bias.shape[1])
        self._make_room(given, count)
        kernels.of("run_pass", self.embedding.dtype)(ctypes.byref(given))
        return Pass(logits, _trace(kept, runs) if traced else None, self._found(wanted))

    def chain(
        self,
        form: Form,
        plan: Plan,
        tokens: Sequence[int],
        most: int,
        following: Following,
        angles: Angles,
        cache: PositionedCache,
    ) -> int:
        """Passes one behind the other, each over the token that `following` names after the one before it.

        Args:
            form, plan, angles, cache: as of a pass.
            tokens: of the first pass, up to `SHORT`.
            most: passes, 1 or more.
            following: see `contract.Following`.

        Returns:
            How many tokens were run. The cache is left as long as it was.

        Raises:
            IndexError: the model has no such token.
        """
        prepared, count = self._ready(form, plan, tokens, angles, cache), len(tokens)
        given = prepared.given
        self._positions[:count] = [*range(cache.length, cache.length + count)]
        if self._said.shape[1] != prepared.head.outs:
            self._said = self.embedding.new_empty(1, prepared.head.outs)
        given.wanted, given.traced, given.trace, given.logits = 1, 0, None, self._said.data_ptr()
        given.bias, given.biases = None, 0
        raised: list[BaseException] = []

        def named() -> Generator[int, None, None]:
            # What is raised behind a call of the kernels is lost, an interrupt before a function's first line too; a
            # generator goes on within its `try`.
            said: int | None = None
            try:
                while True:
                    yield 0 if said is None else said + 1
                    said = following(Pass(self._said, None, self._found(1)))
                    if said is not None:
                        self.check_tokens([said])
            except GeneratorExit:
                raise
            except BaseException as error:
                raised.append(error)
            yield 0

        names = named()
        next(names)
        self._make_room(given, count + most - 1)
        run = kernels.of("run_chain", self.embedding.dtype)
        passes = run(ctypes.byref(given), self._ids, self._positions, most, kernels.FOLLOWING(names.__next__))
        if raised:
            raise raised[0]
        return count + int(passes) - 1

    def _found(self, wanted: int) -> list[Best] | None:
        """What each wanted token says is likeliest; None where a logit is no number."""
        sure: list[float] = self._probabilities[:wanted]
        return None if any(map(math.isnan, sure)) else list(zip(self._best[:wanted], sure, strict=True))

    def _ready(
        self, form: Form, plan: Plan, tokens: Sequence[int], angles: Angles, cache: PositionedCache
    ) -> _Prepared:
        """What the kernels are told of a pass, but for what it is over and what it gives."""
        prepared, place = self._prepared[id(form)], self._place
        assert prepared is not None
        assert place is not None
        self.check_tokens(tokens)
        given = prepared.given
        given.tokens, given.length = len(tokens), cache.length
        given.runs = ctypes.addressof(prepared.runs_by(plan))
        self._ids[: len(tokens)] = [*map(int, tokens)]
        given.cos, given.sin = (one.data_ptr() for one in angles)
        given.keys, given.values = map(ctypes.addressof, (place.keys, place.values))
        given.stride, given.threads = place.stride, torch.get_num_threads()
        given.seconds, given.times = map(ctypes.addressof, self._watched) if self._watched else (None, None)
        return prepared

    def _make_room(self, given: PassRecord, tokens: int) -> None:
        """Have scratch for passes up to the one that ends so many tokens behind the cache."""
        length, given.length = given.length, given.length + tokens - given.tokens
        needed = kernels.of("pass_bytes", self.embedding.dtype)(ctypes.byref(given))
        given.length = length
        if needed > self._scratch.numel():
            # Half as much again: a text grows token by token.
            self._scratch = torch.empty(needed * 3 // 2, dtype=torch.uint8, device="cpu")
        given.scratch = self._scratch.data_ptr()


def _trace(kept: torch.Tensor, runs: Iterable[int]) -> Trace:
    parts, trace = iter(kept), Trace([], [])
    for run in runs:
        if run & 1:
            trace.attention.append(next(parts))
        if run & 2:
            trace.mlp.append(next(parts))
    return trace
