"""What scores that compare a response with references share: the references' tables, and three ways to read them.

    ReferenceReward   a score that needs references, which are prepared once an example
    NgramReward       clipped n-gram matches: BLEU, chrF, ROUGE-N, token F1
    RowScorer         a row of an alignment table as bits, 64 cells a word: ROUGE-L, edit similarity
    PathScorer        the path that a response takes through the tree of references: exact match, correct prefix

A scorer knows the units of the references by their numbers, and looks up what a unit of a response means in its place
with one dictionary look-up a lane: a unit that is in no reference is simply not there, and costs nothing more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitScorer
from textenvs.tokenizer import Tokenizer

# What is known of examples is forgotten, but for the examples in play, when there is more of it than this.
_MOST_PREPARED = 1 << 12  # examples


_MOST_CELLS = 1 << 24


_UNIT_BITS = 36  # of a key; the rest is the node's


_SIEVE_WORDS = 16  # of 64 bits; a power of two


MEASURES = ("f", "precision", "recall")


References = tuple[str, ...]


Prepared = TypeVar("Prepared")


class ReferenceReward(Reward, Generic[Prepared]):
    """A score from 0 to 1 that needs at least one reference. Without one it raises: it never scores 0 for that."""

    low, high = 0.0, 1.0

    @abstractmethod
    def prepare(self, references: References) -> Prepared:
        """What `score` needs to know of references, worked out once for each example."""

    def references(self, example: Example) -> References:
        """The references of an example.

        Raises:
            RewardError: If there is none.
        """
        if not example.references:
            problem = "compares with references, and this example has none: give it some, or take another reward"
            raise RewardError(self.name, problem, example, None)
        return tuple(example.references)

    def prepared(self, example: Example) -> Prepared:
        """What `prepare` made of an example's references."""
        cache: dict[References, Prepared] = self.__dict__.setdefault("_prepared", {})
        references = self.references(example)
        known = cache.get(references)
        if known is None:
            if len(cache) >= _MOST_PREPARED:
                cache.clear()
            known = cache[references] = self.prepare(references)
        return known

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be worked out again."""
        return {name: value for name, value in self.__dict__.items() if name != "_prepared"}


def overlap(
    matched: NDArray[Any], written: NDArray[Any], wanted: NDArray[Any], measure: str = "f"
) -> NDArray[np.float64]:
    """Precision, recall, or their harmonic mean, 0 where there is nothing to divide by.

    Args:
        matched: How many items of a response are in a reference; arrays of any shapes that broadcast.
        written: How many the response has.
        wanted: How many the reference has.
        measure: One of `MEASURES`.

    Returns:
        The measure, from 0 to 1.
    """
    whole = {"precision": written, "recall": wanted, "f": (written + wanted) / 2}[measure]  # 2pr / (p + r), for F
    share: NDArray[np.float64] = matched / np.where(whole > 0, whole, 1)
    return share


class _Table:
    """Rows of an array that grows, of one shape each, which may grow as well.

    Args:
        dtype: Of the numbers.
        shape: A row's.
        mode: What fills a row that was shorter: "constant" is 0, "edge" repeats the last column.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...] = (), mode: Any = "constant") -> None:
        self.array: NDArray[Any] = np.zeros((64, *shape), dtype=dtype)
        self._mode = mode
        self.size = 0

    def extend(self, rows: NDArray[Any]) -> None:
        """Append rows `(k, ...)`. Those that are narrower than the table are filled up, and so is the table."""
        wide = max(rows.shape[-1], self.array.shape[-1]) if rows.ndim > 1 else 0
        if wide:
            self.array, rows = (widen(each, wide, self._mode) for each in (self.array, rows))
        room = len(self.array)
        while self.size + len(rows) > room:
            room *= 2
        if room > len(self.array):
            more = np.zeros_like(self.array, shape=(room - len(self.array), *self.array.shape[1:]))
            self.array = np.concatenate([self.array, more])
        self.array[self.size : self.size + len(rows)] = rows
        self.size += len(rows)


def widen(array: NDArray[Any], width: int, mode: Any = "constant") -> NDArray[Any]:
    """An array whose last axis has at least `width` places, filled with 0 or with its last column ("edge")."""
    more = width - array.shape[-1]
    return array if more <= 0 else np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)], mode=mode)


