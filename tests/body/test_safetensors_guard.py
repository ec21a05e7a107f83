import json
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conflayers.body.safetensors_guard import check_safetensors
from conflayers.errors import LoadError


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


def pack(header: object, data: int = 8, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def test_a_saved_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
    tensors = {str(kind): torch.zeros(2, 3).to(kind) for kind in kinds} | {"scalar": torch.tensor(1.0)}
    save_file(tensors, path, metadata={"format": "pt"})
    assert check_safetensors(path) == {name: tensor.numel() for name, tensor in tensors.items()}
    path.write_bytes(pack({"b": entry(4, 8), "a": entry(0, 4), "none": entry(4, 4, [0])}))
    assert check_safetensors(path) == {"b": 1, "a": 1, "none": 0}


BROKEN = {
    "empty": (b"", "claims"),
    "length of 2^63": (pack({}, length=1 << 63), "claims 9223372036854775808 bytes"),
    "length past the end": (pack({"a": entry(0, 8)}, length=1_000), "claims 1000 bytes"),
    "length over the limit": (pack(b"{}", length=100_000_001), "claims 100000001 bytes"),
    "not JSON": (pack(b"{'a': 1}"), "not JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "not JSON"),
    "too deep": (pack(b"[" * 50_000), "not JSON"),
    "huge number": (pack(b'{"a": {"dtype": "F32", "data_offsets": [0, 8], "shape": [' + b"9" * 5_000 + b"]}}"), "JSON"),
    "a list": (pack([]), "not a JSON object"),
    "duplicate": (pack(b'{"a": 1, "a": 2}'), "'a' appears twice"),
    "entry a number": (pack({"a": 1}), "tensor 'a' is not described"),
    "no type": (pack({"a": {"shape": [2], "data_offsets": [0, 8]}}), "'a' has unknown type None"),
    "unknown type": (pack({"a": entry(0, 8, dtype="F33")}), "'a' has unknown type 'F33'"),
    "type a list": (pack({"a": entry(0, 8) | {"dtype": ["F32"]}}), "'a' has unknown type"),
    "no shape": (pack({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "'a' has an unreadable shape"),
    "negative shape": (pack({"a": entry(0, 8, [-2])}), "'a' has an unreadable shape"),
    "fractional shape": (pack({"a": entry(0, 8) | {"shape": [2.0]}}), "'a' has an unreadable shape"),
    "one offset": (pack({"a": entry(0, 8) | {"data_offsets": [0]}}), "'a' has an unreadable shape or place"),
    "negative offset": (pack({"a": entry(0, 8) | {"data_offsets": [-8, 0]}}), "'a' has an unreadable"),
    "wrong size": (pack({"a": entry(0, 8, [3])}), r"'a' of shape \[3\] and type F32 cannot fill 8 bytes"),
    "backwards": (pack({"a": entry(0, 8) | {"data_offsets": [8, 0]}}), "cannot fill -8 bytes"),
    "outside": (pack({"a": entry(0, 16)}), "'a' ends at 16, outside the 8 bytes"),
    "overlap": (pack({"a": entry(0, 8), "b": entry(4, 8)}), "'a' and 'b' overlap"),
    "gap": (pack({"a": entry(4, 8)}), "4 bytes before tensor 'a'"),
    "left over": (pack({"a": entry(0, 4)}), "last 4 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_header_is_named(case: str, tmp_path: Path) -> None:
    raw, reason = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(LoadError, match=reason) as caught:
        check_safetensors(path)
    assert str(path) in str(caught.value)


def test_a_hostile_shape_does_not_cost_time(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack({"a": entry(0, 8, [1 << 62] * 200_000)}))
    started = time.monotonic()
    with pytest.raises(LoadError, match="'a' has an unreadable shape"):
        check_safetensors(path)
    assert time.monotonic() - started < 2


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        check_safetensors(tmp_path / "model.safetensors")
