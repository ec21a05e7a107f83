"""A model's weights in the forms that passes use: the target's own, and views of lower precision for drafts."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from conflayers.body import products, torchao_views
from conflayers.body.graphs import products as graphs
from conflayers.body.graphs.launches import interpreted
from conflayers.body.linears import Linear, owned, single
from conflayers.body.llama import FastLayer, read_layer
from conflayers.body.operators import RmsNorm, rms_norm
from conflayers.body.steady import steady
from conflayers.body.views import VIEWS, Product, Views, pack, why_not_view
from conflayers.errors import InputError
from conflayers.plan import WHOLE

LAYOUTS = ("auto", "plain", "packed")
# A layout has to be faster by this factor to be worth a second copy of the weights,
WORTH = 1.1
# ... which may take this share of the memory that is free.
SHARE_OF_MEMORY = 0.5
# Layouts are timed on the first matrices of so many bytes, more than most processors keep near themselves,
SAMPLE_BYTES = 32 << 20
# ... or accelerators,
ACCELERATOR_BYTES = 256 << 20
# ... with these numbers of rows, so many times.
SAMPLE_ROWS, SAMPLE_RUNS = (1, 8), 5
PRODUCTS = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class Form:
    """Everything a pass multiplies with.

    Attributes:
        layers: of the decoder.
        head: hidden states to logits.
        bytes: held beside the model's own weights.
    """

    layers: list[FastLayer]
    head: Product
    bytes: int = 0

    def products(self) -> Iterator[Product]:
        """All of them, in the order of a pass."""
        for layer in self.layers:
            yield from (getattr(layer, name) for name in PRODUCTS)
        yield self.head

    def converted(self, convert: Callable[[Any], Product]) -> "Form":
        """The same with every product converted."""
        layers = [one.with_products(*(convert(getattr(one, name)) for name in PRODUCTS)) for one in self.layers]
        form = Form(layers, convert(self.head))
        return replace(form, bytes=self.bytes + sum(getattr(product, "bytes", 0) for product in form.products()))


@dataclass(slots=True)
class Weights:
    """The weights of a model of the Llama family, as they are now.

    Attributes:
        plain: fused, and otherwise as they are.
        target: what the whole model runs with: `plain` or laid out for the processor, and steady where it can be.
        steady: whether every product of `target` has the same bits however many tokens there are.
        embedding: [vocabulary, hidden].
        norm: of what goes into the head.
    """

    plain: Form
    target: Form
    steady: bool
    embedding: torch.Tensor
    norm: RmsNorm
    _views: dict[str, Form] = field(default_factory=dict)
    _quick: tuple[str, ...] | None = None
    _refused: dict[str, str | None] = field(default_factory=dict)

    def form(self, precision: str) -> Form:
        """The weights in a precision; a view is made when it is first asked for, which takes a moment."""
        if precision == WHOLE:
            return self.target
        if precision not in self._views:
            self._views[precision] = self.plain.converted(lambda linear: _viewed(linear, precision))
        return self._views[precision]

    def why_not(self, precision: str) -> str | None:
        """Why there is no view in a precision, in words; None if there is one."""
        if precision not in self._refused:
            alike = {linear.weight.shape: linear for linear in _matrices(self.plain)}
            reasons = (why for linear in alike.values() if (why := _why_not_view(linear, precision)))
            self._refused[precision] = next(reasons, None)
        return self._refused[precision]

    def quick(self) -> tuple[str, ...]:
        """Views whose products of one row are faster than the target's, the fastest first; measured once."""
        if self._quick is None:
            offered = [precision for precision in VIEWS if self.why_not(precision) is None]
            shares = {precision: self._share(precision) for precision in offered}
            self._quick = tuple(sorted((p for p in offered if shares[p] < 1 / WORTH), key=shares.__getitem__))
        return self._quick

    def _share(self, precision: str) -> float:
        """What one row times the first matrices takes in a view, as a share of what it takes in the target."""
        sample = _sample(_matrices(self.plain))
        if isinstance(self.target.head, graphs.Matrix):
            # Launched one by one they would say what launching takes.
            both = ([graphs.plain(one) for one in sample], [graphs.VIEWS[precision](one) for one in sample])
            own, other = map(graphs.seconds, both)
            return other / own
        views = [_viewed(linear, precision) for linear in sample]
        target = list(itertools.islice(self.target.products(), len(sample)))
        own, other = _best_seconds(sample, (target, views), rows=(1,))
        return other / own

    @property
    def extra_bytes(self) -> int:
        """Held beside the model's own weights, by layouts and views."""
        return self.target.bytes + sum(form.bytes for form in self._views.values())


def check_layout(layout: str) -> None:
    """Raise InputError unless there is such a layout."""
    if layout not in LAYOUTS:
        raise InputError(f"layout must be {', '.join(map(repr, LAYOUTS[:-1]))} or {LAYOUTS[-1]!r}, not {layout!r}")


def read_weights(model: PreTrainedModel, layout: str) -> Weights:
    """The weights of `model`, which `llama.why_not` has nothing against.

    Args:
        layout: "plain", "packed" (a second copy, on the CPU in bfloat16) or "auto", which packs where it is measured
            to be faster and half of the free memory holds the copy.

    Raises:
        InputError: they cannot be packed.
    """
    inside: Any = model
    head, embedding = single(inside.lm_head), inside.model.embed_tokens.weight
    shared = embedding is inside.lm_head.weight
    eps = inside.config.rms_norm_eps
    plain = Form([read_layer(layer, eps) for layer in inside.model.layers], head)
    target, is_steady = _target(plain, layout)
    return Weights(
        plain=plain,
        target=target,
        steady=is_steady,
        embedding=head.weight if shared else owned(embedding),
        norm=rms_norm(owned(inside.model.norm.weight), eps),
    )


