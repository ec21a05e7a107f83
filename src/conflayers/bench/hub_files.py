"""Files of a data set: from the model hub, or from its cache on this machine."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from conflayers.bench.data import OFFLINE
from conflayers.errors import InputError

TIMEOUT_SECONDS = 10.0


def fetch(name: str, repo: str, pattern: str, revision: str | None = None) -> list[Path]:
    """The files of the hub's data set `repo` that match `pattern`, in the order of their names.

    They are downloaded to the hub's cache, or found there if the hub does not answer in `TIMEOUT_SECONDS`.
    HF_HUB_OFFLINE is honoured. `name` is what errors call the data set.

    Raises:
        InputError: they cannot be had, or not all of them; it says what can be had without a network.
    """
    what = f"the data set {name!r} ({repo})"
    try:
        paths = _from_hub(repo, pattern, revision)
    except Exception as error:  # which errors mean "not reachable" depends on the HTTP library of the day
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        paths = _from_cache(repo, pattern, revision)
        if not paths:
            raise InputError(
                f"{what} cannot be fetched from the hub ({reason}) and is not in its cache here: try again with a "
                f"network; {OFFLINE}"
            ) from error
    if not paths or not _complete(paths):
        raise InputError(f"{what} has not all of its files {pattern} here: try again with a network; {OFFLINE}")
    return paths


def _from_hub(repo: str, pattern: str, revision: str | None) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download

    # Asked with a limit of time: snapshot_download, which could do all this, waits for a silent hub without end.
    info = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT_SECONDS)
    names = sorted(file.rfilename for file in info.siblings or [] if fnmatchcase(file.rfilename, pattern))
    return [
        Path(hf_hub_download(repo, file, repo_type="dataset", revision=revision, etag_timeout=TIMEOUT_SECONDS))
        for file in names
    ]


def _from_cache(repo: str, pattern: str, revision: str | None) -> list[Path]:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=[pattern], local_files_only=True
        )
    except (OSError, ValueError):
        return []
    return sorted(Path(folder).glob(pattern))


def _complete(paths: Sequence[Path]) -> bool:
    # Files of one table are numbered so: train-00000-of-00003.
    last = re.search(r"-of-(\d+)", paths[-1].name)
    return last is None or len(paths) == int(last[1])
