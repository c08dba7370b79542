"""Alignments of a growing response with its references.

`RowScorer` keeps one row of an alignment table (longest common subsequence, edit distance) as bits, 64 cells a word,
and `PathScorer` the node of the tree of references that the response has followed so far.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.growing import RowTable, widen
from textenvs.rewards.incremental.references import UNIT_BITS, ReferenceReward, ReferenceScorer, to_words
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer

# Rows of an alignment, as bits


@dataclass(frozen=True, slots=True)
class Bits:
    """The references of some lanes as bits: side by side, with a gap of one bit behind each.

    Attributes:
        masks: `(k, words)` uint64, the positions that hold the unit that is read.
        inside: `(k, words)` uint64, all positions of references.
        starts: `(k, words)` uint64, the first position of each reference.
        end_word: `(k, references)` int64, the word of each reference's last position.
        end_bit: `(k, references)` uint64, the bit of that position in its word; 0 where the reference is empty.
        gap_word: `(k, references)` int64, the word of the gap behind each reference.
        gap_bit: `(k, references)` uint64, the bit of the gap in its word.
    """

    masks: NDArray[np.uint64]
    inside: NDArray[np.uint64]
    starts: NDArray[np.uint64]
    end_word: NDArray[np.int64]
    end_bit: NDArray[np.uint64]
    gap_word: NDArray[np.int64]
    gap_bit: NDArray[np.uint64]


def add_words(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Adds numbers `(k, words)` of 64 bits a word, the lowest word first."""
    total = left + right
    if left.shape[1] > 1:
        carry = np.zeros(len(left), dtype=np.bool_)
        for word in range(left.shape[1]):
            overflows = total[:, word] < left[:, word]
            total[:, word] += carry
            carry = overflows | (carry & (total[:, word] == 0))
    return total


