"""Tiny vision-language models with random weights, and prompts with images for them.

As in `families`, weights are spread widely and sliding windows are short, so that a wrong position, mask or row changes
the text. Images are random tensors, put where a processor would put them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lossless.families import LAYERS, VOCABULARY, WINDOW, disturb
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedModel

IMAGE, VIDEO, START, END = VOCABULARY - 1, VOCABULARY - 2, VOCABULARY - 3, VOCABULARY - 4
SIDE, PATCH = 16, 4

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
# As many layers as the decoder, which must not be taken for one.
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_QWEN_TOWER = {
    "depth": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 16}


def _pixels(images: int, *shape: int, seed: int) -> torch.Tensor:
    return torch.randn(images, *shape, generator=torch.Generator().manual_seed(seed))


def _pictures(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": _pixels(images, 3, SIDE, SIDE, seed=seed)}


def _sized(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    return {**_pictures(ids, images, seed), "image_sizes": torch.tensor([[SIDE, SIDE]] * images)}


def _marked(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    return {**_pictures(ids, images, seed), "token_type_ids": (ids == IMAGE).long()}


def _in_one_row(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(1, images, SIDE, SIDE, dtype=torch.long)
    return {"pixel_values": _pixels(images, 3, SIDE, SIDE, seed=seed)[None], "pixel_attention_mask": mask}


def _patches(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    grid = SIDE // PATCH
    return {
        "pixel_values": _pixels(images * grid**2, 3 * 2 * PATCH**2, seed=seed),
        "image_grid_thw": torch.tensor([[1, grid, grid]] * images),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def _tiles(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    # The whole picture and one tile of it.
    pixels = _pixels(images * 2, 3, SIDE, SIDE, seed=seed).reshape(images, 2, 3, SIDE, SIDE)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[SIDE, SIDE]] * images)}


def _placed(ids: torch.Tensor, images: int, seed: int) -> dict[str, torch.Tensor]:
    grid = SIDE // PATCH
    places = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).flip(-1)
    return {
        "pixel_values": _pixels(images, grid**2, 3 * PATCH**2, seed=seed),
        "image_position_ids": places.expand(images, -1, -1).clone(),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


@dataclass(frozen=True)
class Vision:
    """A tiny model: its type and configuration, what an image is to it, and how many tokens it takes."""

    name: str
    config: dict[str, Any] = field(hash=False)
    inputs: Callable[[torch.Tensor, int, int], dict[str, torch.Tensor]]
    tokens: int = 4
    before: tuple[int, ...] = ()
    seed: int = 0

    def build(self) -> PreTrainedModel:
        config = CONFIG_MAPPING[self.name](**{"tie_word_embeddings": False, **self.config})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
            disturb(model)
            _fill(model)
        return model

    def prompt(self, images: int, seed: int = 0) -> dict[str, torch.Tensor]:
        """What a processor puts out for a text with so many images, with other pixels for every seed."""
        ids = [5, 17, 33]
        for index in range(images):
            ids += [*self.before, *[IMAGE] * self.tokens, 60 + index, 44]
        row = torch.tensor([[*ids, 91, 100, 7, 23, 55, 71, 12]])
        inputs = self.inputs(row, images, seed) if images else {}
        return {"input_ids": row, "attention_mask": torch.ones_like(row), **inputs}


@torch.no_grad()
def _fill(model: PreTrainedModel) -> None:
    """Projections that start as zeros would hide the image."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.4)


def _qwen(name: str, tower: dict[str, Any], seed: int = 0, **text: Any) -> Vision:
    config = {"text_config": {**_TEXT, "rope_parameters": _ROPE, **text}, "vision_config": tower, **_QWEN_TOKENS}
    return Vision(name, config, _patches, before=(START,), seed=seed)


_DEEPSTACK = {**_QWEN_TOWER, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 16}
_INTERLEAVED = {**_ROPE, "mrope_interleaved": True}
_LLAMA = {**_TEXT, "model_type": "llama"}
_IDEFICS = {"text_config": _LLAMA, "vision_config": _TOWER, "image_token_id": IMAGE, "scale_factor": 2}
_TILED = {"image_token_index": IMAGE, "image_grid_pinpoints": [[SIDE, SIDE]]}

