"""Stub."""

from pathlib import Path


def run(folder: Path) -> None:
    """S."""
