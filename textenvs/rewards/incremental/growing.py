"""Arrays that grow: the tables in which incremental scores keep what they have worked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RaggedTable:
    """A table of rows of different lengths, to which one row at a time is appended.

    Args:
        dtype: The type of the numbers.
        width: The number of columns to begin with.

    Attributes:
        array: `(capacity, width)` the rows, right-padded with 0.
        counts: `(capacity,)` int64, the length of each row.
        size: The number of rows.
    """

    def __init__(self, dtype: Any, width: int = 1) -> None:
        self.array: NDArray[Any] = np.zeros((64, width), dtype=dtype)
        self.counts = np.zeros(64, dtype=np.int64)
        self.size = 0

    def append(self, row: Sequence[Any]) -> None:
        """Appends a row. The capacity doubles when it is used up, so that an append costs the same on average."""
        capacity, width = self.array.shape
        if self.size == capacity:
            self.array = np.concatenate([self.array, np.zeros_like(self.array)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        if len(row) > width:
            self.array = widen(self.array, max(len(row), 2 * width))
        if len(row):
            self.array[self.size, : len(row)] = row
            self.counts[self.size] = len(row)
        self.size += 1

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns some rows as `(k, longest)`, cut to the longest of them."""
        return self.array[rows, : int(self.counts[rows].max(initial=0))]


class RowTable:
    """A table of rows of one shape, to which many rows at a time are appended. The last axis may grow.

    Args:
        dtype: The type of the numbers.
        shape: The shape of a row.
        mode: The padding of rows that are too short: "constant" is 0, "edge" repeats the last column.

    Attributes:
        array: `(capacity, *shape)` the rows.
        size: The number of rows.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...] = (), mode: Any = "constant") -> None:
        self.array: NDArray[Any] = np.zeros((64, *shape), dtype=dtype)
        self._mode = mode
        self.size = 0

    def extend(self, rows: NDArray[Any]) -> None:
        """Appends rows `(k, ...)`. If they are narrower or wider than the table, the narrower of the two is padded."""
        width = max(rows.shape[-1], self.array.shape[-1]) if rows.ndim > 1 else 0
        if width:
            self.array, rows = (widen(each, width, self._mode) for each in (self.array, rows))
        capacity = len(self.array)
        while self.size + len(rows) > capacity:
            capacity *= 2
        if capacity > len(self.array):
            added = np.zeros_like(self.array, shape=(capacity - len(self.array), *self.array.shape[1:]))
            self.array = np.concatenate([self.array, added])
        self.array[self.size : self.size + len(rows)] = rows
        self.size += len(rows)


def widen(array: NDArray[Any], width: int, mode: Any = "constant") -> NDArray[Any]:
    """Pads the last axis to at least `width`, with 0 ("constant") or with its last column ("edge")."""
    missing = width - array.shape[-1]
    return array if missing <= 0 else np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], mode=mode)


def enlarge(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Pads an array with 0 to at least a shape. The number of rows doubles, so that rows may be added one by one."""
    if all(have >= need for have, need in zip(array.shape, shape, strict=True)):
        return array
    rows = array.shape[0] if array.shape[0] >= shape[0] else max(shape[0], 2 * array.shape[0])
    target = (rows, *map(max, array.shape[1:], shape[1:]))
    return np.pad(array, [(0, need - have) for have, need in zip(array.shape, target, strict=True)])
