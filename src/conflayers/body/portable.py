"""The body for any architecture of transformers: the model's own forward, with sublayers switched off in place."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conflayers.body.anatomy import Anatomy, Part, examine
from conflayers.body.cache import PositionedCache
from conflayers.body.contract import Following, Pass, Step, Trace, one_by_one
from conflayers.body.multimodal import nothing_noted, prompt_arguments
from conflayers.body.switch import Replacement, forwards_replaced, listening, passing, put_back, silent
from conflayers.body.trees import depths, replay_mask, tree_mask
from conflayers.body.walk import walk
from conflayers.errors import InputError, PlanError
from conflayers.plan import NOTHING, PRECISIONS, WHOLE, ModelIdentity, Plan


def refuse_training(model: PreTrainedModel) -> None:
    """Raise InputError if `model` is in training mode."""
    if model.training:
        raise InputError("the model is in training mode, where dropout changes its output: call model.eval() first")


class PortableBody:
    """Drives `model` by position. Implements `conflayers.body.contract.Body`.

    `trees` is False until the self-test has verified one.

    The model's modules and weights are used as they are; nothing is copied and nothing stays patched.

    Args:
        model: in eval mode.
        anatomy: of the model, where it is known already.

    Attributes:
        kind: "portable", or what a body derived from it calls itself.

    Raises:
        UnsupportedModelError: the structure of the model cannot be driven exactly.
        InputError: the model is in training mode.
    """

    kind = "portable"

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy | None = None) -> None:
        refuse_training(model)
        self.model = model
        self.anatomy: Anatomy = anatomy or examine(model)
        self.layers = len(self.anatomy.layers)
        self.vocab_size = self.anatomy.vocab_size
        self.context = self.anatomy.context
        self.identity = _identity(model, self.anatomy)
        self.trees = False
        self.process = os.getpid()
        # Tokens that were last asked for room for.
        self.room = 0
        self._cache = PositionedCache(list(self.anatomy.windows), 0)
        # Where tokens are put: read once a request, since a model looks for it among its parameters.
        self._device = model.device
        # From cache row to rotary position, broadcast over [..., 1, tokens]: images take fewer positions than rows.
        self._shift: torch.Tensor | int = 0
        self.text_start = 0

    @property
    def length(self) -> int:
        """Tokens the cache holds."""
        return self._cache.length

    @property
    def key_shape(self) -> tuple[int, int] | None:
        """Key-value heads and their width, where all layers are known to have the same."""
        return None

    @property
    def cache(self) -> PositionedCache:
        """Keys and values of the text so far, until the next `reserve` or `release`."""
        return self._cache

    def reserve(self, capacity: int) -> None:
        """Empty the cache and make room for `capacity` tokens, in the memory it has where that is enough."""
        self._device = self.model.device
        if self._cache.capacity < capacity or self._cache.kinds - {(self.model.dtype, self._device)}:
            self.release()
            self._cache = PositionedCache(list(self.anatomy.windows), self._capacity(capacity))
        self._cache.rollback(0)
        self._shift, self.room, self.text_start = 0, capacity, 0

    def _capacity(self, wanted: int) -> int:
        """Tokens to make room for where room for so many is wanted."""
        return wanted

    def release(self) -> None:
        """Give the cache's memory back."""
        self.room = 0
        self._cache = PositionedCache(list(self.anatomy.windows), 0)
        self._shift = 0

    def rollback(self, length: int) -> None:
        """Forget the cached tokens from position `length` on."""
        self._cache.rollback(length)

    def preserve(self, start: int) -> Any:
        """Inside this context, cached tokens from `start` on may be overwritten; afterwards they are back."""
        return self._cache.preserve(start)

    def aside(self, start: int) -> Any:
        """Inside this context passes run behind the first `start` tokens and are not cached."""
        return self._cache.aside(start)

    def walk(self, tokens: Sequence[int], branches: int, step: Step) -> torch.Tensor:
        """The last cached tokens once more, in several branches; see `contract.Body.walk`."""
        return walk(self, tokens, branches, step)

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the tokens cached from position `start` on keep those at offsets `rows`; see `contract.Body.keep`."""
        self._cache.keep(start, rows)

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
        start, count = self._cache.length, len(tokens)
        if not self._cache.is_aside:
            self._cache.check_room(count)
        ids = torch.tensor([tokens], device=self._device)
        offsets = range(count) if parents is None else depths(parents)
        positions = torch.tensor([[start + offset for offset in offsets]], device=self._device)
        masks = None
        if parents is not None:
            masks = self._masks(lambda window: tree_mask(parents, start, window, self.model.dtype))
        arguments = {"input_ids": ids, "position_ids": positions + self._shift, "attention_mask": masks}
        return self._run(arguments, count, count if rows is None else rows, record)

    @torch.no_grad()
    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        """One pass after the other; see `contract.Body.chain`."""
        one_by_one(self.forward, tokens, most, following)

    def replay(self, tokens: Sequence[int]) -> Pass:
        """The last cached tokens once more, each for itself; see `contract.Body.replay`."""
        count, length = len(tokens), self.length
        self._cache.check_room(count)
        masks = self._masks(lambda window: replay_mask(count, length, window, self.model.dtype))
        ids = torch.tensor([tokens], device=self._device)
        positions = torch.arange(length - count, length, device=self._device)[None]
        arguments = {"input_ids": ids, "position_ids": positions + self._shift, "attention_mask": masks}
        with self._cache.again(count):
            return self._run(arguments, count, count, 0)

    @torch.no_grad()
    def prefill(self, tokens: Sequence[int], inputs: Mapping[str, Any], record: int = 0) -> Pass:
        """Run a whole prompt with what belongs to it beside its ids, and cache it; logits of its last token.

        Until the cache is next reserved or released, `forward` continues at the positions that follow the prompt's.

        Args:
            tokens: the prompt, placeholders of images included.
            inputs: what a processor of transformers puts out beside the ids, as tensors.
            record: as for `forward`.

        Raises:
            InputError: the inputs do not fit each other, the tokens or the model.
        """
        if self._cache.length:
            raise IndexError(f"a prompt starts an empty cache: this one holds {self._cache.length} tokens")
        self._cache.check_room(len(tokens))
        ids = torch.tensor([tokens], device=self._device)
        try:
            with nothing_noted(self.model):
                arguments = prompt_arguments(self.model, ids, inputs, self._cache)
                result = self._run(arguments, len(tokens), 1, record)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(f"{self.anatomy.name} cannot take this prompt's inputs: {error}") from error
        positions = arguments.get("position_ids")
        self.text_start = len(tokens) - 1
        self._shift = 0 if positions is None else positions[..., -1:] + 1 - len(tokens)
        return result

    def _run(self, arguments: Mapping[str, Any], count: int, wanted: int, record: int) -> Pass:
        """One pass over `count` tokens, `wanted` rows of logits, cached after what is cached."""
        common = {"past_key_values": self._cache, "use_cache": True, "logits_to_keep": wanted, "return_dict": True}
        with _recording(self.anatomy, min(record, count)) as taken:
            output = self.model(**{**arguments, **common})
        if not self._cache.is_aside:
            self._cache.advance(count)
        # Models that do not know `logits_to_keep` put out all rows.
        return Pass(output.logits[0, -wanted:], taken() if record else None)

    def _masks(self, mask: Callable[[int | None], torch.Tensor]) -> torch.Tensor | dict[str, torch.Tensor]:
        """One mask for all layers, or one for each kind of attention where a model has several."""
        masks = {window: mask(window).to(self._device) for window in set(self.anatomy.windows)}
        if len(masks) == 1:
            return next(iter(masks.values()))
        return {kind: masks[window] for kind, window in zip(self.anatomy.kinds, self.anatomy.windows, strict=True)}

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """Inside this context `forward` leaves out what `plan` skips; afterwards the model is as before.

        Raises:
            PlanError: the plan names a layer the model lacks.
        """
        plan.check(self.layers)
        self.check_precision(plan)
        replacements: list[Replacement] = [passing(self.anatomy.layers[index].layer) for index in plan.whole_layers]
        replacements += [silent(self.anatomy.layers[index].attention) for index in plan.attention - plan.mlp]
        replacements += [silent(part) for index in plan.mlp - plan.attention for part in self.anatomy.layers[index].mlp]
        with forwards_replaced(replacements):
            yield

    @property
    def steady(self) -> bool:
        """Whether a chain's logits are those of one-token passes, bit for bit: nobody knows of a model's own."""
        return False

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions besides the whole that drafts can have."""
        return ()

    @property
    def why_not_compiled(self) -> str | None:
        """Why the small operators of short passes are not compiled kernels, in words; None where they are."""
        return "the portable body runs the model's own modules"

    @contextmanager
    def watched(self) -> Iterator[dict[str, tuple[float, int]]]:
        """Fills, at the end, a dictionary with what the compiled passes inside spent their time on: stage -> seconds,
        times. Empty where passes are torch's operators, which its profiler sees."""
        yield {}

    @property
    def extra_bytes(self) -> int:
        """Memory held beside the model's own weights and the cache."""
        return 0

    def why_not_precise(self) -> dict[str, str | None]:
        """By precision, why drafts cannot have it, in words; None where they can."""
        why = "the portable body runs the model's own modules, in their own precision"
        return dict.fromkeys((name for name in PRECISIONS if name not in (WHOLE, NOTHING)), why)

    def quick(self) -> tuple[str, ...]:
        """See `contract.Body.quick`."""
        return ()

    def check_precision(self, plan: Plan) -> None:
        """Raise PlanError if drafts cannot have the plan's precision here."""
        if plan.precision == NOTHING:
            raise PlanError("the plan runs nothing of the model: method 'lookup' does that")
        if plan.precision != WHOLE and (why := self.why_not_precise()[plan.precision]):
            raise PlanError(f"the plan drafts in {plan.precision}, which this model cannot here: {why}")

    def prepare(self, plan: Plan) -> None:
        """Make what drafts by `plan` need, which else is made by the first of them."""

    def put_back(self) -> None:
        """Switch on whatever an interrupt left switched off."""
        for parts in self.anatomy.layers:
            put_back(part.module for part in (parts.layer, parts.attention, *parts.mlp))


