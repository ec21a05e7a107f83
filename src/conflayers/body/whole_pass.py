"""A pass of a few tokens through all layers and the head as one call of the compiled kernels.

What launching a few hundred operators takes is a fifth of a small model's pass; and threads that stay in one call meet
far sooner than those that are called anew for every product.
"""

import ctypes
from dataclasses import dataclass

import torch

from conflayers.body import kernels
from conflayers.body.cache import PositionedCache
from conflayers.body.contract import Trace
from conflayers.body.native import ATTENDED
from conflayers.body.operators import SHORT, RmsNorm, Seen
from conflayers.body.products import Record, Rounded, Tiled
from conflayers.body.weights import Form
from conflayers.plan import Plan

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


class _Layer(ctypes.Structure):
    """See `Layer` in pass.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, Record) for name in ("qkv", "out", "gate_up", "down")),
        ("keys", _POINTER),
        ("values", _POINTER),
        ("rotated", _COUNT),
    )


class _Pass(ctypes.Structure):
    """See `Pass` in pass.h."""

    _fields_ = (
        *((name, _COUNT) for name in ("layers", "tokens", "length", "wanted", "threads")),
        *((name, _COUNT) for name in ("hidden", "inner", "heads", "kv_heads", "width", "stride", "traced")),
        ("eps", ctypes.c_double),
        *((name, _POINTER) for name in ("layer", "runs", "norm", "head", "states", "cos", "sin", "bias")),
        ("biases", _COUNT),
        *((name, _POINTER) for name in ("trace", "logits", "scratch")),
    )


@dataclass(slots=True)
class _Prepared:
    """A form as the kernels know it, for as long as the form is there."""

    form: Form
    layers: "ctypes.Array[_Layer]"
    head: Record


class WholePass:
    """Passes over one model's forms whose products are all the kernels' own.

    Args:
        heads, kv_heads, width: of the attention.
        norm: of what goes into the head.
    """

    def __init__(self, heads: int, kv_heads: int, width: int, norm: RmsNorm) -> None:
        self.heads, self.kv_heads, self.width, self.norm = heads, kv_heads, width, norm
        # By a form's identity; None for those that cannot be run.
        self._prepared: dict[int, _Prepared | None] = {}
        self._scratch = torch.empty(0, dtype=torch.uint8, device="cpu")

    def __reduce__(self) -> tuple[type["WholePass"], tuple[int, int, int, RmsNorm]]:
        return WholePass, (self.heads, self.kv_heads, self.width, self.norm)

    def runs(self, form: Form) -> bool:
        """Whether passes over this form can be run here."""
        if id(form) not in self._prepared:
            ours = self.width in ATTENDED and all(isinstance(one, Tiled | Rounded) for one in form.products())
            self._prepared[id(form)] = _Prepared(form, *_records(form)) if ours else None
        return self._prepared[id(form)] is not None

    def takes(self, cache: PositionedCache) -> bool:
        """Whether keys and values can be read and written there; makes them if there are none yet."""
        if cache.is_aside:
            return False
        for layer in cache.layers:
            if not layer.is_initialized:
                nothing = self.norm.weight.new_empty(1, self.kv_heads, 0, self.width)
                layer.lazy_initialization(nothing, nothing)
            # Whoever hands over a cache may have computed in another precision.
            if layer.keys.dtype != torch.bfloat16 or layer.values.dtype != torch.bfloat16:
                return False
        return True

    @torch.no_grad()
    def steady(self, form: Form) -> bool:
        """Whether a few tokens at once have the bits that they have one by one, as two layers and a text tell."""
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").to(torch.bfloat16)

        given, turned = drawn(SHORT, len(self.norm.weight)), drawn(2, SHORT, self.width)
        plan = Plan.layers(range(2, len(form.layers)))

        def run(at_once: int) -> torch.Tensor:
            cache, outs = PositionedCache([None] * len(form.layers), SHORT), []
            self.takes(cache)
            for some, cos, sin in zip(*(torch.split(one, at_once) for one in (given, *turned)), strict=True):
                positions = torch.arange(cache.length, cache.length + len(some), device="cpu")
                seen = Seen(positions, (cos, sin), True, False, lambda _: None, self.heads // self.kv_heads, True)
                outs.append(self(form, plan, some.clone(), cache, seen, len(some), 0)[0])
                cache.advance(len(some))
            return torch.cat(outs)

        alone = run(1)
        return all(torch.equal(run(count), alone) for count in (3, 11, SHORT))

    def __call__(
        self,
        form: Form,
        plan: Plan,
        states: torch.Tensor,
        cache: PositionedCache,
        seen: Seen,
        wanted: int,
        traced: int,
    ) -> tuple[torch.Tensor, Trace]:
        """Run a few tokens, and write their keys and values behind what the cache holds.

        Args:
            form: one that `runs` has nothing against.
            plan: what to leave out.
            states: embeddings [tokens, hidden]; they are changed.
            cache: one that `takes` has nothing against.
            seen: what the tokens see.
            wanted: rows of logits, of the last tokens.
            traced: rows to keep of what sublayers put out, of the last tokens.

        Returns:
            Logits [wanted, vocabulary]; what the sublayers that ran put out.
        """
        prepared, (tokens, hidden) = self._prepared[id(form)], states.shape
        assert prepared is not None
        assert seen.angles is not None
        # Of every layer 1 for its attention, 2 for its MLP.
        count = len(form.layers)
        runs = (ctypes.c_uint8 * count)(*((i not in plan.attention) + 2 * (i not in plan.mlp) for i in range(count)))
        stride = _point_at(prepared.layers, cache)
        bias = None if seen.chain else seen.exact(None)
        cos, sin = seen.angles
        logits = states.new_empty(wanted, prepared.head.outs)
        kept = states.new_empty(sum(map(int.bit_count, runs)) if traced else 0, traced, hidden)
        given = _Pass(
            layers=count,
            tokens=tokens,
            length=cache.length,
            wanted=wanted,
            threads=torch.get_num_threads(),
            hidden=hidden,
            inner=prepared.layers[0].down.ins,
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
            stride=stride,
            traced=traced,
            eps=self.norm.eps,
            layer=ctypes.addressof(prepared.layers),
            runs=ctypes.addressof(runs),
            norm=self.norm.weight.data_ptr(),
            head=ctypes.addressof(prepared.head),
            states=states.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            biases=0 if bias is None else bias.shape[1],
            trace=kept.data_ptr(),
            logits=logits.data_ptr(),
        )
        found = kernels.library()
        assert not isinstance(found, str)
        needed = found.pass_bytes(ctypes.byref(given))
        if needed > self._scratch.numel():
            # Half as much again: a text grows token by token.
            self._scratch = torch.empty(needed * 3 // 2, dtype=torch.uint8, device="cpu")
        given.scratch = self._scratch.data_ptr()
        found.run_pass(ctypes.byref(given))
        parts, trace = iter(kept), Trace([], [])
        for run in runs if traced else ():
            if run & 1:
                trace.attention.append(next(parts))
            if run & 2:
                trace.mlp.append(next(parts))
        return logits, trace


def _records(form: Form) -> "tuple[ctypes.Array[_Layer], Record]":
    """A form's layers and head as the kernels know them."""
    layers = (_Layer * len(form.layers))()
    for made, layer in zip(layers, form.layers, strict=True):
        made.norm, made.mlp_norm = layer.norm.weight.data_ptr(), layer.mlp_norm.weight.data_ptr()
        if layer.head_norms:
            made.q_norm, made.k_norm = (norm.weight.data_ptr() for norm in layer.head_norms)
        made.qkv, made.out = _record_of(layer.qkv), _record_of(layer.out)
        made.gate_up, made.down = _record_of(layer.gate_up), _record_of(layer.down)
        made.rotated = layer.rotated
    return layers, _record_of(form.head)


def _record_of(product: object) -> Record:
    assert isinstance(product, Tiled | Rounded)
    return product.record


def _point_at(layers: "ctypes.Array[_Layer]", cache: PositionedCache) -> int:
    """Where keys and values are now; returns how far two heads' rows lie apart."""
    stride = 0
    for layer, cached in zip(layers, cache.layers, strict=True):
        layer.keys, layer.values, stride = cached.keys.data_ptr(), cached.values.data_ptr(), cached.keys.stride(1)
    return stride
