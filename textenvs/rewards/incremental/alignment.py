"""Alignments of a growing response with references: longest common subsequences and edit distances, bit-parallel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.references import _UNIT_BITS, ReferenceReward, ReferenceScorer, _Table, _words, widen
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer

# Rows of an alignment, as bits


@dataclass(frozen=True, slots=True)
class Bits:
    """Some lanes' rows, the references of each side by side and a gap of one bit behind each.

    Attributes:
        masks: `(k, words)` uint64, the places that hold the unit that is read.
        inside: `(k, words)` uint64, all places of references.
        starts: `(k, words)` uint64, the first place of each reference.
        end_word: `(k, references)` int64, the word of each reference's last place.
        end_bit: `(k, references)` uint64, its bit there; 0 where the reference is empty.
        gap_word: `(k, references)` int64, the word of the gap behind each reference.
        gap_bit: `(k, references)` uint64, its bit there.
    """

    masks: NDArray[np.uint64]
    inside: NDArray[np.uint64]
    starts: NDArray[np.uint64]
    end_word: NDArray[np.int64]
    end_bit: NDArray[np.uint64]
    gap_word: NDArray[np.int64]
    gap_bit: NDArray[np.uint64]


def add_words(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sum of numbers `(k, words)` of 64 bits a word, the lowest first."""
    total = one + other
    if one.shape[1] > 1:
        carry = np.zeros(len(one), dtype=np.bool_)
        for word in range(one.shape[1]):
            over = total[:, word] < one[:, word]
            total[:, word] += carry
            carry = over | (carry & (total[:, word] == 0))
    return total


