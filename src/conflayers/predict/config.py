"""A model's shape from its config.json, in a folder or on the hub."""

from pathlib import Path
from typing import Any

from conflayers.errors import InputError
from conflayers.predict.shapes import ALIASES, SHAPES, Shape, named_shape

# Dense models whose layers are those that `Shape` describes.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def shape_of(source: str) -> Shape:
    """The shape of a model by a name of the table, a folder with a config.json, or a hub id that can be reached.

    Raises:
        InputError: nothing of that name, a configuration that cannot be read, or a model that is not dense Llama-like.
    """
    if source.strip().lower() in SHAPES.keys() | ALIASES.keys():
        return named_shape(source)
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"the folder {source} has no config.json")
        return read_shape(source, folder.resolve().name)
    if source.count("/") == 1 and not source.startswith((".", "/")):
        return read_shape(source, source)
    return named_shape(source)


def read_shape(source: str, name: str) -> Shape:
    """The shape in a configuration that transformers can read.

    Args:
        source: a folder or a hub id; no code of its own is run.
        name: what to call it.

    Raises:
        InputError: it cannot be read, or the model is not dense Llama-like.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source).get_text_config()
    except Exception as error:  # whatever a damaged file or an unreachable hub makes of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot read the configuration of {source}: {reason}") from error
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{source} is of the kind {config.model_type!r}, and predictions are made for {', '.join(FAMILIES)} only"
        )
    return _shape(config, name)


def _shape(config: Any, name: str) -> Shape:
    heads, llama = config.num_attention_heads, config.model_type == "llama"
    bias = bool(getattr(config, "attention_bias", False))
    return Shape(
        name=name,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qkv_bias=config.model_type == "qwen2" or bias,
        o_bias=bias,
        mlp_bias=llama and bool(getattr(config, "mlp_bias", False)),
        qk_norm=config.model_type == "qwen3",
    )
