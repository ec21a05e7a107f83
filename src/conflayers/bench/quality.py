"""Stub."""


def rouge2(a: str, b: str) -> float:
    """S."""
    return 1.0
