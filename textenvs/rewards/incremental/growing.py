"""Tables that grow, in which incremental scores keep what they have worked out, and `Discards`, which frees them.

No operation here takes long, whatever the size: a step of many lanes must not pause. Arrays are made of zeros that the
operating system hands out page by page as they are written, and dictionaries are emptied a part at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Discards:
    """Containers that are not needed any more, and are emptied a part at a time: all at once would take too long.

    Attributes:
        per_step: The number of entries that `free` removes.
    """

    per_step = 4096

    def __init__(self) -> None:
        self._waiting: deque[dict[Any, Any] | list[Any]] = deque()

    def add(self, *containers: dict[Any, Any] | list[Any]) -> None:
        """Takes containers over. The caller must not use them any more."""
        self._waiting.extend(containers)

    def free(self) -> None:
        """Removes some entries, or none if none is left."""
        left = self.per_step
        while self._waiting and left > 0:
            container = self._waiting[0]
            count = min(left, len(container))
            if isinstance(container, list):
                del container[len(container) - count :]
            else:
                for _ in range(count):
                    container.popitem()
            left -= count
            if not container:
                self._waiting.popleft()


class RaggedTable:
    """A table of rows of different lengths, to which one row at a time is appended.

    Args:
        dtype: The type of the numbers.
        width: The number of columns to begin with.
        capacity: The number of rows that the table has room for at first; it doubles when they are used up.

    Attributes:
        widest: The longest rows that are kept in the array. Longer ones, which are rare, are kept on their own.
        array: `(capacity, width)` the rows, right-padded with 0.
        counts: `(capacity,)` int64, the length of each row.
        size: The number of rows.
        num_long: The number of numbers in rows that are longer than `widest`.
    """

    widest = 16

    def __init__(self, dtype: Any, width: int = 1, capacity: int = 64) -> None:
        self.array: NDArray[Any] = np.zeros((capacity, width), dtype=dtype)
        self.counts = np.zeros(capacity, dtype=np.int64)
        self.size = 0
        self.num_long = 0
        self._long: dict[int, NDArray[Any]] = {}

    @property
    def num_bytes(self) -> int:
        """The size of the numbers."""
        return self.array.nbytes + self.array.itemsize * self.num_long

    def append(self, row: Sequence[Any]) -> None:
        """Appends a row."""
        capacity, width = self.array.shape
        if self.size == capacity:
            self.array, self.counts = with_rows(self.array, 2 * capacity), with_rows(self.counts, 2 * capacity)
        count = len(row)
        if count > width:
            if count > max(self.widest, width):
                self._long[self.size] = np.array(row, dtype=self.array.dtype)
                self.num_long += count
            else:
                self._widen(max(count, 2 * width))
        if count:
            self.counts[self.size] = count
            if not self.num_long or count <= self.array.shape[1]:
                self.array[self.size, :count] = row
        self.size += 1

    def _widen(self, width: int) -> None:
        array = np.zeros((len(self.array), width), dtype=self.array.dtype)
        array[: self.size, : self.array.shape[1]] = self.array[: self.size]
        self.array = array

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns some rows as `(k, longest)`, cut to the longest of them."""
        counts = self.counts[rows]
        longest = int(counts.max(initial=0))
        width = self.array.shape[1]
        if longest <= width:
            return self.array[rows, :longest]
        taken = np.zeros((len(rows), longest), dtype=self.array.dtype)
        taken[:, :width] = self.array[rows]
        for index in np.flatnonzero(counts > width).tolist():
            long = self._long[int(rows[index])]
            taken[index, : len(long)] = long
        return taken


class RowTable:
    """A table of rows of one shape. Rows and the last axis may grow.

    Args:
        dtype: The type of the numbers.
        shape: The shape of a row.
        mode: The padding of rows that are too short: "constant" is 0, "edge" repeats the last column.

    Attributes:
        array: `(capacity, *shape)` the rows.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...] = (), mode: Any = "constant") -> None:
        self.array: NDArray[Any] = np.zeros((64, *shape), dtype=dtype)
        self._mode = mode

    def put(self, indices: Sequence[int], rows: NDArray[Any]) -> None:
        """Writes rows `(k, ...)`. If they are narrower or wider than the table, the narrower of the two is padded."""
        if not len(indices):
            return
        width = max(rows.shape[-1], self.array.shape[-1]) if rows.ndim > 1 else 0
        if width:
            self.array, rows = (widen(each, width, self._mode) for each in (self.array, rows))
        capacity = len(self.array)
        if (most := max(indices)) >= capacity:
            self.array = with_rows(self.array, max(most + 1, 2 * capacity))
        self.array[np.array(indices)] = rows


def with_rows(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Returns an array with more rows, of 0. Only those that it has are written: memory for the rest comes as used."""
    longer = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def widen(array: NDArray[Any], width: int, mode: Any = "constant") -> NDArray[Any]:
    """Pads the last axis to at least `width`, with 0 ("constant") or with its last column ("edge")."""
    missing = width - array.shape[-1]
    if missing <= 0:
        return array
    wider = np.zeros((*array.shape[:-1], width), dtype=array.dtype)
    wider[..., : array.shape[-1]] = array
    if mode == "edge":
        wider[..., array.shape[-1] :] = array[..., -1:]
    return wider


def enlarge(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Pads an array with 0 to at least a shape. The number of rows doubles, so that rows may be added one by one."""
    if all(have >= need for have, need in zip(array.shape, shape, strict=True)):
        return array
    rows = array.shape[0] if array.shape[0] >= shape[0] else max(shape[0], 2 * array.shape[0])
    larger = np.zeros((rows, *map(max, array.shape[1:], shape[1:])), dtype=array.dtype)
    larger[tuple(map(slice, array.shape))] = array
    return larger