def _target(plain: Form, layout: str) -> tuple[Form, bool]:
    """What the whole model runs with, and whether its products' rows have the same bits in any company."""
    check_layout(layout)
    if layout != "packed" and not any(map(_why_not_own, _matrices(plain))):
        # At the speed of memory, without a copy.
        kernels = _kernels(plain.layers[0].norm.weight)
        # By themselves an accelerator's products are torch's.
        return plain.converted(kernels.plain), kernels is products
    target = plain.converted(pack) if _packs(plain, layout) else plain
    whole = _steady(target, plain)
    return whole or target, whole is not None


def _kernels(weight: torch.Tensor) -> Any:
    """Who has kernels of our own for a weight's device, if anybody: `products`, or `graphs.products`."""
    return products if weight.device.type == "cpu" and not interpreted() else graphs


def _why_not_own(linear: Linear) -> str | None:
    found: str | None = _kernels(linear.weight).why_not(linear.weight)
    return found


def _why_not_own_view(linear: Linear) -> str | None:
    found: str | None = _kernels(linear.weight).why_not_rounded(linear.weight)
    return found


def _views(linear: Linear) -> Views | str:
    """Who makes views of a matrix; or why nobody does, in words."""
    why = _why_not_own_view(linear)
    if why is None:
        found: Views = _kernels(linear.weight).VIEWS
        return found
    if linear.weight.device.type == "cpu":
        return VIEWS
    return torchao_views.VIEWS if torchao_views.why_not() is None else f"{why}; {torchao_views.why_not()}"


def _why_not_view(linear: Linear, precision: str) -> str | None:
    """Why there is no view of a matrix in a precision, in words; None if there is one."""
    found = _views(linear)
    if isinstance(found, str):
        return found
    # Those for the processor were compiled when they were asked for; others may fail when they are tried.
    return None if found is products.VIEWS else why_not_view(linear, precision, found)


def _viewed(linear: Linear, precision: str) -> Product:
    """A matrix in `precision`, one of `VIEWS`: the kernels' own, or torch's or torchao's."""
    found = _views(linear)
    assert not isinstance(found, str)
    return found[precision](linear)


def _matrices(plain: Form) -> list[Linear]:
    return [product for product in plain.products() if isinstance(product, Linear)]


def _packs(plain: Form, layout: str) -> bool:
    matrices = _matrices(plain)
    weight = matrices[0].weight
    able = bool(
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.enabled
        # Processors without AVX-512, or what came after it, multiply in bfloat16 by other means.
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    if layout == "packed" and not able:
        raise InputError(
            f"weights are packed on the CPU in bfloat16, and these are {weight.dtype} on {weight.device.type}: "
            "leave out layout='packed'"
        )
    if layout != "auto" or not able:
        return layout == "packed"
    wanted = sum(linear.weight.numel() * linear.weight.element_size() for linear in matrices)
    return wanted <= SHARE_OF_MEMORY * psutil.virtual_memory().available and _faster_packed(matrices)


@torch.no_grad()
def _faster_packed(matrices: list[Linear]) -> bool:
    """Whether the first matrices are multiplied with faster when packed."""
    sample = _sample(matrices)
    plain, packed = _best_seconds(sample, (sample, [pack(linear) for linear in sample]), SAMPLE_ROWS)
    return plain > WORTH * packed


def _sample(matrices: list[Linear]) -> list[Linear]:
    """The first of them, as many as are more than stays near the processor."""
    enough = SAMPLE_BYTES if matrices[0].weight.device.type == "cpu" else ACCELERATOR_BYTES
    sizes = itertools.accumulate(linear.weight.numel() * linear.weight.element_size() for linear in matrices)
    return matrices[: 1 + sum(size < enough for size in sizes)]


@torch.no_grad()
def _best_seconds(sample: list[Linear], ways: Sequence[Sequence[Product]], rows: Sequence[int]) -> list[float]:
    """Seconds to multiply with all of the sample, by each way of doing it, the best of a few tries."""
    best = [float("inf")] * len(ways)
    # In turns, so that all meet the same machine.
    for _ in range(SAMPLE_RUNS):
        for at, one_way in enumerate(ways):
            begun = time.perf_counter()
            for count in rows:
                for linear, product in zip(sample, one_way, strict=True):
                    product(linear.weight[:1].expand(count, -1).contiguous())
            if sample[0].weight.device.type != "cpu":
                torch.accelerator.synchronize()
            best[at] = min(best[at], time.perf_counter() - begun)
    return best


def _steady(target: Form, plain: Form) -> Form | None:
    """The same with steady products; None where one cannot be had. Products of one shape are alike."""
    weight = plain.layers[0].norm.weight
    if weight.dtype != torch.bfloat16:
        return None
    shapes = [linear.weight.shape for linear in _matrices(plain)]
    made: dict[torch.Size, Callable[[Product], Product]] = {}
    for shape, product in zip(shapes, target.products(), strict=True):
        if shape not in made:
            found = steady(product, shape[1], weight.dtype, weight.device)
            if found is None:
                return None
            made[shape] = found
    of = iter(shapes)
    return replace(target.converted(lambda product: made[next(of)](product)), bytes=target.bytes)
