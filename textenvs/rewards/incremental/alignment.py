"""Alignments of a growing response with its references.

`RowScorer` keeps one row of an alignment table (longest common subsequence, edit distance) as bits, 64 cells a word,
and `PathScorer` the node of the tree of references that the response has followed so far.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.growing import RowTable, widen
from textenvs.rewards.incremental.references import UNIT_BITS, ReferenceReward, ReferenceScorer, to_words
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer

# Rows of an alignment, as bits

_CARRY_WORDS = 63
_FEW_WORDS = 5  # up to which it is faster to carry from word to word
_ALL_ONES = np.uint64((1 << 64) - 1)


class Bits:
    """The references of some lanes as bits: side by side, with a gap of one bit behind each.

    Args:
        masks: `(k, words)` uint64, the positions that hold the unit that is read.
        slots: `(k,)` the examples of the lanes: rows of the tables.
        tables: The tables of all examples, by the names of the properties.
    """

    __slots__ = ("_slots", "_tables", "masks")

    def __init__(self, masks: NDArray[np.uint64], slots: NDArray[np.int64], tables: dict[str, RowTable]) -> None:
        self.masks = masks
        self._slots = slots
        self._tables = tables

    @property
    def inside(self) -> NDArray[np.uint64]:
        """`(k, words)` uint64, all positions of references."""
        return self._tables["inside"].array[self._slots]

    @property
    def starts(self) -> NDArray[np.uint64]:
        """`(k, words)` uint64, the first position of each reference."""
        return self._tables["starts"].array[self._slots]

    @property
    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """`(k, references)` int64 and uint64, the word and bit of each last position; bit 0 if a reference is empty."""
        return self._tables["end_word"].array[self._slots], self._tables["end_bit"].array[self._slots]

    @property
    def gaps(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """`(k, references)` int64 and uint64, the word and bit of the gap behind each reference."""
        return self._tables["gap_word"].array[self._slots], self._tables["gap_bit"].array[self._slots]


def add_words(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Adds numbers `(k, words)` of 64 bits a word, the lowest word first.

    The carries of up to 63 words are found by one addition, of numbers that have a bit for each word: a word that
    overflows carries into the next, and through all that follow whose bits are all 1.
    """
    total = left + right
    words = left.shape[1]
    if words == 1:
        return total
    overflows = total < left
    if words <= _FEW_WORDS:
        carry = overflows[:, 0]
        for word in range(1, words):
            total[:, word] += carry
            carry = overflows[:, word] | (carry & (total[:, word] == 0))
        return total
    carries: NDArray[Any] = np.zeros(len(left), dtype=np.uint64)
    for first in range(0, words, _CARRY_WORDS):
        block = slice(first, first + _CARRY_WORDS)
        generate, propagate = _word_bits(overflows[:, block]), _word_bits(total[:, block] == _ALL_ONES)
        incoming = ((generate << np.uint64(1)) | carries) + propagate
        changed = incoming ^ propagate
        size = min(_CARRY_WORDS, words - first)
        bits = np.unpackbits(changed.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        total[:, block] += bits[:, :size]
        carries = (changed >> np.uint64(size)) & np.uint64(1)
    return total


def _word_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Packs flags `(k, up to 64)` into the bits of one number each, the first flag lowest."""
    packed = np.zeros((len(flags), 8), dtype=np.uint8)
    packed[:, : -(-flags.shape[1] // 8)] = np.packbits(flags, axis=1, bitorder="little")
    return packed.view("<u8")[:, 0].astype(np.uint64)


def shift_words(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Doubles numbers `(k, words)` of 64 bits a word, the lowest word first."""
    shifted = numbers << np.uint64(1)
    shifted[:, 1:] |= numbers[:, :-1] >> np.uint64(63)
    return shifted


def bit_at(numbers: NDArray[np.uint64], word: NDArray[np.int64], bit: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tests one bit for each reference: `(k, references)` True where numbers `(k, words)` have `bit` in `word`."""
    is_set: NDArray[np.bool_] = np.take_along_axis(numbers, word, axis=1) & bit != 0
    return is_set


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
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._num_words = 1  # the most that an example's references have taken
        self._masks = RowTable(np.uint64, (1,))  # row 0 is that of every unit that no reference has
        self._num_masks = 1
        self._free_rows: list[int] = []
        self._rows_of: list[list[int]] = []  # by slot
        self._new: list[tuple[int, int]] = []  # rows and masks, to be written
        self._inside, self._starts = (RowTable(np.uint64, (1,)) for _ in range(2))
        self._end_word, self._gap_word = (RowTable(np.int64, (1,), "edge") for _ in range(2))
        self._end_bit, self._gap_bit = (RowTable(np.uint64, (1,), "edge") for _ in range(2))
        self._tables = {
            "inside": self._inside, "starts": self._starts, "end_word": self._end_word, "end_bit": self._end_bit,
            "gap_word": self._gap_word, "gap_bit": self._gap_bit,
        }  # fmt: skip
        self._no_nodes = np.zeros(num_lanes, dtype=np.int64)
        self._rows = np.zeros((num_rows, num_lanes, 1), dtype=np.uint64)
        self._last_cells = np.zeros((num_lanes, 1), dtype=np.int64)  # the table's last cell, for each reference
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._marked = (self._rows.copy(), self._last_cells.copy(), self._length.copy())

    def _begin_examples(self, slots: list[int]) -> None:
        indices = [self._indices[slot] for slot in slots]
        words = self._num_words = max(self._num_words, *(-(-len(index.units) // 64) for index in indices))
        inside, starts, pairs_of_ends, pairs_of_gaps = [], [], [], []
        for index in indices:  # the None behind a reference is its gap
            gaps = sum(1 << gap for gap in index.ends)
            lengths = index.lengths
            inside.append(((1 << len(index.units)) - 1) & ~gaps)
            starts.append(sum(1 << (gap - size) for gap, size in zip(index.ends, lengths, strict=True) if size))
            lasts = [(max(gap - 1, 0), bool(size)) for gap, size in zip(index.ends, lengths, strict=True)]
            pairs_of_ends.append([(last // 64, is_there << (last % 64)) for last, is_there in lasts])
            pairs_of_gaps.append([(gap // 64, 1 << (gap % 64)) for gap in index.ends])
            if len(self._rows_of) < len(self._indices):
                self._rows_of += [[] for _ in range(len(self._indices) - len(self._rows_of))]
        self._inside.put(slots, to_words(inside, words))
        self._starts.put(slots, to_words(starts, words))
        for word_table, bit_table, pairs_of in (
            (self._end_word, self._end_bit, pairs_of_ends),
            (self._gap_word, self._gap_bit, pairs_of_gaps),
        ):
            padded = [pairs + pairs[-1:] * (self._num_columns - len(pairs)) for pairs in pairs_of]
            word_table.put(slots, np.array([[word for word, _ in pairs] for pairs in padded]))
            bit_table.put(slots, np.array([[bit for _, bit in pairs] for pairs in padded], dtype=np.uint64))

    def _forget_example(self, slot: int) -> None:
        self._free_rows += self._rows_of[slot]
        self._rows_of[slot] = []

    def _discover(self, slot: int, node: int, unit: int) -> int:
        """Makes the mask of a unit. Here the "node" is always 0, and the edge leads to a row of `_masks`."""
        positions = self._indices[slot].positions(self.units.name(unit))
        row = -1
        if positions:
            if self._free_rows:
                row = self._free_rows.pop()
            else:
                row, self._num_masks = self._num_masks, self._num_masks + 1
            self._rows_of[slot].append(row)
            mask = 0
            for position in positions:
                mask |= 1 << position
            self._new.append((row, mask))
            self._count(slot, self._num_words // 8)
        self._edges[slot][unit] = row
        self._count(slot, 1)
        return row

    def _write_discovered(self) -> None:
        if self._new:
            masks = to_words([mask for _, mask in self._new], self._num_words)
            self._masks.put([row for row, _ in self._new], masks)
            self._new.clear()

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
        nodes = np.maximum(self._follow(lanes, self._no_nodes[: len(units)], units), 0)
        bits = Bits(self._masks.array[nodes], self._slot[lanes], self._tables)
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
        self._prefixes: list[tuple[list[int], int, float]] = []  # by node: columns, depth and share
        self._nodes_of: list[list[int]] = []  # by slot, the root first
        self._free_nodes: list[int] = []
        self._new: list[tuple[int, float, bool]] = []  # nodes, to be written
        self._share = RowTable(np.float64)
        self._is_reference = RowTable(np.bool_)
        self._marked = (self.node.copy(), self.has_left.copy())

    def _begin_examples(self, slots: list[int]) -> None:
        for slot in slots:
            if slot == len(self._nodes_of):
                self._nodes_of.append([])
            self._add_node(slot, list(range(len(self._indices[slot].ends))), 0, 0.0)
        self._write_discovered()

    def _forget_example(self, slot: int) -> None:
        self._free_nodes += self._nodes_of[slot]
        self._nodes_of[slot] = []

    def _add_node(self, slot: int, columns: list[int], depth: int, least: float) -> int:
        """Adds the node of a prefix.

        Args:
            slot: The example's.
            columns: The references that begin with the prefix.
            depth: The number of its units.
            least: The share of the node before it.

        Returns:
            The node.
        """
        wanted = self._indices[slot].lengths
        share = max([least] + [depth / wanted[column] if wanted[column] else 1.0 for column in columns])
        is_reference = any(wanted[column] == depth for column in columns)
        if self._free_nodes:
            node = self._free_nodes.pop()
            self._prefixes[node] = (columns, depth, share)
        else:
            node = len(self._prefixes)
            self._prefixes.append((columns, depth, share))
        self._nodes_of[slot].append(node)
        self._new.append((node, share, is_reference))
        self._count(slot, 4)
        return node

    def _discover(self, slot: int, node: int, unit: int) -> int:
        columns, depth, share = self._prefixes[node]
        name, index, wanted = self.units.name(unit), self._indices[slot], self._indices[slot].lengths
        begins = [end - size for end, size in zip(index.ends, wanted, strict=True)]
        columns = [column for column in columns if index.units[begins[column] + depth] == name]
        after = self._add_node(slot, columns, depth + 1, share) if columns else -1
        self._edges[slot][(node << UNIT_BITS) | unit] = after
        self._count(slot, 1)
        return after

    def _write_discovered(self) -> None:
        if self._new:
            nodes = [node for node, _, _ in self._new]
            self._share.put(nodes, np.array([share for _, share, _ in self._new]))
            self._is_reference.put(nodes, np.array([is_reference for _, _, is_reference in self._new]))
            self._new.clear()

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        self.node[lanes] = [self._nodes_of[slot][0] for slot in self._slot[lanes].tolist()]
        self.has_left[lanes] = False
        self.mark(lanes)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit in each of those lanes whose response has not left its references yet."""
        follows = ~self.has_left[lanes]
        lanes, units = lanes[follows], units[follows]
        after = self._follow(lanes, self.node[lanes], units)
        self.has_left[lanes] = after < 0
        self.node[lanes] = np.where(after < 0, self.node[lanes], after)

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Copies the nodes of lanes."""
        self._marked[0][lanes], self._marked[1][lanes] = self.node[lanes], self.has_left[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the nodes of lanes."""
        self.node[lanes], self.has_left[lanes] = self._marked[0][lanes], self._marked[1][lanes]

    def share(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns `(k,)` the largest share of a reference that each response begins with."""
        share: NDArray[np.float64] = self._share.array[self.node[lanes]]
        return share

    def is_reference(self, lanes: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Returns `(k,)` True where the response is one of its references."""
        at_end: NDArray[np.bool_] = self._is_reference.array[self.node[lanes]]
        return at_end & ~self.has_left[lanes]
