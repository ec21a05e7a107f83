"""What transformers' `generate` hands to a decoding function, checked and put into our own terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from conflayers.body.defaults import ANOTHER_WAY
from conflayers.body.handover import check_cache
from conflayers.body.portable import PortableBody
from conflayers.errors import InputError
from conflayers.multimodal import beside_ids, refuse_other_prompts

_DRAFTS_ITSELF = "the model drafts for itself; leave it out"
# Settings that would change what comes out or how, the values that ask for nothing, and what to do instead.
NOT_HONOURED: dict[str, tuple[tuple[Any, ...], str]] = {
    **ANOTHER_WAY,
    "prompt_lookup_num_tokens": ((None,), _DRAFTS_ITSELF),
    "assistant_early_exit": ((None,), _DRAFTS_ITSELF),
    "use_mtp": ((None, False), _DRAFTS_ITSELF),
    "speculation_type": ((None,), _DRAFTS_ITSELF),
    "is_assistant": ((None, False), _DRAFTS_ITSELF),
    "use_cache": ((None, True), "drafts need the cache; leave it out"),
    "cache_implementation": ((None, "dynamic"), "the keys and values are kept in a cache of our own; leave it out"),
    "compile_config": ((None,), "the passes are of many lengths and not compiled; leave it out"),
    "prefill_chunk_size": ((None,), "the prompt runs in one pass; leave it out"),
    "output_attentions": ((None, False), "attentions are not recorded; leave it out"),
    "output_hidden_states": ((None, False), "hidden states are not recorded; leave it out"),
}
# By name: processors that count their calls or run the model, and would see drafts among the calls.
STATEFUL_PROCESSORS = (
    "SynthIDTextWatermarkLogitsProcessor",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor",
)
KNOWN_INPUTS = frozenset({"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"})


@dataclass(frozen=True, slots=True)
class Request:
    """One text to continue.

    Attributes:
        ids: what the caller sees as the prompt, [1, tokens]: with padding, and maybe without what is cached.
        tokens: the prompt as the body sees it. Cached tokens that the caller did not repeat are stood in for.
        padding: tokens of left padding, which the body does not see.
        cached: tokens of the prompt whose keys and values the caller's cache already has.
        hidden: tokens of the prompt that `ids` does not have.
        cache: the caller's.
        new_tokens: the most that may be generated, 1 or more.
        inputs: what belongs to `tokens` beside the ids, such as images; empty for text.
    """

    ids: torch.Tensor
    tokens: list[int]
    padding: int
    cached: int
    hidden: int
    cache: Any
    new_tokens: int
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that processors see in front of those that the body sees."""
        return () if self.hidden else tuple(self.ids[0, : self.padding].tolist())


def check_settings(config: GenerationConfig, processors: LogitsProcessorList) -> None:
    """Refuse what cannot be honoured.

    Raises:
        InputError: it names the setting and says what to do.
    """
    for name, (nothing, advice) in NOT_HONOURED.items():
        value = getattr(config, name, None)
        if value not in nothing:
            raise InputError(f"{name}={value!r} cannot be honoured by self-speculative decoding: {advice}")
    for processor in processors:
        if type(processor).__name__ in STATEFUL_PROCESSORS:
            raise InputError(
                f"{type(processor).__name__} keeps state from call to call, and drafts would be counted: leave it out"
            )


