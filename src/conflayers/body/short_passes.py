"""Passes of a body over a few tokens as one call, where they can be."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from conflayers.body.anatomy import Anatomy
from conflayers.body.contract import Following, Pass, Step, joined_traces
from conflayers.body.graphs.graph_pass import GraphPass
from conflayers.body.graphs.products import Matrix
from conflayers.body.operators import SHORT
from conflayers.body.passes import Angles, Passes
from conflayers.body.portable import PortableBody
from conflayers.body.sight import Sight
from conflayers.body.weights import Form, Weights
from conflayers.body.whole_pass import WholePass
from conflayers.plan import FULL, Plan


class ShortPasses(PortableBody):
    """What the fast body does where `whole_pass` can; all else it leaves to passes operator by operator."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy | None = None) -> None:
        super().__init__(model, anatomy)
        config: Any = model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._plan = FULL
        # What `walk` does with each layer.
        self._step: Step | None = None
        self._weights: Weights | None = None
        self._whole: Passes | None = None
        self._why_not_compiled: str | None = None
        # Of every position.
        self._angles: Angles = (torch.empty(0), torch.empty(0))

    @property
    def fast(self) -> bool:
        """Whether passes are this body's own; else they are the model's."""
        raise NotImplementedError

    def _passes(self, weights: Weights, compiled: bool) -> Passes | None:
        """What short passes are one call of, if anything; on a processor only where operators are compiled."""
        shape = (self._heads, self._kv_heads, self._width, weights.norm, weights.embedding)
        found = GraphPass(*shape) if isinstance(weights.target.head, Matrix) else WholePass(*shape)
        there = compiled or isinstance(found, GraphPass)
        return found if there and found.runs(weights.target) else None

    def _look_at_passes(self) -> bool:
        """Whether rows of short passes have the same bits in any company. Passes that cannot be had are given up."""
        if self._whole is None:
            return False
        assert self._weights is not None
        try:
            return self._whole.steady(self._weights.target)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # An accelerator's kernels are compiled only now, and what compilers raise is their own.
            if not self._whole.recorded:
                raise
            said = str(error).strip().splitlines() or [""]
            self._whole, self._why_not_compiled = None, f"{type(error).__name__}: {said[-1]}"
            return False

    def watched(self) -> Any:
        """See `PortableBody.watched`."""
        return super().watched() if self._whole is None else self._whole.watched()

    def release(self) -> None:
        """Give the cache's memory back."""
        if self._whole is not None:
            self._whole.forget()
        super().release()

    def _capacity(self, wanted: int) -> int:
        return wanted if self._whole is None else self._whole.capacity(wanted)

    def _ready(self, plan: Plan) -> None:
        """Have passes by a plan take from the first on what they take."""
        if self._whole is None or not self._whole.recorded or not self._cache.capacity:
            return
        with self.running(plan):
            if (form := self._short(1)) is not None:
                self._whole.prepare(form, plan, self._angles, self._cache)

    @torch.no_grad()
    def forward(
        self,
        tokens: Sequence[int],
        *,
        parents: Sequence[int] | None = None,
        rows: int | None = None,
        record: int = 0,
    ) -> Pass:
        """Run `tokens` after the cached ones; see `contract.Body.forward`."""
        count, start = len(tokens), self._cache.length
        in_pieces = self._whole is not None and parents is None and count <= self._whole.texts
        form = self._short(min(count, SHORT) if in_pieces else count)
        if form is None:
            return super().forward(tokens, parents=parents, rows=rows, record=record)
        if count > SHORT:
            return self._in_pieces(form, tokens, min(rows or count, count), min(record, count))
        sight = Sight.chain(start, count) if parents is None else Sight.tree(start, parents)
        # None and 0 mean all, as in transformers.
        return self._run_short(form, tokens, sight, min(rows or count, count), record)

    @torch.no_grad()
    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        """See `contract.Body.chain`."""
        form = self._short(len(tokens))
        if form is None or not isinstance(self._whole, WholePass):
            super().chain(tokens, most, following)
            return
        self._cache.check_room(len(tokens) + most - 1)
        self._cache.advance(self._whole.chain(form, self._plan, tokens, most, following, self._angles, self._cache))

    def _in_pieces(self, form: Form, tokens: Sequence[int], wanted: int, record: int) -> Pass:
        """A text as one short pass after the other."""
        self._cache.check_room(len(tokens))
        passes = []
        for first in range(0, len(tokens), SHORT):
            piece, begun = tokens[first : first + SHORT], self._cache.length
            behind = len(tokens) - first - len(piece)
            last = [min(max(asked - behind, 0), len(piece)) for asked in (wanted, record)]
            passes.append(self._run_short(form, piece, Sight.chain(begun, len(piece)), *last))
        traces = [one.trace for one in passes if one.trace is not None]
        logits = torch.cat([one.logits for one in passes])
        best = [one.best for one in passes if len(one.logits)]
        known = [row for rows in best if rows is not None for row in rows]
        return Pass(logits, joined_traces(traces) if traces else None, known if None not in best else None)

    @torch.no_grad()
    def replay(self, tokens: Sequence[int]) -> Pass:
        """The last cached tokens once more, each for itself; see `contract.Body.replay`."""
        form, count, length = self._short(len(tokens)), len(tokens), self.length
        if form is None:
            return super().replay(tokens)
        with self._cache.again(count):
            return self._run_short(form, tokens, Sight.replay(length, count), count, 0)

    def _short(self, count: int) -> Form | None:
        """The weights of a pass over so many tokens, if it can be one call of the kernels."""
        ordinary = self._whole is not None and 0 < count <= SHORT and self._step is None and self.fast
        if not ordinary or not isinstance(self._shift, int) or self._shift:
            return None
        assert self._weights is not None
        assert self._whole is not None
        form = self._weights.form(self._plan.precision)
        return form if self._whole.runs(form) and self._whole.takes(self._cache) else None

    def _run_short(self, form: Form, tokens: Sequence[int], sight: Sight, wanted: int, record: int) -> Pass:
        """One pass as one call."""
        assert self._whole is not None
        count = len(tokens)
        self._cache.check_room(count)
        kept = min(record, count)
        found = self._whole(form, self._plan, tokens, sight, self._angles, self._cache, wanted, kept)
        self._cache.advance(count)
        return found
