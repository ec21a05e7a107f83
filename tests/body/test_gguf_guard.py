import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from conflayers.body.gguf_guard import check_gguf
from conflayers.errors import LoadError

U32, STRING, ARRAY, U64 = 4, 8, 9, 10
F32, Q4_0 = 0, 2


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def u32(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def array(kind: int, count: int, payload: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def tensor(name: str | bytes, shape: list[int], kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCH = key("general.architecture", STRING, text("llama"))


def header(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    data: int = 32,
    alignment: int = 32,
) -> bytes:
    keys = [ARCH] if keys is None else keys
    tensors = [tensor("a", [8])] if tensors is None else tensors
    key_count = len(keys) if key_count is None else key_count
    tensor_count = len(tensors) if tensor_count is None else tensor_count
    raw = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys) + b"".join(tensors)
    return raw + bytes(-len(raw) % alignment) + bytes(data)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_rope_freq_base(1e4)
    writer.add_bool("llama.flag", True)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list([f"<{index}>" for index in range(24)])
    writer.add_token_scores([0.5] * 24)
    writer.add_token_types([1] * 24)
    writer.add_tensor("token_embd.weight", np.zeros((24, 32), dtype=np.float16))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor(
        "blk.0.attn_q.weight",
        gguf.quantize(np.ones((32, 32), dtype=np.float32), gguf.GGMLQuantizationType.Q4_0),
        raw_dtype=gguf.GGMLQuantizationType.Q4_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_written_file_passes(small: Path) -> None:
    summary = check_gguf(small)
    assert (summary.architecture, summary.weights, summary.has_tokenizer) == ("llama", 24 * 32 + 32 + 32 * 32, True)


def test_a_minimal_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "minimal.gguf"
    for version in (2, 3):
        path.write_bytes(header(version=version))
        assert not check_gguf(path).has_tokenizer
    path.write_bytes(header([ARCH, u32("general.alignment", 4096)], alignment=4096))
    check_gguf(path)


BROKEN = {
    "magic": (b"GGML" + header()[4:], "letters GGUF"),
    "version 1": (header(version=1), "version 1"),
    "version 4": (header(version=4), "version 4"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "too many keys": (header(key_count=10_001), "10001 metadata keys"),
    "keys past the end": (header(key_count=9_999), "ends inside|UTF-8|bytes long|twice"),
    "too many tensors": (header(tensor_count=1 << 60), "tensors"),
    "no tensors": (header(tensors=[]), "0 tensors"),
    "no architecture": (header([u32("a", 1)]), "general.architecture is missing"),
    "architecture a number": (header([u32("general.architecture", 1)]), "general.architecture is missing"),
    "key twice": (header([ARCH, ARCH]), "twice"),
    "reserved key": (header([ARCH, u32("GGUF.version", 3)]), "reserved"),
    "key not UTF-8": (header([ARCH, key(b"\xff", U32, bytes(4))]), "UTF-8"),
    "long key": (header([ARCH, u32("k" * 65_536, 1)]), "65536 bytes long"),
    "long string": (header([ARCH, key("t", STRING, text("x" * 1_000_001))]), "1000001 bytes long"),
    "string past the end": (header([ARCH, key("t", STRING, struct.pack("<Q", 900_000))]), "ends inside"),
    "string of 2^63": (header([ARCH, key("t", STRING, struct.pack("<Q", 1 << 63))]), "bytes long"),
    "unknown value": (header([ARCH, key("t", 13, bytes(64))]), "unknown type 13"),
    "long array": (header([ARCH, key("t", ARRAY, array(0, 10_000_001, b""))]), "more than"),
    "array of 2^63": (header([ARCH, key("t", ARRAY, array(STRING, 1 << 63, b""))]), "more than"),
    "array past the end": (header([ARCH, key("t", ARRAY, array(U64, 1_000_000, b""))]), "ends inside"),
    "strings past the end": (header([ARCH, key("t", ARRAY, array(STRING, 1_000_000, b""))]), "ends inside|leaves"),
    "long string in array": (
        header([ARCH, key("t", ARRAY, array(STRING, 1, text("x" * 1_000_001)))]),
        "too long or leaves",
    ),
    "array of arrays": (header([ARCH, key("t", ARRAY, array(ARRAY, 1, array(0, 1, b"x")))]), "array of arrays"),
    "array of nothing": (header([ARCH, key("t", ARRAY, array(77, 1, b"x"))]), "unknown type 77"),
    "alignment 0": (header([ARCH, u32("general.alignment", 0)]), "alignment is 0"),
    "alignment 4": (header([ARCH, u32("general.alignment", 4)]), "alignment is 4"),
    "alignment 24": (header([ARCH, u32("general.alignment", 24)]), "alignment is 24"),
    "alignment 8192": (header([ARCH, u32("general.alignment", 8192)]), "alignment is 8192"),
    "alignment a string": (header([ARCH, key("general.alignment", STRING, text("32"))]), "not an unsigned"),
    "layers": (header([ARCH, u32("llama.block_count", 2**31)]), "block_count is 2147483648"),
    "too few layers": (
        header([ARCH, u32("llama.block_count", 1)], [tensor("blk.1.attn_q.weight", [8])]),
        "block_count is 1, which",
    ),
    "split": (header([ARCH, key("split.count", 2, struct.pack("<H", 3))]), "one of 3 parts"),
    "no dimensions": (header(tensors=[tensor("a", [])]), "0 dimensions"),
    "five dimensions": (header(tensors=[tensor("a", [1] * 5)]), "5 dimensions"),
    "empty dimension": (header(tensors=[tensor("a", [0, 4])]), "impossible shape"),
    "huge shape": (header(tensors=[tensor("a", [1 << 20, 1 << 20])]), "impossible shape"),
    "overflowing shape": (header(tensors=[tensor("a", [1 << 63, 1 << 63, 4])]), "impossible shape"),
    "unknown tensor type": (header(tensors=[tensor("a", [8], 4)]), "unknown type 4"),
    "broken blocks": (header(tensors=[tensor("a", [40], Q4_0)]), "do not divide"),
    "tensor outside": (header(tensors=[tensor("a", [8], offset=32)]), "32 bytes after the file"),
    "tensor far outside": (header(tensors=[tensor("a", [8], offset=1 << 62)]), "after the file"),
    "tensor not aligned": (header(tensors=[tensor("a", [8], offset=4)], data=64), "not a multiple"),
    "tensor twice": (header(tensors=[tensor("a", [8]), tensor("a", [8], offset=32)], data=64), "twice"),
    "overlap": (header(tensors=[tensor("a", [16]), tensor("b", [8], offset=32)], data=64), "'a' and 'b' overlap"),
    "tensor name": (header(tensors=[tensor(b"\xff", [8])]), "UTF-8"),
    "empty": (b"", "too few"),
    "only the magic": (b"GGUF", "too few"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_header_is_named(case: str, tmp_path: Path) -> None:
    raw, reason = BROKEN[case]
    path = tmp_path / "broken.gguf"
    path.write_bytes(raw)
    with pytest.raises(LoadError, match=reason) as caught:
        check_gguf(path)
    assert str(path) in str(caught.value)


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "zero.gguf").symlink_to("/dev/zero")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nothing")
    started = time.monotonic()
    for name, reason in {"pipe": "regular", "zero": "regular", "folder": "regular", "gone": "cannot be read"}.items():
        with pytest.raises(LoadError, match=reason):
            check_gguf(tmp_path / f"{name}.gguf")
    assert time.monotonic() - started < 1


def test_every_truncation_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    for length in range(0, len(whole), 64):
        small.write_bytes(whole[:length])
        with pytest.raises(LoadError):
            check_gguf(small)


def mutate(raw: bytes, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    # Most of a header is text; damage that matters is in the numbers, which are small and so mostly zero bytes.
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(raw) // 2)
        match chance.randrange(4):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                changed[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
            case _:
                del changed[at : at + chance.randrange(1, 9)]
    return bytes(changed)


READ_ALL = """
import sys, pathlib, gguf
for path in pathlib.Path(sys.argv[1]).iterdir():
    gguf.GGUFReader(path)
"""


def test_mutations_end_quickly_and_survivors_can_be_read(small: Path, tmp_path: Path) -> None:
    whole, chance = small.read_bytes(), random.Random(20)
    survivors = tmp_path / "survivors"
    survivors.mkdir()
    tracemalloc.start()
    slowest, refused = 0.0, 0
    for index in range(2_000):
        path = survivors / f"{index}.gguf"
        path.write_bytes(mutate(whole, chance))
        started = time.monotonic()
        try:
            check_gguf(path)
        except LoadError:
            refused += 1
            path.unlink()
        slowest = max(slowest, time.monotonic() - started)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert slowest < 2
    assert peak < 50_000_000
    assert 500 < refused < 1_950, "the mutations no longer test both outcomes"
    # In a process of its own: were the readers to hang on one of them, this must end all the same.
    subprocess.run([sys.executable, "-c", READ_ALL, str(survivors)], check=True, timeout=120)
