"""Reads the header of a GGUF file, and refuses a file that is damaged, cut, or says what cannot be.

Libraries that read these files believe their numbers: a count of 2^60 is a loop that does not end, and a file without
its last bytes is a model with weights that nobody trained. Here each number is held against the size of the file.

    magic "GGUF" | version | number of tensors | number of entries
    entries: key | type | value          such as "llama.block_count" and the tokenizer's tokens
    tensors: name | dimensions | type | offset
    data of the tensors, each from its offset on

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

_VERSIONS = (2, 3)
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Type of a value to its format in `struct`. Of the others, 8 is a string, and 9 an array."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_OF_A_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_LONGEST_KEY = 1 << 16  # bytes of a key or a tensor's name, as the format allows


@dataclass(frozen=True)
class GGUFHeader:
    """The part of a GGUF file's header that decides how it is read.

    Attributes:
        entries: Key to number or string. Arrays are left out.
        elements: Number of weights in all tensors.
        quantization: The type that most of the weights are stored in, such as "Q4_1" or "F16".
    """

    entries: Mapping[str, Any]
    elements: int
    quantization: str


def read_header(file: Path) -> GGUFHeader:
    """Reads and checks the header of a GGUF file.

    Args:
        file: The file.

    Returns:
        The header.

    Raises:
        ValueError: If the file is none in this format, ends too early, or its numbers do not fit each other; says why,
            as a clause without the file's name.
        OSError: If it cannot be read.
        ImportError: If the package gguf is not installed.
    """
    types, sizes = _types()
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError("it does not begin with the letters GGUF")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data)
            version = cursor.number("<I")
            if version not in _VERSIONS:
                raise ValueError(f"its version is {version}, and versions {_VERSIONS} can be read")
            num_tensors, num_entries = cursor.number("<Q"), cursor.number("<Q")
            entries = dict(cursor.entry() for _ in range(num_entries))
            tensors = [cursor.tensor() for _ in range(num_tensors)]
            alignment = entries.get("general.alignment", 32)
            if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
                raise ValueError(f"its alignment is {alignment!r}")
            data_size = len(data) - -(-cursor.position // alignment) * alignment
    _check_entries(entries, [name for name, *_ in tensors])
    elements: Counter[str] = Counter()
    ends = []
    for name, dimensions, kind, offset in tensors:
        if kind not in sizes:
            raise ValueError(f"its tensor {name!r} has the unknown type {kind}")
        block, block_bytes = sizes[kind]
        if dimensions[0] % block:
            raise ValueError(f"its tensor {name!r} has rows of {dimensions[0]}, which are no whole blocks of {block}")
        num_bytes = prod(dimensions) // block * block_bytes
        if offset + num_bytes > data_size:
            raise ValueError(f"it ends before the weights of {name!r} do: it was cut, or is not all there")
        elements[types[kind]] += prod(dimensions)
        ends.append((offset, offset + num_bytes, name))
    ends.sort()
    for (_, end, _), (begin, _, name) in pairwise(ends):
        if begin < end:
            raise ValueError(f"its tensor {name!r} begins inside of another one")
    return GGUFHeader(entries, elements.total(), elements.most_common(1)[0][0])


def _types() -> tuple[dict[int, str], dict[int, tuple[int, int]]]:
    """Returns the types of tensors: number to name, and to weights and bytes of a block."""
    try:
        gguf = import_module("gguf")
    except ImportError as error:
        raise ImportError(
            'gguf is needed to read .gguf files. Install it with: pip install "textenvs[gguf]"'
        ) from error
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    return {int(kind): kind.name for kind in gguf.GGMLQuantizationType}, sizes


def _check_entries(entries: Mapping[str, Any], tensors: Sequence[str]) -> None:
    """Raises a ValueError if there are no weights or no architecture, or the layers are not those of the weights."""
    if not tensors:
        raise ValueError("it holds no weights")
    if not isinstance(entries.get("general.architecture"), str):
        raise ValueError("it does not say which architecture the model has")
    layers = {key: value for key, value in entries.items() if key.endswith("block_count")}
    for key, count in layers.items():
        # Each layer is built before its weights are looked for.
        if not isinstance(count, int) or not 0 <= count <= len(tensors):
            raise ValueError(f"its {key} is {count!r}, with {len(tensors)} tensors in all")
    for name in tensors:
        # Transformers leaves out what lies behind the last layer, which is a part of the model.
        matched = _OF_A_LAYER.match(name)
        if matched and layers and int(matched[1]) >= max(layers.values()):
            raise ValueError(f"it describes a model that has no place for the weights {name!r}")


class _Cursor:
    """A place in a file's bytes, which moves on with each value that is read.

    Args:
        data: The bytes.

    Attributes:
        position: The place, behind the magic number at first.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 4

    def number(self, kind: str) -> Any:
        """Reads a number of some format of `struct`."""
        begin = self._skip(struct.calcsize(kind))
        return struct.unpack_from(kind, self._data, begin)[0]

    def entry(self) -> tuple[str, Any]:
        """Reads an entry: its key, and its value; None for arrays."""
        key, kind = self._text(_LONGEST_KEY), self.number("<I")
        if kind in _NUMBERS:
            return key, self.number(_NUMBERS[kind])
        if kind == _STRING:
            return key, self._text(len(self._data))
        if kind != _ARRAY:
            raise ValueError(f"its entry {key!r} has the unknown type {kind}")
        kind, length = self.number("<I"), self.number("<Q")
        if kind in _NUMBERS:
            self._skip(length * struct.calcsize(_NUMBERS[kind]))
        elif kind == _STRING:
            for _ in range(length):  # each takes 8 bytes at least, so that the end of the file ends a lie
                self._skip(self.number("<Q"))
        else:
            raise ValueError(f"its entry {key!r} is an array of the unknown type {kind}")
        return key, None

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Reads a tensor's name, dimensions (that of a row first), type and offset."""
        name, count = self._text(_LONGEST_KEY), self.number("<I")
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise ValueError(f"its tensor {name!r} has {count} dimensions")
        dimensions = tuple(self.number("<Q") for _ in range(count))
        if 0 in dimensions:
            raise ValueError(f"its tensor {name!r} is empty")
        return name, dimensions, self.number("<I"), self.number("<Q")

    def _text(self, longest: int) -> str:
        length = self.number("<Q")
        if length > longest:
            raise ValueError(f"one of its names has {length:,} bytes")
        begin = self._skip(length)
        try:
            return self._data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"one of its texts is not UTF-8: {error}") from error

    def _skip(self, length: int) -> int:
        """Moves on by some bytes, and returns the place before."""
        begin = self.position
        if length > len(self._data) - begin:
            raise ValueError("it ends inside of its header: it was cut, or its numbers are wrong")
        self.position += length
        return begin