@contextmanager
def _recording(anatomy: Anatomy, tokens: int) -> Iterator[Callable[[], Trace]]:
    """Keep the last `tokens` rows of every sublayer's output, for the one pass run inside."""
    outputs: dict[nn.Module, torch.Tensor] = {}

    def hear(part: Part, output: Any) -> None:
        out = output[0] if part.returns else output
        rows = out.reshape(-1, part.width)
        # A view of a part would hold the whole prompt's activations of every layer in memory.
        outputs[part.module] = rows if part.final and len(rows) == tokens else rows[-tokens:].clone()

    def trace() -> Trace:
        return Trace(
            attention=[outputs[parts.attention.module] for parts in anatomy.layers],
            mlp=[_sum([outputs[part.module] for part in parts.mlp]) for parts in anatomy.layers],
        )

    heard = [part for parts in anatomy.layers for part in (parts.attention, *parts.mlp)] if tokens else []
    with forwards_replaced(listening(part, hear) for part in heard):
        yield trace


def _sum(outputs: list[torch.Tensor]) -> torch.Tensor:
    return outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(0)


def _identity(model: PreTrainedModel, anatomy: Anatomy) -> ModelIdentity:
    embedding = model.get_input_embeddings().weight
    sample = embedding[:: max(1, embedding.shape[0] // 64), :64].detach()
    digest = hashlib.sha256(sample.to(torch.bfloat16).float().cpu().numpy().tobytes()).hexdigest()[:16]
    return ModelIdentity(anatomy.name, len(anatomy.layers), anatomy.hidden_size, anatomy.vocab_size, digest)
