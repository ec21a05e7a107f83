"""From a source string to a model in memory: the alias, a GGUF file, a folder, or a hub id.

Each kind of source has its guard, which looks at everything before transformers does.
"""

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conflayers.body import alias
from conflayers.body.build import Recipe, build
from conflayers.body.folder_guard import check_entries, check_folder
from conflayers.body.gguf_guard import check_gguf
from conflayers.body.hub import fetch_snapshot
from conflayers.body.progress_bars import progress_bars
from conflayers.errors import InputError, LoadError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to run, and where it came from.

    `model` is in evaluation mode, on its device and in its dtype. `tokenizer` is None if the source has none; for a
    model that takes images it is the processor, which has a tokenizer inside. `name` is short and for people: the
    alias, the hub id, the name of the folder or file. `source` is the hub id, the resolved path or the alias.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    source: str


def load_checkpoint(
    source: str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = False,
) -> Checkpoint:
    """Load a decoder-only model with its tokenizer.

    `source` is the alias `smollm2`, the path of a .gguf file, a folder (config.json and *.safetensors, or a single
    .gguf file), or else a hub id, which `revision` applies to. A GGUF file is loaded by itself, whatever lies beside
    it. `dtype` "auto" is the checkpoint's own, and float32 for a GGUF file, whose weights are unpacked. `device` None
    is the first there is of cuda, mps, cpu. No code of the source is run unless `trust_remote_code`. `progress` shows
    bars on standard error.

    Raises InputError for an argument that cannot be honoured, LoadError for a source that is missing, damaged, or
    wants to run code, and UnsupportedModelError for a model that is not a decoder.
    """
    chosen_dtype, chosen_device = _parse_dtype(dtype), _parse_device(device)
    path = _local_path(source)
    if revision is not None and (path is not None or source == alias.ALIAS):
        raise InputError(f"revision {revision!r} applies to hub ids only, and {source!r} is not one")
    with progress_bars(shown=progress):
        if source == alias.ALIAS:
            model, tokenizer = _load_alias(chosen_dtype, chosen_device, progress)
            return Checkpoint(model, tokenizer, source, source)
        recipe = (
            _hub_recipe(source, chosen_dtype, chosen_device, trust_remote_code, revision)
            if path is None
            else _local_recipe(path, chosen_dtype, chosen_device, trust_remote_code)
        )
        model, tokenizer = build(recipe)
    return Checkpoint(model, tokenizer, source if path is None else path.name, source if path is None else str(path))


def _parse_dtype(dtype: object) -> torch.dtype | str:
    if dtype == "auto":
        return "auto"
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1:
        return dtype
    raise InputError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}, nor a floating-point torch.dtype")


def _parse_device(device: object) -> torch.device:
    if device is None:
        present = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(present)
    try:
        parsed = torch.device(device)  # type: ignore[call-overload]
        # The only sure way to learn that a device exists is to use it.
        held = torch.empty(1, device=parsed)
    except Exception as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if held.is_meta:
        raise InputError("device 'meta' holds no weights; choose cpu, cuda or mps")
    return held.device


def _local_path(source: object) -> Path | None:
    """The resolved path that `source` stands for; None for an alias or a hub id."""
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"source {source!r} is not a name or a path")
    if source == alias.ALIAS:
        return None
    # Python 3.11 raises on a name with a null byte where later versions say that it does not exist.
    path = Path(source.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise LoadError(f"{source}: no such file or folder ({error})") from error
    looks_local = source.startswith((".", "~", os.sep)) or path.is_absolute() or source.lower().endswith(".gguf")
    if not os.path.lexists(path):
        if looks_local:
            raise LoadError(f"{source}: no such file or folder")
        return None
    # A file keeps the name it was called by: in the hub's cache it is a link to one named by its checksum.
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _local_recipe(path: Path, dtype: torch.dtype | str, device: torch.device, trust: bool) -> Recipe:
    if not path.is_dir():
        return _gguf_recipe(path, dtype, device, trust)
    if not (path / "config.json").exists() and (found := sorted(path.glob("*.gguf"))):
        if len(found) > 1:
            raise LoadError(f"{path}: holds {len(found)} GGUF files; pass the path of one, as {found[0]}")
        check_entries(path)
        return _gguf_recipe(found[0], dtype, device, trust)
    return _folder_recipe(path, str(path), dtype, device, trust)


def _gguf_recipe(path: Path, dtype: torch.dtype | str, device: torch.device, trust: bool) -> Recipe:
    summary = check_gguf(path)
    unpacked = dtype if isinstance(dtype, torch.dtype) else torch.float32
    return Recipe(
        label=f"{path} (architecture {summary.architecture!r})",
        location=str(path),
        dtype=unpacked,
        device=device,
        trust=trust,
        nbytes=summary.weights * unpacked.itemsize,
        weights=summary.weights,
        has_tokenizer=summary.has_tokenizer,
        gguf=path,
    )


def _folder_recipe(folder: Path, location: str, dtype: torch.dtype | str, device: torch.device, trust: bool) -> Recipe:
    summary = check_folder(folder, trust_remote_code=trust)
    return Recipe(
        label=location,
        location=location,
        dtype=dtype,
        device=device,
        trust=trust,
        nbytes=summary.nbytes,
        weights=summary.weights,
        has_tokenizer=summary.has_tokenizer,
        has_processor=summary.has_processor,
        tokenizer_code=summary.tokenizer_code,
        files=summary.files,
    )


def _hub_recipe(repo: str, dtype: torch.dtype | str, device: torch.device, trust: bool, revision: str | None) -> Recipe:
    try:
        snapshot = fetch_snapshot(repo, revision=revision, code=trust)
    except LoadError as error:
        if close := difflib.get_close_matches(repo.lower(), [alias.ALIAS]):
            raise LoadError(f"{error}. Did you mean {close[0]!r}?") from error
        raise
    recipe = _folder_recipe(snapshot.folder, repo, dtype, device, trust)
    return replace(recipe, revision=snapshot.commit, online=snapshot.online)


def _rounded(model: PreTrainedModel, dtype: torch.dtype | str) -> PreTrainedModel:
    """The weights in `dtype`, and only these: rotary frequencies stay exact, as when a checkpoint is loaded so."""
    if isinstance(dtype, torch.dtype):
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)
    return model


def _load_alias(
    dtype: torch.dtype | str, device: torch.device, progress: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    folder = alias.converted_model()
    if folder is None:
        recipe = _gguf_recipe(alias.fetch_gguf(progress=progress), torch.float32, torch.device("cpu"), False)
        model, tokenizer = build(recipe)
        if tokenizer is None or (folder := alias.keep_converted(model, tokenizer)) is None:
            return _rounded(model, dtype).to(device), tokenizer
    return build(_folder_recipe(folder, str(folder), dtype, device, False))
