"""Bring the files of a Hugging Face model into the local cache: those the loader needs, all of one revision."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from conflayers.body.folder_guard import PICKLES, PICKLES_ONLY, read_json, weight_files
from conflayers.errors import LoadError

TIMEOUT_SECONDS = 10.0
_SMALL_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a model at one commit: where they lie, and whether the hub could be asked about more of them."""

    folder: Path
    commit: str
    online: bool


def fetch_snapshot(repo: str, *, revision: str | None = None, code: bool = False) -> Snapshot:
    """Download what is needed of the model `repo`, or find it in the cache if the hub cannot be reached.

    Fetches the safetensors weights, configuration and tokenizer of `revision` (the default branch if None), and the
    Python files too if `code`. HF_HUB_OFFLINE is honoured. Raises LoadError that says what is missing, or whether the
    name is malformed, unknown, or needs a login.
    """
    try:
        names = _names(repo, revision)
    except LoadError:
        raise
    except Exception as error:  # which errors mean "not reachable" depends on the HTTP library of the day
        return _cached(repo, revision, _reason(error))
    if "config.json" not in names:
        raise LoadError(f"{repo}: has no config.json; {_advice_without_config(repo, names)}")
    return _download(repo, revision, names, code)


def _names(repo: str, revision: str | None) -> list[str]:
    at = f" at revision {revision!r}" if revision else ""
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise LoadError(f"{repo!r} is not a model: no such file or folder, and not a hub id ({error})") from error
    except GatedRepoError as error:
        raise LoadError(f"{repo}: accept its terms on the hub's web page first, then run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{repo}: the hub knows the model, but not{at}") from error
    except RepositoryNotFoundError as error:
        raise LoadError(f"{repo}: no such file or folder, and no such public model on the hub{at}") from error
    return [file.rfilename for file in info.siblings or []]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _advice_without_config(repo: str, names: Iterable[str]) -> str:
    if found := sorted(name for name in names if name.endswith(".gguf")):
        return f"fetch one of its GGUF files (`hf download {repo} {found[0]}`) and pass the path of that file"
    return "it is not a transformers model"


def _cached(repo: str, revision: str | None, reason: str) -> Snapshot:
    advice = (
        f"run `hf download {repo}` with access to the hub, or pass the path of a folder that has config.json, "
        "model.safetensors and the tokenizer's files"
    )
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise LoadError(f"{repo}: not a local path, not in the cache, and no hub ({reason}); {advice}") from error
    try:
        weight_files(folder, read_json(folder / "config.json"))
    except LoadError as error:
        raise LoadError(f"{error}. The copy in the cache is not whole, and no hub ({reason}); {advice}") from error
    return Snapshot(folder, folder.name, online=False)


def _download(repo: str, revision: str | None, names: Iterable[str], code: bool) -> Snapshot:
    def fetch(name: str, at: str | None) -> Path:
        try:
            return Path(hf_hub_download(repo, name, revision=at, etag_timeout=TIMEOUT_SECONDS))
        except Exception as error:
            raise LoadError(f"{repo}: fetching {name} failed ({_reason(error)}); try again") from error

    # By its revision, so that the cache learns which commit that is; everything else by that commit.
    folder = fetch("config.json", revision).parent
    commit = folder.name
    suffixes = (*_SMALL_FILES, ".py") if code else _SMALL_FILES
    for name in names:
        top_level = "/" not in name or name.startswith("additional_chat_templates/") or (code and name.endswith(".py"))
        if top_level and name.endswith(suffixes):
            fetch(name, commit)
    weights = _weights(folder, names)
    if not weights and any(name.endswith(PICKLES) for name in names):
        raise LoadError(f"{repo}: {PICKLES_ONLY}")
    for name in weights:
        fetch(name, commit)
    return Snapshot(folder, commit, online=True)


def _weights(folder: Path, names: Iterable[str]) -> list[str]:
    explicit = read_json(folder / "config.json").get("transformers_weights")
    chosen = explicit if isinstance(explicit, str) else _WEIGHTS if _WEIGHTS in names else _INDEX
    if chosen not in names:
        return []
    if not chosen.endswith(".index.json"):
        return [chosen]
    shards = read_json(folder / chosen).get("weight_map")
    return sorted({str(name) for name in shards.values()} & set(names)) if isinstance(shards, dict) else []
