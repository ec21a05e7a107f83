"""Writing files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, in place of what is there; another process sees the old file or the new one.

    Raises:
        OSError: the place cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=path.name[:100], suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