class ReferenceScorer(UnitScorer):
    """Phi of N responses against the references of each.

    The tables of an example are made when a response to it begins for the first time, those of all lanes that begin at
    one step together, and kept. An example with fewer references than another is treated as if it had its last one
    several times, or such a one that nothing matches: no maximum over references minds that.

    A subclass makes tables (`_add`), clears lanes, reads, and forgets tables.

    Args:
        reward: The score's definition.
        splitter: What cuts responses and references into units.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reward: ReferenceReward[Any], splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, splitter, num_lanes, tokenizer)
        self._score = reward
        self._splitter = splitter
        self._references: list[References | None] = [None] * num_lanes
        self._begins = np.ones(num_lanes, dtype=np.bool_)  # nothing pushed yet
        self._place = np.zeros(num_lanes, dtype=np.int64)  # of each lane's example, in the tables
        self._most_cells = _MOST_CELLS
        self._columns = 1  # the most references that an example had
        self._forget()

    def _forget(self) -> None:
        """Begin with empty tables."""
        self._places: dict[References, int] = {}
        self._edges: dict[int, int] = {}  # (node, unit) to node
        self._num_nodes = 0
        self._num_cells = 0  # numbers in all tables, more or less
        self._lengths = _Table(np.int64, (self._columns,), "edge")  # of the references, in units
        self._sieve = _Table(np.uint64, (_SIEVE_WORDS,))  # a bit for each unit of the references, shared by some units

    @abstractmethod
    def _add(self, examples: list[list[list[int]]]) -> None:
        """Make the tables of some examples, of each of which each reference has these units."""

    @abstractmethod
    def _clear(self, lanes: NDArray[np.intp]) -> None:
        """Nothing is read and nothing is marked in lanes `(k,)`, whose examples are in the tables."""

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """See `UnitScorer.start`. Payouts that ask only at the end never need the tables, so they can wait."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._references[lane] = self._score.references(example)
        self._begins[lanes] = True

    def advance(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """See `UnitScorer.advance`."""
        begins = self._begins[lanes]
        if begins.any():
            self._begin(lanes[begins])
        super().advance(lanes, tokens)

    def _begin(self, lanes: NDArray[np.intp]) -> None:
        references = [self._references[lane] for lane in lanes.tolist()]
        if None in references:
            lane = lanes[references.index(None)]
            raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
        if self._num_cells > self._most_cells and any(one not in self._places for one in references):
            self._compact()
        self._place[lanes] = self._places_of(references)
        self._begins[lanes] = False
        self._clear(lanes)

    def _places_of(self, references: Sequence[References | None]) -> list[int]:
        """Where examples are in the tables. Those that are not yet come there."""
        new = [one for one in dict.fromkeys(references) if one is not None and one not in self._places]
        if new:
            self._places.update(zip(new, range(len(self._places), len(self._places) + len(new)), strict=True))
            self._columns = columns = max(self._columns, *map(len, new))
            keep, split = self.units.keep, self._splitter.split
            examples = [[[keep(unit) for unit in split(text)] for text in one] for one in new]
            lengths = [[len(text) for text in texts] for texts in examples]
            self._lengths.extend(np.array([each + each[-1:] * (columns - len(each)) for each in lengths]))
            sieves = [
                sum(1 << bit for bit in {unit % (64 * _SIEVE_WORDS) for text in texts for unit in text})
                for texts in examples
            ]
            self._sieve.extend(_words(sieves, _SIEVE_WORDS))
            self._add(examples)
        return [0 if one is None else self._places[one] for one in references]

    def _compact(self) -> None:
        """Forget all examples but those of the lanes. Where a lane is in its example's table stays as it was."""
        self.units.release()
        self._forget()
        self._place[:] = self._places_of(self._references)
        self._most_cells = max(_MOST_CELLS, 2 * self._num_cells)

    def _may_have(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`(k,)` False where a unit is in no reference of its lane: most of those, so that few are looked up."""
        words = self._sieve.array[self._place[lanes], (units >> 6) & (_SIEVE_WORDS - 1)]
        may: NDArray[np.bool_] = (words >> (units & 63).astype(np.uint64)) & np.uint64(1) != 0
        return may

    def _find(self, nodes: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(k,)` where each unit leads from each node, -1 where nowhere."""
        keys = ((nodes << _UNIT_BITS) | units).tolist()
        return np.fromiter(map(self._edges.get, keys, repeat(-1)), np.int64, len(keys))


def _words(numbers: list[int], words: int) -> NDArray[np.uint64]:
    """Whole numbers as `(k, words)` of 64 bits a word, the lowest first."""
    data = b"".join([number.to_bytes(8 * words, "little") for number in numbers])
    return np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(len(numbers), words)
