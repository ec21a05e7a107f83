"""Read a GGUF header within limits before any other parser sees the file.

The usual readers trust the counts and lengths in the header: a few wrong bytes make them loop for hours or ask for
all the memory there is. A file that passes here is one they read in a time proportional to its size.
"""

import mmap
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Never

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from conflayers.errors import LoadError

MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_STRING = 1_000_000
MAX_NAME = 65_535
# All arrays of a file together. The largest vocabularies in use come to 1.5 M with their merges, and the Python
# readers need kilobytes and microseconds for each element.
MAX_ARRAY_ELEMENTS = 4_000_000
MAX_TENSOR_ELEMENTS = 1 << 40
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_QUANT_SIZES = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}


@dataclass(frozen=True, slots=True)
class GgufSummary:
    """What loading needs to know about a GGUF file that passed.

    `architecture` is llama.cpp's name for the model's structure; `weights` is the number of elements in all tensors;
    `has_tokenizer` tells whether a vocabulary is inside.
    """

    architecture: str
    weights: int
    has_tokenizer: bool


def check_gguf(path: Path) -> GgufSummary:
    """Walk the header of a GGUF file and check everything that a reader would trust in it.

    Reads the header only, never tensor data. Raises LoadError, naming the file and what is wrong with it.
    """
    nbytes = _regular_size(path)
    if nbytes < 24:
        raise LoadError(f"{path}: not a GGUF file: {nbytes} bytes are too few for a header")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _Walk(path, mapped).run()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error


def _regular_size(path: Path) -> int:
    # Asked of the file system, not by opening: opening a pipe waits for a writer that may never come.
    try:
        status = path.stat()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise LoadError(f"{path}: not a regular file; pass the path of a .gguf file")
    return status.st_size


