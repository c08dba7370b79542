"""The base classes of all scores that compare a response with references: `ReferenceReward` and `ReferenceScorer`.

`ngram_overlap` and `alignment` have the three kinds of scorer that build on it:

    NgramScorer   counts clipped n-gram matches: BLEU, chrF, ROUGE-N, token F1
    RowScorer     keeps a row of an alignment as bits, 64 cells a word: ROUGE-L, edit similarity
    PathScorer    follows a response through the tree of its references: exact match, correct prefix

What a unit of a response means at its position is one dictionary look-up a lane. The dictionary begins empty for each
example, and is filled with what responses to it ask for, when they ask: a step in which many new examples begin takes
little more than it takes to cut their references into units. The examples whose turn was longest ago are forgotten, a
part at a time, so that memory is bounded and no step pauses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.incremental.growing import RowTable
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitScorer
from textenvs.tokenizer import Tokenizer

UNIT_BITS = 36
"""The bits of a key (node, unit) that hold the unit. The higher ones hold the node."""

_SIEVE_WORDS = 16  # of 64 bits; a power of two
_CELLS_A_STEP = 1 << 16  # that are forgotten
_GAP = "\ud800"  # a lone surrogate, which no decoded text holds
_UNKNOWN = -2  # where it was not worked out yet to which node a unit leads
_FEW = 8  # occurrences, up to which looking at each is faster than searching the text

MEASURES = ("f", "precision", "recall")
"""The measures of `overlap`."""

References: TypeAlias = tuple[str, ...]
"""The references of one example."""

Prepared = TypeVar("Prepared")


class ReferenceReward(Reward, Generic[Prepared]):
    """A score from 0 to 1 that needs at least one reference. Without one, or with an empty one, it raises.

    Attributes:
        max_prepared: The number of examples to remember the prepared references of, and
        max_prepared_characters: the number of characters of these references, beyond which those that were prepared
            longest ago are forgotten. Counts of n-grams take up to 1 KB a character.
    """

    low, high = 0.0, 1.0
    max_prepared = 1 << 12
    max_prepared_characters = 1 << 18

    @abstractmethod
    def prepare(self, references: References) -> Prepared:
        """Works out what `score` needs to know of references, once for each example."""

    def references(self, example: Example) -> References:
        """Returns the references of an example.

        Raises:
            RewardError: If there is none, or one is empty.
        """
        references = tuple(example.references)
        checked: set[References] = self.__dict__.setdefault("_checked", set())
        if references not in checked:
            self.check_references(example)
            if len(checked) >= self.max_prepared:
                checked.clear()
            checked.add(references)
        return references

    def check_references(self, example: Example) -> None:
        """Checks the references of an example.

        Raises:
            RewardError: If there is none, or one is empty.
        """
        if not example.references:
            problem = "compares with references, and this example has none: give it some, or take another reward"
            raise RewardError(self.name, problem, example, None)
        if not all(text.strip() for text in example.references):
            problem = "compares with references, and one of this example's is empty: leave it out, or write it"
            raise RewardError(self.name, problem, example, None)

    def prepared(self, example: Example) -> Prepared:
        """Returns what `prepare` makes of an example's references, from memory if it is there."""
        cache: OrderedDict[References, Prepared] = self.__dict__.setdefault("_prepared", OrderedDict())
        references = self.references(example)
        known = cache.get(references)
        if known is None:
            characters = self.__dict__.get("_prepared_characters", 0) + sum(map(len, references))
            while cache and (len(cache) >= self.max_prepared or characters > self.max_prepared_characters):
                forgotten, _ = cache.popitem(last=False)
                characters -= sum(map(len, forgotten))
            self._prepared_characters = characters
            known = cache[references] = self.prepare(references)
        return known

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the prepared references, which can be worked out again."""
        memory = ("_prepared", "_prepared_characters", "_checked")
        return {name: value for name, value in self.__dict__.items() if name not in memory}


def overlap(
    matched: NDArray[Any], written: NDArray[Any], wanted: NDArray[Any], measure: str = "f"
) -> NDArray[np.float64]:
    """Computes precision, recall, or their harmonic mean F. 0 where there is nothing to divide by.

    Args:
        matched: The number of items that a response shares with a reference; arrays of shapes that broadcast.
        written: The number of items of the response.
        wanted: The number of items of the reference.
        measure: One of `MEASURES`.

    Returns:
        The measure, from 0 to 1.
    """
    # F = 2pr / (p + r), with p = matched / written and r = matched / wanted, is matched over the mean of the two.
    total = {"precision": written, "recall": wanted, "f": (written + wanted) / 2}[measure]
    share: NDArray[np.float64] = matched / np.where(total > 0, total, 1)
    return share


class ReferenceIndex:
    """The units of one example's references, and where each of them is.

    Args:
        texts: The units of each reference.

    Attributes:
        units: The units of all references, one reference after another, with a gap behind each of them; a text instead
            of a list if all units are characters, since it takes less memory and is searched faster.
        ends: The index of the gap behind each reference.
        distinct: The different units.
    """

    __slots__ = ("_codes", "_positions", "distinct", "ends", "units")

    def __init__(self, texts: list[list[str]]) -> None:
        self.ends = [end - 1 for end in accumulate(len(text) + 1 for text in texts)]
        self.distinct = set().union(*texts)
        self._positions: dict[str, tuple[int, ...]] = {}
        self._codes: NDArray[np.uint32] | None = None
        self.units: str | list[str]
        if all(len(unit) == 1 for unit in self.distinct):
            self.units = "".join(["".join(text) + _GAP for text in texts])
            self._codes = np.frombuffer(self.units.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        else:
            self.units = [unit for text in texts for unit in (*text, _GAP)]

    @property
    def lengths(self) -> list[int]:
        """The number of units of each reference."""
        return [end - begin for begin, end in zip([0, *(end + 1 for end in self.ends)], self.ends, strict=False)]

    def positions(self, unit: str) -> tuple[int, ...]:
        """Returns the indices in `units` that hold a unit, in ascending order."""
        known = self._positions.get(unit)
        if known is None:
            known = self._positions[unit] = tuple(self._search(unit)) if unit in self.distinct else ()
        return known

    def continued(self, ends: tuple[int, ...], length: int, unit: str) -> tuple[int, ...]:
        """Returns where an n-gram is that is another and one unit more.

        Args:
            ends: The indices in `units` of the last unit of the other, at least one.
            length: The number of units of the other.
            unit: The last unit.

        Returns:
            The indices of the last unit of each occurrence, in ascending order.
        """
        units = self.units
        if isinstance(units, list) or len(ends) < _FEW:
            return tuple([end + 1 for end in ends if units[end + 1] == unit])
        gram, positions = units[ends[0] + 1 - length : ends[0] + 1] + unit, []
        at = units.find(gram, ends[0] + 1 - length)
        while at >= 0:
            positions.append(at + length)
            at = units.find(gram, at + 1)
        return tuple(positions)

    def _search(self, unit: str) -> list[int]:
        if self._codes is not None:
            indices: list[int] = np.flatnonzero(self._codes == ord(unit)).tolist()
            return indices
        positions, index, at = [], self.units.index, -1
        try:
            while True:
                at = index(unit, at + 1)
                positions.append(at)
        except ValueError:
            return positions


class ReferenceScorer(UnitScorer):
    """Computes Phi of N responses against the references of each.

    An example gets a slot, a row of the tables, at the first push of a response to it, and keeps it until it is
    forgotten. What leads from node to node is worked out (`_discover`) when a response first goes there, and kept. An
    example with fewer references than another is padded: with its last reference again, or with one that nothing
    matches. Neither changes a maximum over references.

    A subclass begins and forgets examples, discovers, clears lanes, and reads.

    Args:
        reward: The score's definition.
        splitter: Cuts responses and references into units.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        max_cells: The number of cells (units of references, edges, and what a subclass counts) beyond which examples
            are forgotten, those of the lanes excepted. A cell takes about 100 bytes.
    """

    max_cells = 1 << 21

    def __init__(self, reward: ReferenceReward[Any], splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._reward = reward
        self._splitter = splitter
        self._references: list[References | None] = [None] * num_lanes
        self._is_empty = np.ones(num_lanes, dtype=np.bool_)  # True until the first push after a reset
        self._slot = np.full(num_lanes, -1, dtype=np.int64)  # the row of each lane's example in the tables
        self._slots: OrderedDict[References, int] = OrderedDict()  # the one that began longest ago first
        self._free_slots: list[int] = []
        self._indices: list[ReferenceIndex] = []  # by slot
        self._edges: list[dict[int, int]] = []  # by slot: (node, unit), packed into one key, to node
        self._edges_of_lane: list[dict[int, int]] = [{}] * num_lanes
        self._cells: list[int] = []  # by slot
        self._num_cells = 0
        self._cell_limit = self.max_cells
        self._num_columns = 1  # the most references that an example has had
        self._lengths = RowTable(np.int64, (1,), "edge")  # by slot: of the references, in units
        self._sieve = RowTable(np.uint64, (_SIEVE_WORDS,))  # by slot

    @abstractmethod
    def _begin_examples(self, slots: list[int]) -> None:
        """Makes what examples need before anything is discovered. Their `_indices` are there."""

    @abstractmethod
    def _forget_example(self, slot: int) -> None:
        """Frees what the subclass keeps for an example."""

    @abstractmethod
    def _discover(self, slot: int, node: int, unit: int) -> int:
        """Works out the node to which a unit leads from a node; -1 if the references have no such way.

        It puts into `_edges` what is to be known there the next time, and counts that as `_cells`.
        """

    @abstractmethod
    def _write_discovered(self) -> None:
        """Writes what was discovered into arrays, all at once."""

    @abstractmethod
    def _clear(self, lanes: NDArray[np.intp]) -> None:
        """Empties lanes `(k,)`, whose examples have slots: nothing is read or marked."""

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses. Their tables are begun at the first push, since a sparse payout never pushes."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._references[lane] = self._reward.references(example)
        self._is_empty[lanes] = True

    def advance(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Appends one token to each of some lanes, after the tables of new examples are begun."""
        if self._num_cells > self._cell_limit:
            self._forget_some()
        is_empty = self._is_empty[lanes]
        if is_empty.any():
            self._open(lanes[is_empty])
        super().advance(lanes, tokens)

    def _open(self, lanes: NDArray[np.intp]) -> None:
        slots, begun = [], []
        for lane in lanes.tolist():
            texts = self._references[lane]
            if texts is None:
                raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
            slot = self._slots.get(texts)
            if slot is None:
                slot = self._begin(texts)
                begun.append(slot)
            else:
                self._slots.move_to_end(texts)
            self._edges_of_lane[lane] = self._edges[slot]
            slots.append(slot)
        if begun:
            indices = [self._indices[slot] for slot in begun]
            columns = self._num_columns = max(self._num_columns, *(len(index.ends) for index in indices))
            lengths = [index.lengths for index in indices]
            self._lengths.put(begun, np.array([each + each[-1:] * (columns - len(each)) for each in lengths]))
            self._begin_examples(begun)
            sieves = np.zeros((len(begun), 64 * _SIEVE_WORDS), dtype=np.bool_)
            for row, index in enumerate(indices):
                sieves[row, [unit % sieves.shape[1] for unit in map(self.units.keep, index.distinct)]] = True
            words = np.packbits(sieves, axis=1, bitorder="little").view("<u8").astype(np.uint64)
            self._sieve.put(begun, words)
        self._slot[lanes] = slots
        self._is_empty[lanes] = False
        self._clear(lanes)

    def _begin(self, texts: References) -> int:
        """Gives an example a slot."""
        index = ReferenceIndex([self._splitter.split(text) for text in texts])
        if self._free_slots:
            slot = self._free_slots.pop()
            self._indices[slot], self._edges[slot], self._cells[slot] = index, {}, 0
        else:
            slot = len(self._indices)
            self._indices.append(index)
            self._edges.append({})
            self._cells.append(0)
        self._slots[texts] = slot
        self._count(slot, len(index.units))
        return slot

    def _count(self, slot: int, cells: int) -> None:
        self._cells[slot] += cells
        self._num_cells += cells

    def _forget_some(self) -> None:
        """Forgets examples in the order in which they began, except those of the lanes, until few enough are left.

        One step forgets about as much as a step can discover, and leaves the rest for the next.
        """
        in_use = set(self._slot.tolist())
        most = self._num_cells - _CELLS_A_STEP
        for _ in range(len(self._slots)):
            if self._num_cells <= max(most, self.max_cells):
                break
            texts, slot = self._slots.popitem(last=False)
            if slot in in_use:
                self._slots[texts] = slot
                continue
            self._forget_example(slot)
            for unit in self._indices[slot].distinct:
                self.units.drop(unit)
            self._num_cells -= self._cells[slot]
            self._edges[slot], self._indices[slot] = {}, _NO_REFERENCES
            self._free_slots.append(slot)
        else:  # the lanes' own examples take more
            self._cell_limit = 2 * self._num_cells
            return
        self._cell_limit = self.max_cells

    def _passes_sieve(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns `(k,)` False for most units that no reference of their lane has, so that few are looked up.

        A sieve has one bit for all units of the same remainder (modulo its size): a Bloom filter with one hash.
        """
        words = self._sieve.array[self._slot[lanes], (units >> 6) & (_SIEVE_WORDS - 1)]
        passes: NDArray[np.bool_] = (words >> (units & 63).astype(np.uint64)) & np.uint64(1) != 0
        return passes

    def _follow(self, lanes: NDArray[np.intp], nodes: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns `(k,)` the node to which each lane's unit leads from its node, or -1."""
        edges = self._edges_of_lane
        keys = ((nodes << UNIT_BITS) | units).tolist()
        after = [edges[lane].get(key, _UNKNOWN) for lane, key in zip(lanes.tolist(), keys, strict=True)]
        if _UNKNOWN in after:
            for row in [row for row, node in enumerate(after) if node == _UNKNOWN]:
                lane = int(lanes[row])
                known = edges[lane].get(keys[row])  # another lane may have discovered it by now
                if known is None:
                    known = self._discover(int(self._slot[lane]), int(nodes[row]), int(units[row]))
                after[row] = known
            self._write_discovered()
        return np.array(after, dtype=np.int64)


_NO_REFERENCES = ReferenceIndex([])


def to_words(numbers: list[int], words: int) -> NDArray[np.uint64]:
    """Returns whole numbers of any size as `(k, words)` of 64 bits a word, the lowest first."""
    data = b"".join([number.to_bytes(8 * words, "little") for number in numbers])
    return np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(len(numbers), words)
