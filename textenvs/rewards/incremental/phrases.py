"""Phrases in N growing texts: where a wanted phrase ends, whichever phrases each text is asked for.

All phrases of an example stand side by side, position by position, and one bit a position says whether the latest units
are the phrase up to there (Shift-And, Baeza-Yates & Gonnet 1992, A new approach to text searching, with an array of
booleans for the bits, so that all lanes shift at once). An Aho-Corasick automaton would have one state instead of the
bits, but one automaton for each example: nothing that lanes could share. Here they share everything: a unit of a text
is compared with the units that are wanted, as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitScorer
from textenvs.tokenizer import Tokenizer

# With more wanted units than this, those that no lane wants now are forgotten.
_MOST_WANTED = 1 << 17


Phrase = tuple[tuple[str, ...], ...]
"""The units of a phrase, each as all the forms that it may have."""


@dataclass(frozen=True)
class Wanted:
    """What an example wants: some items, each of them any of some phrases.

    Attributes:
        items: The phrases of each item, none of them empty.
    """

    items: tuple[tuple[Phrase, ...], ...]

    def found(self, units: Sequence[str]) -> int:
        """How many items are somewhere in a text's units: the definition."""
        return sum(_first_end(item, units, 0) is not None for item in self.items)

    def found_in_order(self, units: Sequence[str]) -> int:
        """How many items come one after another, each as early as it can behind the one before: the definition."""
        begin = 0
        for number, item in enumerate(self.items):
            end = _first_end(item, units, begin)
            if end is None:
                return number
            begin = end
        return len(self.items)


def _first_end(item: tuple[Phrase, ...], units: Sequence[str], begin: int) -> int | None:
    """Where the first phrase of an item ends that begins from `begin`."""
    ends = [
        place + len(phrase)
        for phrase in item
        for place in range(begin, len(units) - len(phrase) + 1)
        if all(units[place + offset] in forms for offset, forms in enumerate(phrase))
    ]
    return min(ends, default=None)


class PhraseReward(Reward):
    """A score from 0 to 1: the share of wanted items that a text has.

    Attributes:
        splitter: What cuts a text, and phrases, into units.
        ordered: Whether items count only one after another.
    """

    low, high = 0.0, 1.0
    splitter: Splitter
    ordered = False

    def wanted(self, example: Example) -> Wanted:
        """What a response to an example is to contain; at least one item."""
        raise NotImplementedError

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        wanted = self.wanted(example)
        units = self.splitter.split(response)
        found = wanted.found_in_order(units) if self.ordered else wanted.found(units)
        return found / len(wanted.items)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> PhraseScorer:
        """See `Reward.scorer`."""
        return PhraseScorer(self, num_lanes, tokenizer)