def shift_words(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers `(k, words)` of 64 bits a word, the lowest first, doubled."""
    shifted = numbers << np.uint64(1)
    shifted[:, 1:] |= numbers[:, :-1] >> np.uint64(63)
    return shifted


class RowScorer(ReferenceScorer):
    """Phi that is a function of one row of an alignment table between a response and each of its references.

    A subclass writes `_initial`, `_read_row` and `phi`.

    Cost: a few array operations a unit, for each 64 units of the references.

    Args:
        reward: The score's definition.
        splitter: What cuts responses and references into units.
        num_rows: How many rows of bits a lane has.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.
    """

    every_unit: bool = True  # whether a unit that is in no reference changes anything but the length

    def __init__(
        self,
        reward: ReferenceReward[Any],
        splitter: Splitter,
        num_rows: int,
        num_lanes: int,
        tokenizer: Tokenizer,
    ) -> None:
        self._num_words = 1  # the most that an example's references take
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._rows = np.zeros((num_rows, num_lanes, 1), dtype=np.uint64)
        self._ends = np.zeros((num_lanes, 1), dtype=np.int64)  # the table's last cell, for each reference
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._marked = (self._rows.copy(), self._ends.copy(), self._length.copy())

    def _forget(self) -> None:
        super()._forget()
        self._masks, self._inside, self._starts = (_Table(np.uint64, (self._num_words,)) for _ in range(3))
        self._masks.extend(np.zeros((1, 1), dtype=np.uint64))  # of a unit that no reference has
        self._end_word, self._gap_word = (_Table(np.int64, (self._columns,), "edge") for _ in range(2))
        self._end_bit, self._gap_bit = (_Table(np.uint64, (self._columns,), "edge") for _ in range(2))
        self._num_nodes = 1

    def _add(self, examples: list[list[list[int]]]) -> None:
        masks: list[int] = []
        inside: list[int] = []
        starts: list[int] = []
        ends: list[list[tuple[int, int]]] = []
        gaps: list[list[tuple[int, int]]] = []
        most = 0
        for place, texts in enumerate(examples, start=self._inside.size):
            mask_of: dict[int, int] = {}
            inside.append(0)
            starts.append(0)
            ends.append([])
            gaps.append([])
            offset = 0
            for text in texts:
                for bit, unit in enumerate(text, start=offset):
                    mask_of[unit] = mask_of.get(unit, 0) | 1 << bit
                inside[-1] |= ((1 << len(text)) - 1) << offset
                starts[-1] |= bool(text) << offset
                end, offset = max(offset + len(text) - 1, 0), offset + len(text)
                ends[-1].append((end // 64, bool(text) << (end % 64)))
                gaps[-1].append((offset // 64, 1 << (offset % 64)))
                offset += 1
            for pairs in (ends[-1], gaps[-1]):
                pairs += pairs[-1:] * (self._columns - len(texts))
            nodes = range(self._num_nodes, self._num_nodes + len(mask_of))
            self._edges.update(zip([(place << _UNIT_BITS) | unit for unit in mask_of], nodes, strict=True))
            self._num_nodes += len(mask_of)
            masks += mask_of.values()
            most = max(most, offset)
        words = self._num_words = max(self._num_words, -(-most // 64))
        for table, numbers in ((self._masks, masks), (self._inside, inside), (self._starts, starts)):
            table.extend(_words(numbers, words))
        for word_of, bit_of, pairs_of in ((self._end_word, self._end_bit, ends), (self._gap_word, self._gap_bit, gaps)):
            word_of.extend(np.array([[pair[0] for pair in pairs] for pairs in pairs_of]))
            bit_of.extend(np.array([[pair[1] for pair in pairs] for pairs in pairs_of], dtype=np.uint64))
        self._num_cells += (len(masks) + 2 * len(examples)) * words

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        words, columns = self._inside.array.shape[1], self._lengths.array.shape[1]
        rows, ends, length = self._marked
        self._rows, rows = (widen(each, words) for each in (self._rows, rows))
        self._ends, ends = (widen(each, columns, "edge") for each in (self._ends, ends))
        self._marked = (rows, ends, length)
        place = self._place[lanes]
        self._rows[:, lanes], self._ends[lanes] = self._initial(self._inside.array[place], self._lengths.array[place])
        self._length[lanes] = 0
        self.mark(lanes)

    @abstractmethod
    def _initial(
        self, inside: NDArray[np.uint64], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The rows `(rows, k, words)` and last cells `(k, references)` of empty responses.

        Args:
            inside: See `Bits`.
            wanted: `(k, references)` units of each reference.
        """

    @abstractmethod
    def _read_row(
        self, rows: NDArray[np.uint64], bits: Bits
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64] | NDArray[np.bool_]]:
        """The rows `(rows, k, words)` after a unit, and what it adds to the last cells `(k, references)`."""

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """See `UnitScorer.read`."""
        self._length[lanes] += 1
        if not self.every_unit:
            known = self._may_have(lanes, units)
            lanes, units = lanes[known], units[known]
        place = self._place[lanes]
        nodes = np.maximum(self._find(place, units), 0)
        tables = (self._inside, self._starts, self._end_word, self._end_bit, self._gap_word, self._gap_bit)
        bits = Bits(self._masks.array[nodes], *(table.array[place] for table in tables))
        rows, more = self._read_row(self._rows[:, lanes], bits)
        self._rows[:, lanes] = rows
        self._ends[lanes] += more

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.mark`."""
        rows, ends, length = self._marked
        rows[:, lanes], ends[lanes], length[lanes] = self._rows[:, lanes], self._ends[lanes], self._length[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.undo`."""
        rows, ends, length = self._marked
        self._rows[:, lanes], self._ends[lanes], self._length[lanes] = rows[:, lanes], ends[lanes], length[lanes]


def bit_at(numbers: NDArray[np.uint64], word: NDArray[np.int64], bit: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """`(k, references)` whether numbers `(k, words)` have a bit in a word each."""
    has: NDArray[np.bool_] = np.take_along_axis(numbers, word, axis=1) & bit != 0
    return has


# Paths in the tree of references


class PathScorer(ReferenceScorer):
    """Phi that is a function of how far a response has gone along its references, unit by unit.

    A subclass writes `phi`.

    Cost: one dictionary look-up a unit, until the response leaves its references.

    Args:
        reward: The score's definition.
        splitter: What cuts responses and references into units.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.

    Attributes:
        node: `(num_lanes,)` int64, the last node on each response's way that is some reference's beginning.
        off: `(num_lanes,)` bool, True where the response has gone on elsewhere.
    """

    def __init__(self, reward: ReferenceReward[Any], splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self.node = np.zeros(num_lanes, dtype=np.int64)
        self.off = np.zeros(num_lanes, dtype=np.bool_)
        self._marked = (self.node.copy(), self.off.copy())

    def _forget(self) -> None:
        super()._forget()
        self._first = _Table(np.int64)
        self._share = _Table(np.float64)
        self._whole = _Table(np.bool_)

    def _add(self, examples: list[list[list[int]]]) -> None:
        for texts in examples:
            self._add_tree(texts)

    def _add_tree(self, texts: list[list[int]]) -> None:
        first = self._num_nodes
        share, whole, parents = [0.0 if all(texts) else 1.0], [not all(texts)], [0]
        for text in texts:
            node = 0
            for depth, unit in enumerate(text, start=1):
                key = ((first + node) << _UNIT_BITS) | unit
                parent, node = node, self._edges.setdefault(key, first + len(share)) - first
                if node == len(share):
                    share.append(0.0)
                    whole.append(False)
                    parents.append(parent)
                share[node] = max(share[node], depth / len(text))
            whole[node] = True
        for node, parent in enumerate(parents):  # which comes before it
            share[node] = max(share[node], share[parent])
        self._first.extend(np.array([first]))
        self._share.extend(np.array(share))
        self._whole.extend(np.array(whole))
        self._num_nodes += len(share)
        self._num_cells += 2 * len(share)

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        self.node[lanes], self.off[lanes] = 0, False
        self.mark(lanes)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """See `UnitScorer.read`."""
        on = ~self.off[lanes]
        lanes, units = lanes[on], units[on]
        first = self._first.array[self._place[lanes]]
        after = self._find(first + self.node[lanes], units)
        self.off[lanes] = after < 0
        self.node[lanes] = np.where(after < 0, self.node[lanes], after - first)

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.mark`."""
        self._marked[0][lanes], self._marked[1][lanes] = self.node[lanes], self.off[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.undo`."""
        self.node[lanes], self.off[lanes] = self._marked[0][lanes], self._marked[1][lanes]

    def share(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """`(k,)` the largest share of a reference that each response begins with."""
        share: NDArray[np.float64] = self._share.array[self._first.array[self._place[lanes]] + self.node[lanes]]
        return share

    def whole(self, lanes: NDArray[np.intp]) -> NDArray[np.bool_]:
        """`(k,)` whether each response is one of its references."""
        whole: NDArray[np.bool_] = self._whole.array[self._first.array[self._place[lanes]] + self.node[lanes]]
        return whole & ~self.off[lanes]