_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}

QUICK = (
    _qwen("qwen2_5_vl", {**_QWEN_TOWER, "window_size": 16, "fullatt_block_indexes": [1]}, seed=1),
    _qwen("qwen3_vl", _DEEPSTACK, rope_parameters=_INTERLEAVED),
    Vision("llava", {"text_config": _LLAMA, "vision_config": _CLIP, "image_token_index": IMAGE}, _pictures, tokens=16),
    Vision("smolvlm", {**_IDEFICS, "pad_token_id": 0}, _in_one_row),
    Vision(
        "gemma3",
        {
            "text_config": {**_TEXT, **_ALTERNATING},
            "vision_config": _TOWER,
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
            "boi_token_index": START,
            "eoi_token_index": END,
            "eos_token_id": None,
        },
        _marked,
    ),
)

SLOW = (
    _qwen("qwen2_vl", {**_QWEN_TOWER, "embed_dim": 16, "hidden_size": 32}),
    _qwen(
        "qwen3_vl_moe",
        _DEEPSTACK,
        rope_parameters=_INTERLEAVED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    Vision("idefics3", {**_IDEFICS, "pad_token_id": 0}, _in_one_row),
    Vision(
        "mistral3",
        {
            "text_config": {**_TEXT, "model_type": "mistral", "sliding_window": WINDOW},
            "vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8},
            "image_token_index": IMAGE,
            "spatial_merge_size": 2,
        },
        _sized,
    ),
    Vision(
        "internvl",
        {
            "text_config": {**_TEXT, "model_type": "qwen2"},
            "vision_config": {**_TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
            "image_token_id": IMAGE,
        },
        _pictures,
    ),
    Vision(
        "gemma4",
        {
            "text_config": {
                **_TEXT,
                **_ALTERNATING,
                "num_kv_shared_layers": 0,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": VOCABULARY,
                "use_bidirectional_attention": "vision",
            },
            "vision_config": {**_TOWER, "num_key_value_heads": 2, "head_dim": 8, "pooling_kernel_size": 2},
            "image_token_id": IMAGE,
        },
        _placed,
    ),
    Vision(
        "glm4v",
        {
            "text_config": {**_TEXT, "rope_parameters": _ROPE},
            "vision_config": {**_QWEN_TOWER, "hidden_size": 32, "image_size": SIDE},
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "image_start_token_id": START,
            "image_end_token_id": END,
        },
        _patches,
        before=(START,),
    ),
    Vision(
        "aya_vision",
        {
            "text_config": {**_TEXT, **_ALTERNATING, "model_type": "cohere2"},
            "vision_config": {**_TOWER, "model_type": "siglip_vision_model"},
            "image_token_index": IMAGE,
        },
        _pictures,
    ),
    # A row break after each row of the tile's 4 x 4 patches, and the whole picture's 16.
    Vision("llava_next", {"text_config": _LLAMA, "vision_config": _CLIP, **_TILED}, _tiles, tokens=36),
)

# Each with what the message must say.
REFUSED = (
    (
        Vision(
            "paligemma",
            {
                "text_config": {**_TEXT, "model_type": "gemma"},
                "vision_config": {**_TOWER, "model_type": "siglip_vision_model", "projection_dim": 32},
                "image_token_index": IMAGE,
                "projection_dim": 32,
            },
            _marked,
        ),
        "'a prefix does not see what follows it'",
    ),
    (
        Vision(
            "mllama",
            {
                "text_config": {**_TEXT, "cross_attention_layers": [1, 3]},
                "vision_config": {
                    "hidden_size": 16,
                    "intermediate_size": 24,
                    "num_hidden_layers": 2,
                    "num_global_layers": 1,
                    "attention_heads": 2,
                    "image_size": SIDE,
                    "patch_size": PATCH,
                    "vision_output_dim": 32,
                    "intermediate_layers_indices": [0],
                },
                "image_token_index": IMAGE,
            },
            _pictures,
        ),
        "does not run its 6 decoder layers once each",
    ),
)
