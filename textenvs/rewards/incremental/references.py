"""The base classes of all scores that compare a response with references: `ReferenceReward` and `ReferenceScorer`.

`ngram_overlap` and `alignment` have the three kinds of scorer that build on it:

    NgramScorer   counts clipped n-gram matches: BLEU, chrF, ROUGE-N, token F1
    RowScorer     keeps a row of an alignment as bits, 64 cells a word: ROUGE-L, edit similarity
    PathScorer    follows a response through the tree of its references: exact match, correct prefix

A scorer numbers the units of the references, and keeps tables of them for each example. What a unit of a response
means at its position is one dictionary look-up a lane. A unit that no reference has is not in the dictionary, and costs
nothing more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import repeat
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

MEASURES = ("f", "precision", "recall")
"""The measures of `overlap`."""

References: TypeAlias = tuple[str, ...]
"""The references of one example."""

Prepared = TypeVar("Prepared")


class ReferenceReward(Reward, Generic[Prepared]):
    """A score from 0 to 1 that needs at least one reference. Without one, or with an empty one, it raises.

    Attributes:
        max_prepared: The number of examples to remember the prepared references of.
    """

    low, high = 0.0, 1.0
    max_prepared = 1 << 12

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
        cache: dict[References, Prepared] = self.__dict__.setdefault("_prepared", {})
        references = self.references(example)
        known = cache.get(references)
        if known is None:
            if len(cache) >= self.max_prepared:
                cache.clear()
            known = cache[references] = self.prepare(references)
        return known

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the prepared references, which can be worked out again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_prepared", "_checked")}


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


class ReferenceScorer(UnitScorer):
    """Computes Phi of N responses against the references of each.

    The tables of an example are made when a response to it begins for the first time (for all lanes that begin at one
    step together), and kept. An example with fewer references than another is padded: with its last reference again,
    or with one that nothing matches. Neither changes a maximum over references.

    A subclass makes tables (`_add_tables` and `_forget`), clears lanes, and reads.

    Args:
        reward: The score's definition.
        splitter: Cuts responses and references into units.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        max_cells: The number of table cells beyond which examples are forgotten, except those of the lanes.
    """

    max_cells = 1 << 24

    def __init__(self, reward: ReferenceReward[Any], splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._reward = reward
        self._splitter = splitter
        self._references: list[References | None] = [None] * num_lanes
        self._is_empty = np.ones(num_lanes, dtype=np.bool_)  # True until the first push after a reset
        self._slot = np.zeros(num_lanes, dtype=np.int64)  # the row of each lane's example in the tables
        self._cell_limit = self.max_cells
        self._num_columns = 1  # the most references that an example has had
        self._forget()

    def _forget(self) -> None:
        """Makes all tables anew, and empty."""
        self._slots: dict[References, int] = {}
        self._edges: dict[int, int] = {}  # (node, unit), packed into one key, to node
        self._num_nodes = 0
        self._num_cells = 0  # approximately: the numbers in all tables
        self._lengths = RowTable(np.int64, (self._num_columns,), "edge")  # of the references, in units
        self._sieve = RowTable(np.uint64, (_SIEVE_WORDS,))

    @abstractmethod
    def _add_tables(self, examples: list[list[list[int]]]) -> None:
        """Makes the tables of some examples, each given as its references, and each reference as its units."""

    @abstractmethod
    def _clear(self, lanes: NDArray[np.intp]) -> None:
        """Empties lanes `(k,)`, whose examples have tables: nothing is read or marked."""

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses. Their tables are made at the first push, since a sparse payout never pushes."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._references[lane] = self._reward.references(example)
        self._is_empty[lanes] = True

    def advance(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Appends one token to each of some lanes, after the tables of new examples are made."""
        is_empty = self._is_empty[lanes]
        if is_empty.any():
            self._open(lanes[is_empty])
        super().advance(lanes, tokens)

    def _open(self, lanes: NDArray[np.intp]) -> None:
        references = [self._references[lane] for lane in lanes.tolist()]
        if None in references:
            lane = lanes[references.index(None)]
            raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
        if self._num_cells > self._cell_limit and any(texts not in self._slots for texts in references):
            self._compact()
        self._slot[lanes] = self._slots_of(references)
        self._is_empty[lanes] = False
        self._clear(lanes)

    def _slots_of(self, references: Sequence[References | None]) -> list[int]:
        """Returns the rows of examples in the tables. Examples that have none yet are added."""
        new = [texts for texts in dict.fromkeys(references) if texts is not None and texts not in self._slots]
        if new:
            self._slots.update(zip(new, range(len(self._slots), len(self._slots) + len(new)), strict=True))
            self._num_columns = columns = max(self._num_columns, *map(len, new))
            keep, split = self.units.keep, self._splitter.split
            examples = [[[keep(unit) for unit in split(text)] for text in texts] for texts in new]
            lengths = [[len(text) for text in texts] for texts in examples]
            self._lengths.extend(np.array([each + each[-1:] * (columns - len(each)) for each in lengths]))
            sieves = [
                sum(1 << bit for bit in {unit % (64 * _SIEVE_WORDS) for text in texts for unit in text})
                for texts in examples
            ]
            self._sieve.extend(to_words(sieves, _SIEVE_WORDS))
            self._add_tables(examples)
        return [0 if texts is None else self._slots[texts] for texts in references]

    def _compact(self) -> None:
        """Forgets all examples except those of the lanes.

        What the lanes have read stays valid, since nodes are numbered from the first node of their example.
        """
        self.units.release()
        self._forget()
        self._slot[:] = self._slots_of(self._references)
        self._cell_limit = max(self.max_cells, 2 * self._num_cells)

    def _passes_sieve(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns `(k,)` False for most units that no reference of their lane has, so that few are looked up.

        A sieve has one bit for all units of the same remainder (modulo its size): a Bloom filter with one hash.
        """
        words = self._sieve.array[self._slot[lanes], (units >> 6) & (_SIEVE_WORDS - 1)]
        passes: NDArray[np.bool_] = (words >> (units & 63).astype(np.uint64)) & np.uint64(1) != 0
        return passes

    def _follow(self, nodes: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns `(k,)` the node to which each unit leads from each node, or -1."""
        keys = ((nodes << UNIT_BITS) | units).tolist()
        return np.fromiter(map(self._edges.get, keys, repeat(-1)), np.int64, len(keys))


def to_words(numbers: list[int], words: int) -> NDArray[np.uint64]:
    """Returns whole numbers of any size as `(k, words)` of 64 bits a word, the lowest first."""
    data = b"".join([number.to_bytes(8 * words, "little") for number in numbers])
    return np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(len(numbers), words)