def check_dropped(values: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that it does not pass on to a decoding function.

    Raises:
        InputError: one of them is given.
    """
    if values.get("assistant_model") is not None:
        raise InputError("assistant_model= cannot be honoured: the model drafts for itself; leave it out")
    if values.get("synced_gpus"):
        raise InputError("synced_gpus=True cannot be honoured: requests of several processes do not run in step")


def _beside_ids(inputs: Mapping[str, Any], count: int, padding: int, held: int) -> dict[str, Any]:
    """What the prompt is beside its ids, such as images, for `PortableBody.prefill`; nothing for text."""
    others = {name: value for name, value in inputs.items() if name not in KNOWN_INPUTS}
    found = beside_ids(others, count, padding)
    if found and held:
        raise InputError(
            f"past_key_values already holds {held} tokens, and the prompt comes with {', '.join(sorted(found))}: "
            "images can only be read from the beginning, so give the whole prompt and no cache"
        )
    return beside_ids({**others, "position_ids": inputs.get("position_ids")}, count, padding) if found else {}


def read_request(
    body: PortableBody, ids: torch.Tensor, config: GenerationConfig, limit: int, inputs: Mapping[str, Any]
) -> Request:
    """The text to continue.

    Args:
        ids: as `generate` passes them on, [1, tokens].
        config: its complete settings.
        limit: tokens at which the text ends, counted as in `ids`.
        inputs: what else the model would be given.

    Raises:
        InputError: not one text, a mask or positions that are not those of left padding, a cache that cannot be
            continued, or more tokens than the model's context.
    """
    refuse_other_prompts({name: value for name, value in inputs.items() if name not in KNOWN_INPUTS})
    if ids.shape[0] != 1 or ids.shape[1] == 0:
        raise InputError(f"input_ids has the shape {list(ids.shape)}: give one text of one token or more at a time")
    mask, cache = inputs.get("attention_mask"), inputs.get("past_key_values")
    # `generate` drops a mask of ones, and notes its length in newer versions.
    width = mask.shape[-1] if mask is not None else getattr(config, "_mask_length", ids.shape[1])
    padding = _padding(mask)
    held = check_cache(body, cache, padding) if cache is not None else 0
    # As in plain decoding: a mask as long as the ids says that they repeat what is cached.
    hidden = held if held and width != ids.shape[1] else 0
    if hidden + ids.shape[1] != width:
        raise InputError(
            f"attention_mask is for {width} tokens, but there are {ids.shape[1]} in input_ids and {held} in the cache"
        )
    if held and held >= width:
        raise InputError(
            f"past_key_values already holds {held} tokens, and the prompt has {width}: nothing is left to run"
        )
    beside = _beside_ids(inputs, ids.shape[1], padding, held)
    if not beside:
        _check_positions(inputs.get("position_ids"), mask, width)
    visible = ids[0].tolist()
    tokens = [visible[0]] * (hidden - padding) + visible if hidden else visible[padding:]
    new_tokens = max(limit - ids.shape[1], 1)
    if len(tokens) + new_tokens > body.context:
        raise InputError(
            f"{len(tokens)} prompt tokens and {new_tokens} new ones exceed the model's context of {body.context}: "
            "lower max_new_tokens or max_length"
        )
    cached = max(held - padding, 0)
    return Request(ids, tokens, padding, cached, cached if hidden else 0, cache, new_tokens, beside)


def _padding(mask: torch.Tensor | None) -> int:
    if mask is None:
        return 0
    seen = mask.reshape(-1).bool().tolist() if mask.dim() == 2 and mask.shape[0] == 1 else []
    padding = seen.index(True) if True in seen else len(seen)
    if not seen or not all(seen[padding:]) or padding == len(seen):
        raise InputError(
            "attention_mask must be [1, tokens] with zeros at the left only: text with masked tokens inside or at its "
            "end cannot be continued (without a mask, generate masks every pad token)"
        )
    return padding


def _check_positions(positions: torch.Tensor | None, mask: torch.Tensor | None, width: int) -> None:
    if positions is None:
        return
    if positions.dim() == 3:
        # Models with an axis for each direction of an image have the same on all of them in a text.
        for axis in positions:
            _check_positions(axis, mask, width)
        return
    expected = torch.arange(width) if mask is None else (mask[0].long().cumsum(-1) - 1).clamp(min=0).cpu()
    given = positions.reshape(-1).cpu()
    if positions.shape[0] != 1 or given.shape[0] > width or not torch.equal(given, expected[width - given.shape[0] :]):
        raise InputError("position_ids are not those of a text in order: leave them out")
