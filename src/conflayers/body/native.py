"""A layer's small operators as one call each.

Between its matrix products a short pass is a few dozen of torch's operators a layer, whose launching takes longer than
their work. `kernels.cpp` has them as four functions. Where they cannot be compiled the operators are torch's.
"""

from collections.abc import Callable

import torch

from conflayers.body import kernels
from conflayers.body.cache import PositionedCache, PositionedLayer
from conflayers.body.kernels import NoKernelsError
from conflayers.body.operators import SHORT, Held, Operators, RmsNorm, Seen, rms_norm

# Heads that a kernel has room for.
WIDEST_HEAD = 1024
# Widths of heads whose attention is a kernel,
ATTENDED = (32, 64, 96, 128)
# ... up to so many columns times all heads' width: of more, torch's takes less time, since it is for many threads. It
# must not be a matter of how many tokens there are, lest verification had other bits than decoding.
MOST_WORK = 1 << 19


class Native(Operators):
    """The kernels, for a few rows of one dtype in the processor's memory. Bits of a row do not depend on the others.

    Raises:
        NoKernelsError: they cannot be had here, or not for this.
    """

    def __init__(self, heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(heads, kv_heads, width)
        if device.type != "cpu" or kernels.kind_name(dtype) not in kernels.KINDS:
            raise NoKernelsError(f"there are none for {dtype} on {device.type}")
        if width > WIDEST_HEAD or width % 2:
            raise NoKernelsError(f"there are none for heads of {width}")
        found = kernels.library()
        if isinstance(found, str):
            raise NoKernelsError(found)
        self._kind = dtype
        functions = (kernels.of(name, dtype) for name in ("norm", "gated", "turn", "attend"))
        self._norm_kernel, self._gated_kernel, self._turn_kernel, self._attend_kernel = functions
        self._columns = MOST_WORK // (heads * width) if width in ATTENDED else 0
        # One for all layers: a body runs one pass at a time.
        room = kernels.of("attend_bytes", dtype)(self._columns + SHORT, SHORT, heads, width)
        self._scratch = torch.empty(room, dtype=torch.uint8, device="cpu")

    def __reduce__(self) -> tuple[Callable[..., Operators], tuple[int, int, int, torch.dtype]]:
        return _again, (self.heads, self.kv_heads, self.width, self._kind)

    def norm(self, states: torch.Tensor, norm: RmsNorm, added: torch.Tensor | None = None) -> torch.Tensor:
        """See `Operators.norm`."""
        # Whoever mixes precisions gets torch's operators, which know what to do. So in all that follows: a kernel takes
        # whatever lies there for numbers of its own kind.
        if states.dtype != self._kind or (added is not None and added.dtype != self._kind):
            return super().norm(states, norm, added)
        out = torch.empty_like(states)
        more = None if added is None else added.data_ptr()
        self._norm_kernel(states.data_ptr(), more, norm.weight.data_ptr(), norm.eps, out.data_ptr(), *states.shape)
        return out

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Operators.gated`."""
        if gate_up.dtype != self._kind:
            return super().gated(gate_up)
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._gated_kernel(gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out

    def turn(
        self,
        mixed: torch.Tensor,
        norms: tuple[RmsNorm, RmsNorm] | None,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        cached: PositionedLayer,
    ) -> tuple[torch.Tensor, Held | None]:
        """See `Operators.turn`."""
        if not cached.is_initialized:
            nothing = mixed.new_empty(1, self.kv_heads, 0, self.width)
            cached.lazy_initialization(nothing, nothing)
        assert cached.keys is not None
        assert cached.values is not None
        if mixed.dtype != self._kind or cached.keys.dtype != self._kind:
            return super().turn(mixed, norms, angles, cached)
        tokens = mixed.shape[0]
        queries = mixed.new_empty(self.heads, tokens, self.width)
        at = cached.owner.length * self.width * mixed.element_size()
        self._turn_kernel(
            mixed.data_ptr(),
            *((norm.weight.data_ptr() for norm in norms) if norms else (None, None)),
            norms[0].eps if norms else 0.0,
            *((one.data_ptr() for one in angles) if angles else (None, None)),
            queries.data_ptr(),
            cached.keys.data_ptr() + at,
            cached.values.data_ptr() + at,
            cached.keys.stride(1),
            tokens,
            self.heads,
            self.kv_heads,
            self.width,
        )
        return queries, None

    def attend(self, queries: torch.Tensor, held: Held | None, cached: PositionedLayer, seen: Seen) -> torch.Tensor:
        """See `Operators.attend`. The tokens that have few enough columns up to their own are the kernel's."""
        tokens = queries.shape[1]
        # How many tokens deep a chain or tree may be: a token must go the way it goes alone.
        deep = self._columns - (cached.owner.length - cached.first_visible())
        if held is not None or deep <= 0:
            return super().attend(queries, held, cached, seen)
        # All that the cache returns may be seen by a token alone, and without a window by a chain.
        ordinary = seen.chain and (cached.window is None or tokens == 1)
        ours = self._attend(queries, cached, None if ordinary else seen.exact(cached.window))
        if tokens <= deep:
            return ours
        theirs = super().attend(queries, held, cached, seen)
        return torch.where((seen.positions - cached.owner.length < deep)[:, None], ours, theirs)

    def _attend(self, queries: torch.Tensor, cached: PositionedLayer, bias: torch.Tensor | None) -> torch.Tensor:
        tokens, first = queries.shape[1], cached.first_visible()
        out = queries.new_empty(tokens, self.heads * self.width)
        assert cached.keys is not None
        assert cached.values is not None
        at = first * self.width * queries.element_size()
        self._attend_kernel(
            queries.data_ptr(),
            cached.keys.data_ptr() + at,
            cached.values.data_ptr() + at,
            None if bias is None else bias.data_ptr(),
            0 if bias is None else bias.shape[1],
            cached.keys.stride(1),
            cached.owner.length - first + 1,
            tokens,
            self.heads,
            self.kv_heads,
            self.width,
            self.width**-0.5,
            self._scratch.data_ptr(),
            out.data_ptr(),
        )
        return out

    @torch.no_grad()
    def steady(self) -> bool:
        """Whether a few tokens at once have the bits that they have one by one, as far as one text tells.

        Attention that is torch's is looked at by `steady.attention_steady`.
        """
        generator, hidden = torch.Generator().manual_seed(0), self.heads * self.width

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").to(self._kind)

        mixed, turned = drawn(SHORT, hidden + 2 * self.kv_heads * self.width), drawn(2, SHORT, 1, self.width)
        norm = rms_norm(drawn(hidden), 1e-5)

        def run(at_once: int) -> torch.Tensor:
            cache, outs = PositionedCache([None], SHORT), []
            for some, cos, sin in zip(*(torch.split(one, at_once) for one in (mixed, *turned)), strict=True):
                positions = torch.arange(cache.length, cache.length + len(some), device="cpu")
                seen = Seen(positions, (cos, sin), True, False, lambda _: None, self.heads // self.kv_heads, True)
                queries, held = self.turn(some, None, seen.angles, cache.layers[0])
                states = queries.transpose(0, 1).reshape(len(some), hidden)
                if self._columns:
                    states = self.attend(queries, held, cache.layers[0], seen)
                outs.append(self.gated(self.norm(states, norm)))
                cache.advance(len(some))
            return torch.cat(outs)

        alone = run(1)
        return all(torch.equal(run(count), alone) for count in (3, 11, SHORT))


def _again(heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> Operators:
    """What was pickled, on a machine that may have no kernels."""
    try:
        return Native(heads, kv_heads, width, dtype, torch.device("cpu"))
    except NoKernelsError:
        return Operators(heads, kv_heads, width)