class PhraseScorer(UnitScorer):
    """Phi of N responses, each with wanted items of its own.

    Args:
        reward: The score's definition.
        num_lanes: N.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reward: PhraseReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._score = reward
        self._live: list[Wanted] = [Wanted(((),))] * num_lanes
        self._row = np.zeros(num_lanes, dtype=np.intp)
        # What lanes have read: which positions the latest units are a phrase up to, and which items were found.
        self._reached = np.zeros((num_lanes, 1), dtype=np.bool_)
        self._found = np.zeros((num_lanes, 1), dtype=np.bool_)
        self._marked = (self._reached.copy(), self._found.copy())
        self._forget()

    def _forget(self) -> None:
        self.units.release()
        self._rows: dict[Wanted, int] = {}
        self._num_wanted = 0
        self._is_wanted = np.zeros(64, dtype=np.bool_)  # by a unit's number
        # A row for each example: the forms of each position (0 is none), whether a phrase begins and ends there, the
        # item that it belongs to; and how many items there are.
        width = self._reached.shape[1]
        self._forms = np.zeros((1, width, 1), dtype=np.int64)
        self._begins = np.zeros((1, width), dtype=np.bool_)
        self._ends = np.zeros((1, width), dtype=np.bool_)
        self._item = np.zeros((1, width), dtype=np.intp)
        self._num_items = np.ones(1, dtype=np.int64)

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """See `UnitScorer.start`."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._live[lane] = self._score.wanted(example)
        if self._num_wanted > _MOST_WANTED:
            self._forget()
            self._row[:] = [self._row_of(wanted) for wanted in self._live]
        else:
            self._row[lanes] = [self._row_of(self._live[lane]) for lane in lanes.tolist()]
        positions, items = self._forms.shape[1], int(self._num_items.max())
        self._reached, self._found = _wider(self._reached, positions), _wider(self._found, items)
        self._marked = (_wider(self._marked[0], positions), _wider(self._marked[1], items))
        for array in (self._reached, self._found, *self._marked):
            array[lanes] = False

    def _row_of(self, wanted: Wanted) -> int:
        """The row of what is wanted, made when it first comes."""
        row = self._rows.get(wanted)
        if row is not None:
            return row
        row = self._rows[wanted] = len(self._rows)
        positions = [
            (number, place == 0, place == len(phrase) - 1, [self._keep(form) for form in forms])
            for number, item in enumerate(wanted.items)
            for phrase in item
            for place, forms in enumerate(phrase)
        ]
        shape = (row + 1, len(positions), max((len(forms) for *_, forms in positions), default=1))
        self._forms = _room(self._forms, shape)
        self._begins, self._ends, self._item = (
            _room(array, shape[:2]) for array in (self._begins, self._ends, self._item)
        )
        self._num_items = _room(self._num_items, shape[:1])
        self._num_items[row] = len(wanted.items)
        for place, (item, begins, ends, forms) in enumerate(positions):
            self._forms[row, place, : len(forms)] = forms
            self._begins[row, place], self._ends[row, place], self._item[row, place] = begins, ends, item
        return row

    def _keep(self, form: str) -> int:
        unit = self.units.keep(form)
        if unit >= len(self._is_wanted):
            self._is_wanted = _room(self._is_wanted, (unit + 1,))
        self._num_wanted += not self._is_wanted[unit]
        self._is_wanted[unit] = True
        return unit

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """See `UnitScorer.read`."""
        wanted = self._is_wanted[np.minimum(units, len(self._is_wanted) - 1)] & (units < len(self._is_wanted))
        if not wanted.all():
            self._reached[lanes[~wanted]] = False
            lanes, units = lanes[wanted], units[wanted]
            if not len(lanes):
                return
        rows = self._row[lanes]
        begins, item = self._begins[rows], self._item[rows]
        may = np.zeros_like(begins)
        may[:, 1:] = self._reached[lanes, :-1]
        may &= ~begins
        if self._score.ordered:
            begins &= item == self._found[lanes].sum(axis=1)[:, None]
        reached = (may | begins) & (self._forms[rows] == units[:, None, None]).any(axis=2)
        ended = reached & self._ends[rows]
        which, places = np.nonzero(ended)
        self._found[lanes[which], item[which, places]] = True
        self._reached[lanes] = reached

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.mark`."""
        self._marked[0][lanes], self._marked[1][lanes] = self._reached[lanes], self._found[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.undo`."""
        self._reached[lanes], self._found[lanes] = self._marked[0][lanes], self._marked[1][lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """See `UnitScorer.phi`."""
        phi: NDArray[np.float64] = self._found[lanes].sum(axis=1) / self._num_items[self._row[lanes]]
        return phi


def _wider(array: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return np.pad(array, ((0, 0), (0, max(0, width - array.shape[1]))))


def _room(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """An array that has at least a shape, filled with 0; its rows double, so that they may be added one by one."""
    if all(have >= need for have, need in zip(array.shape, shape, strict=True)):
        return array
    rows = array.shape[0] if array.shape[0] >= shape[0] else max(shape[0], 2 * array.shape[0])
    wanted = (rows, *map(max, array.shape[1:], shape[1:]))
    return np.pad(array, [(0, need - have) for have, need in zip(array.shape, wanted, strict=True)])
