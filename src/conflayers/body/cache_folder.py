"""The folder for what is fetched, converted or compiled once, and used by every later process."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conflayers.errors import LoadError

_STALE_SECONDS = 24 * 3600


def cache_place() -> Path:
    """Where the folder is: $CONFLAYERS_CACHE, else conflayers in the user's cache folder. It may not be there yet.

    Raises:
        LoadError: there is no such place.
    """
    try:
        if chosen := os.environ.get("CONFLAYERS_CACHE"):
            return Path(chosen).expanduser()
        if shared := os.environ.get("XDG_CACHE_HOME"):
            return Path(shared) / "conflayers"
        return Path.home() / ".cache" / "conflayers"
    except RuntimeError as error:
        raise _nowhere(error) from error


def cache_folder() -> Path:
    """The folder, to write to; made if it is missing.

    Raises:
        LoadError: there is no such place or it cannot be written to.
    """
    try:
        folder = cache_place()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is read-only")
    except (OSError, RuntimeError) as error:
        raise _nowhere(error) from error
    return folder


def _nowhere(error: Exception) -> LoadError:
    return LoadError(f"no cache folder ({error}); set CONFLAYERS_CACHE to a folder that can be written")


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
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


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