def shift_words(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Doubles numbers `(k, words)` of 64 bits a word, the lowest word first."""
    shifted = numbers << np.uint64(1)
    shifted[:, 1:] |= numbers[:, :-1] >> np.uint64(63)
    return shifted


def bit_at(numbers: NDArray[np.uint64], word: NDArray[np.int64], bit: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tests one bit for each reference: `(k, references)` True where numbers `(k, words)` have `bit` in `word`."""
    is_set: NDArray[np.bool_] = np.take_along_axis(numbers, word, axis=1) & bit != 0
    return is_set


class _ReferenceBits:
    """The bits of one example's references, as Python's whole numbers, before they go into tables.

    Attributes:
        mask_of: Unit to the positions that hold it.
        inside: All positions of references.
        starts: The first position of each reference.
        ends: For each reference, the word and the bit of its last position.
        gaps: For each reference, the word and the bit of the gap behind it.
        length: The number of positions and gaps.
    """

    def __init__(self, texts: list[list[int]]) -> None:
        self.mask_of: dict[int, int] = {}
        self.inside = self.starts = self.length = 0
        self.ends: list[tuple[int, int]] = []
        self.gaps: list[tuple[int, int]] = []
        for text in texts:
            first, gap = self.length, self.length + len(text)
            for bit, unit in enumerate(text, start=first):
                self.mask_of[unit] = self.mask_of.get(unit, 0) | 1 << bit
            self.inside |= ((1 << len(text)) - 1) << first
            self.starts |= bool(text) << first
            last = max(gap - 1, 0)
            self.ends.append((last // 64, bool(text) << (last % 64)))
            self.gaps.append((gap // 64, 1 << (gap % 64)))
            self.length = gap + 1


class RowScorer(ReferenceScorer):
    """Computes Phi as a function of one row of an alignment table between a response and each of its references.

    A subclass writes `_initial`, `_read_row` and `phi`.

    Cost: a few array operations a unit, for each 64 units of the references.

    Args:
        reward: The score's definition.
        splitter: Cuts responses and references into units.
        num_rows: The number of rows of bits that a lane has.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        reads_every_unit: If False, a unit that no reference has changes nothing except the response's length.
    """

    reads_every_unit: bool = True

    def __init__(
        self,
        reward: ReferenceReward[Any],
        splitter: Splitter,
        num_rows: int,
        num_lanes: int,
        tokenizer: Tokenizer,
    ) -> None:
        self._num_words = 1  # the most that an example's references have taken
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._rows = np.zeros((num_rows, num_lanes, 1), dtype=np.uint64)
        self._last_cells = np.zeros((num_lanes, 1), dtype=np.int64)  # the table's last cell, for each reference
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._marked = (self._rows.copy(), self._last_cells.copy(), self._length.copy())

    def _forget(self) -> None:
        super()._forget()
        self._masks, self._inside, self._starts = (RowTable(np.uint64, (self._num_words,)) for _ in range(3))
        self._masks.extend(np.zeros((1, 1), dtype=np.uint64))  # row 0, of every unit that no reference has
        self._end_word, self._gap_word = (RowTable(np.int64, (self._num_columns,), "edge") for _ in range(2))
        self._end_bit, self._gap_bit = (RowTable(np.uint64, (self._num_columns,), "edge") for _ in range(2))
        self._num_nodes = 1

    def _add_tables(self, examples: list[list[list[int]]]) -> None:
        masks: list[int] = []
        all_bits = [_ReferenceBits(texts) for texts in examples]
        for slot, bits in enumerate(all_bits, start=self._inside.size):
            # Here the "node" of an edge is the example, and it leads to a row of `_masks`.
            nodes = range(self._num_nodes, self._num_nodes + len(bits.mask_of))
            self._edges.update(zip([(slot << UNIT_BITS) | unit for unit in bits.mask_of], nodes, strict=True))
            self._num_nodes += len(bits.mask_of)
            masks += bits.mask_of.values()
        words = self._num_words = max(self._num_words, *(-(-bits.length // 64) for bits in all_bits))
        self._masks.extend(to_words(masks, words))
        self._inside.extend(to_words([bits.inside for bits in all_bits], words))
        self._starts.extend(to_words([bits.starts for bits in all_bits], words))
        for word_table, bit_table, pairs_of in (
            (self._end_word, self._end_bit, [bits.ends for bits in all_bits]),
            (self._gap_word, self._gap_bit, [bits.gaps for bits in all_bits]),
        ):
            padded = [pairs + pairs[-1:] * (self._num_columns - len(pairs)) for pairs in pairs_of]
            word_table.extend(np.array([[word for word, _ in pairs] for pairs in padded]))
            bit_table.extend(np.array([[bit for _, bit in pairs] for pairs in padded], dtype=np.uint64))
        self._num_cells += (len(masks) + 2 * len(examples)) * words

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        words, columns = self._inside.array.shape[1], self._lengths.array.shape[1]
        rows, last_cells, length = self._marked
        self._rows, rows = (widen(each, words) for each in (self._rows, rows))
        self._last_cells, last_cells = (widen(each, columns, "edge") for each in (self._last_cells, last_cells))
        self._marked = (rows, last_cells, length)
        slot = self._slot[lanes]
        initial = self._initial(self._inside.array[slot], self._lengths.array[slot])
        self._rows[:, lanes], self._last_cells[lanes] = initial
        self._length[lanes] = 0
        self.mark(lanes)

    @abstractmethod
    def _initial(
        self, inside: NDArray[np.uint64], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Returns the rows `(rows, k, words)` and last cells `(k, references)` of empty responses.

        Args:
            inside: `(k, words)` all positions of references.
            wanted: `(k, references)` units of each reference.
        """

    @abstractmethod
    def _read_row(
        self, rows: NDArray[np.uint64], bits: Bits
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64] | NDArray[np.bool_]]:
        """Returns the rows `(rows, k, words)` after a unit, and what it adds to the last cells `(k, references)`."""

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit in each of some lanes: their rows move down the table by one."""
        self._length[lanes] += 1
        if not self.reads_every_unit:
            known = self._passes_sieve(lanes, units)
            lanes, units = lanes[known], units[known]
        slot = self._slot[lanes]
        nodes = np.maximum(self._follow(slot, units), 0)
        tables = (self._inside, self._starts, self._end_word, self._end_bit, self._gap_word, self._gap_bit)
        bits = Bits(self._masks.array[nodes], *(table.array[slot] for table in tables))
        rows, added = self._read_row(self._rows[:, lanes], bits)
        self._rows[:, lanes] = rows
        self._last_cells[lanes] += added

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Copies the rows, last cells and lengths of lanes."""
        rows, last_cells, length = self._marked
        rows[:, lanes], last_cells[lanes], length[lanes] = (
            self._rows[:, lanes], self._last_cells[lanes], self._length[lanes],
        )  # fmt: skip

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the rows, last cells and lengths of lanes."""
        rows, last_cells, length = self._marked
        self._rows[:, lanes], self._last_cells[lanes], self._length[lanes] = (
            rows[:, lanes], last_cells[lanes], length[lanes],
        )  # fmt: skip


# Paths in the tree of references


class PathScorer(ReferenceScorer):
    """Computes Phi as a function of how far a response follows one of its references, unit by unit.

    A subclass writes `phi`.

    Cost: one dictionary look-up a unit, until the response leaves its references.

    Args:
        reward: The score's definition.
        splitter: Cuts responses and references into units.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        node: `(num_lanes,)` int64, the last node of each response's path in the tree of its references.
        has_left: `(num_lanes,)` bool, True where the response has gone on from that node to no other node.
    """

    def __init__(self, reward: ReferenceReward[Any], splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self.node = np.zeros(num_lanes, dtype=np.int64)
        self.has_left = np.zeros(num_lanes, dtype=np.bool_)
        self._marked = (self.node.copy(), self.has_left.copy())

    def _forget(self) -> None:
        super()._forget()
        self._first = RowTable(np.int64)  # the root of each example's tree, among all nodes
        self._share = RowTable(np.float64)
        self._is_reference = RowTable(np.bool_)

    def _add_tables(self, examples: list[list[list[int]]]) -> None:
        for texts in examples:
            self._add_tree(texts)

    def _add_tree(self, texts: list[list[int]]) -> None:
        first = self._num_nodes
        has_empty = not all(texts)  # then the root is a reference
        share, is_reference, parents = [1.0 if has_empty else 0.0], [has_empty], [0]
        for text in texts:
            node = 0
            for depth, unit in enumerate(text, start=1):
                key = ((first + node) << UNIT_BITS) | unit
                parent, node = node, self._edges.setdefault(key, first + len(share)) - first
                if node == len(share):
                    share.append(0.0)
                    is_reference.append(False)
                    parents.append(parent)
                share[node] = max(share[node], depth / len(text))
            is_reference[node] = True
        for node, parent in enumerate(parents):  # a parent comes before its children
            share[node] = max(share[node], share[parent])
        self._first.extend(np.array([first]))
        self._share.extend(np.array(share))
        self._is_reference.extend(np.array(is_reference))
        self._num_nodes += len(share)
        self._num_cells += 2 * len(share)

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        self.node[lanes], self.has_left[lanes] = 0, False
        self.mark(lanes)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit in each of those lanes whose response has not left its references yet."""
        follows = ~self.has_left[lanes]
        lanes, units = lanes[follows], units[follows]
        first = self._first.array[self._slot[lanes]]
        after = self._follow(first + self.node[lanes], units)
        self.has_left[lanes] = after < 0
        self.node[lanes] = np.where(after < 0, self.node[lanes], after - first)

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Copies the nodes of lanes."""
        self._marked[0][lanes], self._marked[1][lanes] = self.node[lanes], self.has_left[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the nodes of lanes."""
        self.node[lanes], self.has_left[lanes] = self._marked[0][lanes], self._marked[1][lanes]

    def share(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns `(k,)` the largest share of a reference that each response begins with."""
        share: NDArray[np.float64] = self._share.array[self._first.array[self._slot[lanes]] + self.node[lanes]]
        return share

    def is_reference(self, lanes: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Returns `(k,)` True where the response is one of its references."""
        at_end: NDArray[np.bool_] = self._is_reference.array[self._first.array[self._slot[lanes]] + self.node[lanes]]
        return at_end & ~self.has_left[lanes]