class _Walk:
    """One pass over one header; every read goes through `_take`, which knows where the file ends."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0
        self.array_elements = 0
        self.weights = 0

    def run(self) -> GgufSummary:
        tensor_count, key_count = self._preamble()
        metadata = self._metadata(key_count)
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            self._fail("general.architecture is missing")
        spans = self._tensor_table(tensor_count)
        self._check_layers(metadata, architecture, [name for *_, name in spans])
        self._check_spans(spans, self._alignment(metadata))
        return GgufSummary(architecture, self.weights, "tokenizer.ggml.tokens" in metadata)

    def _fail(self, reason: str) -> Never:
        raise LoadError(f"{self.path}: damaged or unsupported GGUF file: {reason}")

    def _take(self, layout: str, what: str) -> Any:
        width = struct.calcsize(layout)
        if width > self.size - self.position:
            self._fail(f"the file ends inside {what}")
        (value,) = struct.unpack_from(layout, self.buffer, self.position)
        self.position += width
        return value

    def _text(self, limit: int, what: str) -> str:
        length = self._take("<Q", what)
        if length > limit:
            self._fail(f"{what} is {length} bytes long; the limit is {limit}")
        if length > self.size - self.position:
            self._fail(f"the file ends inside {what}")
        raw = self.buffer[self.position : self.position + length]
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8 text")

    def _preamble(self) -> tuple[int, int]:
        if self.buffer[:4] != b"GGUF":
            self._fail("it does not start with the letters GGUF")
        self.position = 4
        version = self._take("<I", "the version")
        if version & 0xFFFF == 0:
            self._fail("it is big-endian; convert it to little-endian first")
        if version not in (2, 3):
            self._fail(f"version {version}; versions 2 and 3 are supported")
        tensor_count, key_count = self._take("<Q", "the counts"), self._take("<Q", "the counts")
        if key_count > MAX_KEYS:
            self._fail(f"{key_count} metadata keys; the limit is {MAX_KEYS}")
        if not 1 <= tensor_count <= MAX_TENSORS:
            self._fail(f"{tensor_count} tensors; a model has 1 to {MAX_TENSORS}")
        return tensor_count, key_count

    def _metadata(self, count: int) -> dict[str, Any]:
        """Scalars and strings by key; an array stands as its kind, since only its presence matters here."""
        found: dict[str, Any] = {}
        for index in range(count):
            key = self._text(MAX_NAME, f"the name of metadata key {index}")
            # Readers file the three counts of the preamble under GGUF.*, among the keys.
            if key in found or key.startswith("GGUF."):
                self._fail(f"metadata key {key!r} appears twice or is reserved")
            found[key] = self._value(key)
        return found

    def _value(self, key: str) -> Any:
        what = f"metadata key {key!r}"
        kind = self._take("<I", what)
        if key == "general.alignment" and kind != _UINT32:
            self._fail("general.alignment is not an unsigned 32-bit number")
        if kind == _STRING:
            return self._text(MAX_STRING, what)
        if kind == _ARRAY:
            self._skip_array(what)
            return _ARRAY
        if kind not in _SCALARS:
            self._fail(f"{what} has unknown type {kind}")
        return self._take(_SCALARS[kind], what)

    def _skip_array(self, what: str) -> None:
        kind = self._take("<I", what)
        count = self._take("<Q", what)
        self.array_elements += count
        if self.array_elements > MAX_ARRAY_ELEMENTS:
            self._fail(f"the arrays up to {what} hold more than {MAX_ARRAY_ELEMENTS} elements")
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            if count * width > self.size - self.position:
                self._fail(f"the file ends inside {what}")
            self.position += count * width
        elif kind == _STRING:
            self._skip_strings(count, what)
        elif kind == _ARRAY:
            self._fail(f"{what} is an array of arrays")
        else:
            self._fail(f"{what} is an array of unknown type {kind}")

    def _skip_strings(self, count: int, what: str) -> None:
        # A vocabulary has a hundred thousand of these: no call per element but the one that reads its length.
        unpack, buffer, position, last = struct.Struct("<Q").unpack_from, self.buffer, self.position, self.size - 8
        for _ in range(count):
            if position > last:
                self._fail(f"the file ends inside {what}")
            (length,) = unpack(buffer, position)
            position += 8 + length
            if length > MAX_STRING or position > self.size:
                self._fail(f"{what} holds a string that is too long or leaves the file")
        self.position = position

    def _check_layers(self, metadata: Mapping[str, Any], architecture: str, names: list[str]) -> None:
        # A loader builds this many layers before it looks for their weights, and drops the weights of any others.
        layers = metadata.get(f"{architecture}.block_count")
        if isinstance(layers, int):
            present = {int(match[1]) for name in names if (match := re.match(r"blk\.(\d{1,6})\.", name))}
            if not max(present, default=-1) < layers <= len(names):
                self._fail(f"{architecture}.block_count is {layers}, which its {len(names)} tensors do not match")
        parts = metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:
            self._fail(f"it is one of {parts} parts; merge them first (llama-gguf-split --merge)")

    def _alignment(self, metadata: Mapping[str, Any]) -> int:
        alignment: int = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not 8 <= alignment <= 4096 or alignment & (alignment - 1):
            self._fail(f"general.alignment is {alignment}; it must be a power of two from 8 to 4096")
        return alignment

    def _tensor_table(self, count: int) -> list[tuple[int, int, str]]:
        """(offset from the start of the data, bytes, name) of each tensor."""
        spans: list[tuple[int, int, str]] = []
        names: set[str] = set()
        for index in range(count):
            name = self._text(MAX_NAME, f"the name of tensor {index}")
            if name in names:
                self._fail(f"tensor {name!r} appears twice")
            names.add(name)
            nbytes = self._tensor_bytes(name)
            spans.append((self._take("<Q", f"tensor {name!r}"), nbytes, name))
        return spans

    def _tensor_bytes(self, name: str) -> int:
        what = f"tensor {name!r}"
        rank = self._take("<I", what)
        if not 1 <= rank <= 4:
            self._fail(f"{what} has {rank} dimensions; 1 to 4 are possible")
        shape = [self._take("<Q", what) for _ in range(rank)]
        kind = self._take("<I", what)
        elements = prod(shape)
        if not 1 <= elements < MAX_TENSOR_ELEMENTS:
            self._fail(f"{what} has the impossible shape {shape}")
        if kind not in _QUANT_SIZES:
            self._fail(f"{what} has unknown type {kind}")
        self.weights += elements
        block, width = _QUANT_SIZES[kind]
        if shape[0] % block:
            self._fail(f"{what}: rows of {shape[0]} do not divide into blocks of {GGMLQuantizationType(kind).name}")
        return int(elements // block * width)

    def _check_spans(self, spans: list[tuple[int, int, str]], alignment: int) -> None:
        start = -(-self.position // alignment) * alignment
        end, previous = 0, ""
        for offset, nbytes, name in sorted(spans):
            if offset % alignment:
                self._fail(f"tensor {name!r} starts at {offset}, not a multiple of {alignment}")
            if offset < end:
                self._fail(f"tensors {previous!r} and {name!r} overlap")
            if start + offset + nbytes > self.size:
                self._fail(f"tensor {name!r} ends {start + offset + nbytes - self.size} bytes after the file")
            end, previous = offset + nbytes, name
