"""Keys and values taken over from a cache of transformers, and handed back to it.

Such a cache counts the padding of a left-padded prompt as tokens; the body never sees that padding.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from conflayers.body.portable import PortableBody
from conflayers.errors import InputError


def check_cache(body: PortableBody, cache: Any, padding: int = 0) -> int:
    """How many tokens `cache` holds, padding included.

    Args:
        body: what shall go on from there.
        cache: what a caller passes as `past_key_values`.
        padding: tokens at the beginning that are padding.

    Raises:
        InputError: it is of another kind than `generate` makes by default, or not for this model and one text.
    """
    if type(cache) is not DynamicCache or cache.offloading:
        raise InputError(
            f"past_key_values is {_describe(cache)}; only a DynamicCache without offloading can be continued: "
            "make one with DynamicCache(config=model.config)"
        )
    tokens = int(cache.get_seq_length())
    if cache.layers and len(cache.layers) != body.layers:
        raise InputError(
            f"past_key_values has {len(cache.layers)} layers and the model {body.layers}: it was made for another model"
        )
    if 0 < tokens <= padding:
        raise InputError(f"past_key_values holds {tokens} tokens, all of them padding: start with an empty cache")
    for index, (layer, window) in enumerate(zip(cache.layers, body.anatomy.windows, strict=False)):
        _check_layer(index, layer, window, tokens, padding)
        wanted = body.key_shape
        if tokens and wanted is not None and (layer.keys.shape[1], layer.keys.shape[3]) != wanted:
            raise InputError(
                f"layer {index} of past_key_values has {layer.keys.shape[1]} heads of {layer.keys.shape[3]}, the model "
                f"{wanted[0]} of {wanted[1]}: it was made for another model"
            )
    return tokens


def _describe(cache: object) -> str:
    if isinstance(cache, DynamicCache):
        return "an offloaded cache"
    return f"a {type(cache).__name__}"


def _check_layer(index: int, layer: Any, window: int | None, tokens: int, padding: int) -> None:
    sliding = type(layer) is DynamicSlidingWindowLayer
    if not sliding and type(layer) is not DynamicLayer:
        raise InputError(f"layer {index} of past_key_values is a {type(layer).__name__}, which cannot be continued")
    if sliding and layer.sliding_window != window:
        raise InputError(
            f"layer {index} of past_key_values keeps {layer.sliding_window} tokens, the model's attention there sees "
            f"{window or 'all'}: it was made for another model"
        )
    if not tokens:
        return
    if layer.get_seq_length() != tokens:
        raise InputError(f"layer {index} of past_key_values holds {layer.get_seq_length()} tokens, others {tokens}")
    if layer.keys.shape[0] != 1:
        raise InputError(f"past_key_values is for {layer.keys.shape[0]} texts at once: give one text at a time")
    first, wanted = tokens - layer.keys.shape[2], 0 if window is None else max(tokens - window + 1, 0)
    if first > max(wanted, padding):
        raise InputError(
            f"layer {index} of past_key_values has lost the tokens before position {first}, which the model still sees"
        )


def adopt(body: PortableBody, cache: Cache, padding: int = 0) -> None:
    """Fill the body's empty cache with what `cache` holds, without running the model.

    Args:
        body: with room reserved.
        cache: as checked by `check_cache`.
        padding: tokens at its beginning to leave out.
    """
    tokens = cache.get_seq_length()
    ours = body.cache
    for mine, theirs in zip(ours.layers, cache.layers, strict=True):
        # A sliding layer has only its last tokens; the rows before them are never read.
        first = tokens - theirs.keys.shape[2]
        start = max(first, padding)
        if not mine.is_initialized:
            mine.lazy_initialization(theirs.keys, theirs.values)
        mine.keys[:, :, start - padding : tokens - padding] = theirs.keys[:, :, start - first :]
        mine.values[:, :, start - padding : tokens - padding] = theirs.values[:, :, start - first :]
    ours.advance(tokens - padding)


def hand_back(body: PortableBody, cache: Cache, padding: int = 0) -> None:
    """Append to `cache` what the body's cache holds beyond it, as plain decoding would have left it.

    Args:
        body: after a text.
        cache: what the text was begun with, untouched since.
        padding: tokens before the body's first that are padding; rows of zeros stand for them.
    """
    held = cache.get_seq_length()
    ours = body.cache
    for index, layer in enumerate(ours.layers):
        start = max(held - padding, 0)
        keys, values = (rows[:, :, start : ours.length] for rows in (layer.keys, layer.values))
        if not held and padding:
            keys, values = (torch.cat([_blank(rows, padding), rows], dim=2) for rows in (keys, values))
        # Concatenates, so that nothing of ours is shared; a sliding layer keeps the end.
        cache.update(keys, values, index)


def _blank(rows: torch.Tensor, count: int) -> torch.Tensor:
    return rows.new_zeros((*rows.shape[:2], count, rows.shape[3]))
