"""Check a model folder before transformers reads it: what would be read, whether it is whole, whether it runs code.

A folder may come from anyone. Nothing in it is opened until it is known to be a regular file of that folder, and
nothing is executed unless the caller trusts it.
"""

import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from conflayers.body.safetensors_guard import check_safetensors
from conflayers.errors import LoadError

MAX_JSON = 100_000_000
MAX_TEMPLATE = 1_000_000
MAX_EXPERTS = 10_000
TRUST_ADVICE = "to run it, read it first and then pass trust_remote_code=True (--trust-remote-code)"

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PICKLES_ONLY = "has its weights as pickle files only, which can run code when read; convert them to safetensors first"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """What loading needs to know about a folder that passed.

    `nbytes` is the size of its weights, `weights` their number, `files` the file of each tensor; `has_tokenizer` tells
    whether there is a tokenizer to load, `has_processor` whether there is something to prepare images with;
    `tokenizer_code` names the classes in the folder's own code that its tokenizer may need.
    """

    nbytes: int
    weights: int
    files: Mapping[str, Path]
    has_tokenizer: bool
    has_processor: bool
    tokenizer_code: tuple[str, ...]


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> FolderSummary:
    """Check everything transformers would read from `folder`, without reading the weights themselves.

    Raises LoadError, naming the file, if an entry is not a regular file or leads out of the folder, if config.json
    is missing or asks for code that is not trusted, or if the weights are missing, damaged or not safetensors.
    """
    check_entries(folder)
    config = read_json(folder / "config.json")
    tokenizer_config = _optional_json(folder / "tokenizer_config.json")
    for name in (*_PROCESSOR_FILES, "video_preprocessor_config.json"):
        _optional_json(folder / name)
    if (folder / "adapter_config.json").exists():
        raise LoadError(f"{folder}: has an adapter_config.json; merge the adapter into its base model and load that")
    if not trust_remote_code:
        _refuse_code(folder, config, tokenizer_config)
    _check_templates(folder)
    shards = weight_files(folder, config)
    files, weights = _check_weights(folder, shards)
    _check_counts(folder, config, len(files))
    return FolderSummary(
        nbytes=sum(shard.stat().st_size for shard in shards),
        weights=weights,
        files=files,
        has_tokenizer=any((folder / name).exists() for name in _TOKENIZER_FILES) or any(folder.glob("*.model")),
        has_processor=any((folder / name).exists() for name in _PROCESSOR_FILES),
        tokenizer_code=code_classes(tokenizer_config),
    )


def check_entries(folder: Path) -> None:
    """Raise LoadError unless each entry of `folder` is a regular file or a folder, and lies inside `folder`.

    Links inside the Hugging Face cache may lead from a snapshot to the blobs of the same model, as they do there.
    """
    roots = _roots(folder)
    try:
        entries = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    except OSError as error:
        raise LoadError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        _check_entry(entry, roots)


def _roots(folder: Path) -> list[Path]:
    root = folder.resolve()
    model = root.parent.parent
    in_cache = root.parent.name == "snapshots" and model.name.startswith("models--")
    return [root, model / "blobs"] if in_cache else [root]


def _check_entry(entry: Path, roots: Iterable[Path]) -> None:
    try:
        real = entry.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise LoadError(f"{entry}: a link to nothing; fetch the file it stands for again") from error
    if not any(real.is_relative_to(root) for root in roots):
        raise LoadError(f"{entry}: leads out of the model's folder, to {real}; copy the file instead of linking to it")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise LoadError(f"{entry}: not a regular file (a pipe, a socket or a device); remove it")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 100 MB. Raises LoadError if the file is missing or holds anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise LoadError(f"{path}: larger than {MAX_JSON} bytes, which no model needs")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LoadError(f"{path}: missing; a model folder has a config.json and *.safetensors") from error
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path}: not a JSON object")
    return value


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def code_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of the folder's own Python code that a config's `auto_map` asks for."""
    auto_map = config.get("auto_map")
    values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    # A tokenizer gives a pair: the slow class and the fast one, either of which may be absent.
    flat = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return tuple(dict.fromkeys(str(name) for name in flat if name))


def _refuse_code(folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    classes = code_classes(config)
    # Where transformers has the class itself, it uses that one and leaves the folder's code alone.
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        if classes:
            raise LoadError(f"{folder}: needs its own code ({', '.join(classes)}); {TRUST_ADVICE}")
        raise LoadError(f"{folder / 'config.json'}: transformers does not know model_type {kind!r}")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
            if "/" in str(part.get(key)):
                raise LoadError(f"{folder}: config.json asks for the downloaded kernel {part[key]!r}; {TRUST_ADVICE}")
    if tokenizer_config.get("init_inputs"):
        raise LoadError(f"{folder}: tokenizer_config.json passes its own init_inputs; {TRUST_ADVICE}")


def _check_templates(folder: Path) -> None:
    for template in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        if template.stat().st_size > MAX_TEMPLATE:
            raise LoadError(f"{template}: a chat template larger than {MAX_TEMPLATE} bytes")


def weight_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The safetensors files that hold the weights of the model in `folder`, in order.

    Raises LoadError if there are none, naming what is there instead, or if the index names a missing shard.
    """
    explicit = config.get("transformers_weights")
    for name in [explicit] if isinstance(explicit, str) else ["model.safetensors", "model.safetensors.index.json"]:
        path = folder / name
        if not path.exists():
            continue
        if name.endswith(".safetensors"):
            return [path]
        if name.endswith(".safetensors.index.json"):
            return _shards(folder, path)
    raise LoadError(f"{folder}: {_instead_of_weights(folder)}")


def _shards(folder: Path, index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise LoadError(f"{index}: has no weight_map from tensors to files")
    shards = [folder / name for name in sorted(set(weight_map.values()))]
    for shard in shards:
        if not shard.exists():
            raise LoadError(f"{index}: names the shard {shard.name}, which is missing; fetch it again")
    return shards


def _instead_of_weights(folder: Path) -> str:
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        return PICKLES_ONLY
    if found := sorted(path.name for path in folder.glob("*.gguf")):
        return f"has no model.safetensors; to load a GGUF file pass its path, as {folder / found[0]}"
    return "has no model.safetensors and no model.safetensors.index.json"


def _check_weights(folder: Path, shards: Iterable[Path]) -> tuple[dict[str, Path], int]:
    files: dict[str, Path] = {}
    weights = 0
    for shard in shards:
        # An index may name files in other folders, which the look at this folder's entries did not see.
        _check_entry(shard, _roots(folder))
        for name, elements in check_safetensors(shard).items():
            if name in files:
                raise LoadError(f"{shard}: tensor {name!r} is also in {files[name].name}")
            files[name] = shard
            weights += elements
    return files, weights


def _check_counts(folder: Path, config: Mapping[str, Any], tensor_count: int) -> None:
    # The modules are built before their weights are looked for: a count out of all proportion never ends.
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            limit = tensor_count if key in _LAYER_KEYS else MAX_EXPERTS if "experts" in key else None
            if limit is not None and isinstance(value, int) and value > limit:
                raise LoadError(
                    f"{folder}: config.json has {key} = {value}; with {tensor_count} tensors, that cannot be"
                )
