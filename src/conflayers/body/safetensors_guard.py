"""Check the header of a safetensors file before its weights are mapped, so that an error can name file and tensor."""

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Never

from conflayers.errors import LoadError

MAX_HEADER = 100_000_000

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


def check_safetensors(path: Path) -> dict[str, int]:
    """Check that the header of `path` describes its data exactly, and return the number of elements of each tensor.

    Never reads tensor data. The file must be regular. Raises LoadError, naming the file and, where there is one, the
    tensor: an over-long or unreadable header, a tensor given twice, an unknown type, data outside the file,
    overlapping or forgotten.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            if length > min(MAX_HEADER, size - 8):
                _fail(path, f"its header claims {length} bytes; the file has {size}, and the limit is {MAX_HEADER}")
            entries = _parse(path, file.read(length))
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    _check_layout(path, entries, size - 8 - length)
    return {name: prod(entry["shape"]) for name, entry in entries.items()}


def _fail(path: Path, reason: str) -> Never:
    raise LoadError(f"{path}: damaged safetensors file: {reason}")


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                _fail(path, f"{name!r} appears twice in the header")
            found[name] = value
        return found

    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: damaged safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        _fail(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _check_layout(path: Path, entries: Mapping[str, Any], data_bytes: int) -> None:
    spans = sorted((*_span(path, name, entry), name) for name, entry in entries.items())
    end, previous = 0, ""
    for start, stop, name in spans:
        if stop > data_bytes:
            _fail(path, f"tensor {name!r} ends at {stop}, outside the {data_bytes} bytes of data")
        if start < end:
            _fail(path, f"tensors {previous!r} and {name!r} overlap")
        if start > end:
            _fail(path, f"{start - end} bytes before tensor {name!r} belong to no tensor")
        end, previous = stop, name
    if end != data_bytes:
        _fail(path, f"the last {data_bytes - end} bytes belong to no tensor")


def _span(path: Path, name: str, entry: object) -> tuple[int, int]:
    if not isinstance(entry, dict):
        _fail(path, f"tensor {name!r} is not described by a JSON object")
    bits = _BITS.get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
    if bits is None:
        _fail(path, f"tensor {name!r} has unknown type {entry.get('dtype')!r}")
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        _fail(path, f"tensor {name!r} has an unreadable shape or place")
    start, stop = offsets
    if (stop - start) * 8 != prod(shape) * bits:
        _fail(path, f"tensor {name!r} of shape {shape} and type {entry['dtype']} cannot fill {stop - start} bytes")
    return start, stop


def _naturals(value: object) -> list[int] | None:
    # The limits keep the product of a hostile shape from becoming a number that takes minutes to compute.
    if not isinstance(value, list) or len(value) > 64:
        return None
    return value if all(type(item) is int and 0 <= item < 1 << 63 for item in value) else None
