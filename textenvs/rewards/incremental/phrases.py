"""Phrases that N growing texts are to contain, other ones for each text: `PhraseReward`.

All phrases of an example are laid side by side, position by position, and one bit a position tells if the latest units
are the phrase up to there (Shift-And, Baeza-Yates & Gonnet 1992, A new approach to text searching). The bits are an
array of booleans, so that all lanes shift at once. An Aho-Corasick automaton would have one state instead of the bits,
but a separate automaton for each example, so that lanes could not be advanced together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward
from textenvs.rewards.incremental.growing import enlarge, widen
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitScorer
from textenvs.tokenizer import Tokenizer

Phrase: TypeAlias = tuple[tuple[str, ...], ...]
"""The units of a phrase, each as all the forms that count as it."""


@dataclass(frozen=True)
class Wanted:
    """The items that an example asks for. An item is present if any of its phrases is.

    Attributes:
        items: The phrases of each item, none of them empty.
    """

    items: tuple[tuple[Phrase, ...], ...]

    def count(self, units: Sequence[str]) -> int:
        """Counts the items that are anywhere in a text's units: the definition."""
        return sum(_first_end(item, units, 0) is not None for item in self.items)

    def count_in_order(self, units: Sequence[str]) -> int:
        """Counts the items that follow one another, each as early after the one before as it can: the definition."""
        begin = 0
        for number, item in enumerate(self.items):
            end = _first_end(item, units, begin)
            if end is None:
                return number
            begin = end
        return len(self.items)


def _first_end(item: tuple[Phrase, ...], units: Sequence[str], begin: int) -> int | None:
    """Returns the end of the phrase that ends first among those that begin at `begin` or later; None if none does."""
    ends = [
        start + len(phrase)
        for phrase in item
        for start in range(begin, len(units) - len(phrase) + 1)
        if all(units[start + offset] in forms for offset, forms in enumerate(phrase))
    ]
    return min(ends, default=None)


class PhraseReward(Reward):
    """A score from 0 to 1: the share of wanted items that a text contains.

    Attributes:
        splitter: Cuts a text, and phrases, into units.
        ordered: If True, an item counts only after the items before it.
    """

    low, high = 0.0, 1.0
    splitter: Splitter
    ordered = False

    def wanted(self, example: Example) -> Wanted:
        """Returns the items that a response to an example is to contain, at least one."""
        raise NotImplementedError

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by a search for every phrase."""
        wanted = self.wanted(example)
        units = self.splitter.split(response)
        count = wanted.count_in_order(units) if self.ordered else wanted.count(units)
        return count / len(wanted.items)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> PhraseScorer:
        """Makes a scorer that searches for all phrases of all lanes at once."""
        return PhraseScorer(self, num_lanes, tokenizer)


class PhraseScorer(UnitScorer):
    """Computes Phi of N responses, each with wanted items of its own.

    Args:
        reward: The score's definition.
        num_lanes: N.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        max_wanted: The number of wanted units beyond which all are forgotten except those of the lanes.
    """

    max_wanted = 1 << 17

    def __init__(self, reward: PhraseReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._reward = reward
        self._wanted: list[Wanted] = [Wanted(((),))] * num_lanes
        self._row = np.zeros(num_lanes, dtype=np.intp)
        # `_reached` is True at positions up to which the latest units are a phrase, `_present` for items seen so far.
        self._reached = np.zeros((num_lanes, 1), dtype=np.bool_)
        self._present = np.zeros((num_lanes, 1), dtype=np.bool_)
        self._marked = (self._reached.copy(), self._present.copy())
        self._forget()

    def _forget(self) -> None:
        self.units.release()
        self._rows: dict[Wanted, int] = {}
        self._num_wanted = 0
        self._is_wanted = np.zeros(64, dtype=np.bool_)  # by a unit's number
        # A row for each example: the forms of the unit at each position (0 is none), True where a phrase begins or
        # ends, the item of each position; and the number of items.
        width = self._reached.shape[1]
        self._forms = np.zeros((1, width, 1), dtype=np.int64)
        self._begins = np.zeros((1, width), dtype=np.bool_)
        self._ends = np.zeros((1, width), dtype=np.bool_)
        self._item = np.zeros((1, width), dtype=np.intp)
        self._num_items = np.ones(1, dtype=np.int64)

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts empty responses, and lays out the phrases of new examples."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._wanted[lane] = self._reward.wanted(example)
        if self._num_wanted > self.max_wanted:
            self._forget()
            self._row[:] = [self._row_of(wanted) for wanted in self._wanted]
        else:
            self._row[lanes] = [self._row_of(self._wanted[lane]) for lane in lanes.tolist()]
        positions, items = self._forms.shape[1], int(self._num_items.max())
        self._reached, self._present = widen(self._reached, positions), widen(self._present, items)
        self._marked = (widen(self._marked[0], positions), widen(self._marked[1], items))
        for array in (self._reached, self._present, *self._marked):
            array[lanes] = False

    def _row_of(self, wanted: Wanted) -> int:
        """Returns the row of some wanted items, made when they first occur."""
        row = self._rows.get(wanted)
        if row is not None:
            return row
        row = self._rows[wanted] = len(self._rows)
        positions = [
            (number, offset == 0, offset == len(phrase) - 1, [self._keep(form) for form in forms])
            for number, item in enumerate(wanted.items)
            for phrase in item
            for offset, forms in enumerate(phrase)
        ]
        shape = (row + 1, len(positions), max((len(forms) for *_, forms in positions), default=1))
        self._forms = enlarge(self._forms, shape)
        self._begins, self._ends, self._item = (
            enlarge(array, shape[:2]) for array in (self._begins, self._ends, self._item)
        )
        self._num_items = enlarge(self._num_items, shape[:1])
        self._num_items[row] = len(wanted.items)
        for position, (item, begins, ends, forms) in enumerate(positions):
            self._forms[row, position, : len(forms)] = forms
            self._begins[row, position], self._ends[row, position] = begins, ends
            self._item[row, position] = item
        return row

    def _keep(self, form: str) -> int:
        unit = self.units.keep(form)
        if unit >= len(self._is_wanted):
            self._is_wanted = enlarge(self._is_wanted, (unit + 1,))
        self._num_wanted += not self._is_wanted[unit]
        self._is_wanted[unit] = True
        return unit

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit in each of some lanes: moves every phrase that it continues on by one position."""
        wanted = self._is_wanted[np.minimum(units, len(self._is_wanted) - 1)] & (units < len(self._is_wanted))
        if not wanted.all():
            self._reached[lanes[~wanted]] = False  # a unit that nobody wants continues no phrase
            lanes, units = lanes[wanted], units[wanted]
            if not len(lanes):
                return
        rows = self._row[lanes]
        begins, item = self._begins[rows], self._item[rows]
        continues = np.zeros_like(begins)
        continues[:, 1:] = self._reached[lanes, :-1]
        continues &= ~begins  # the position before the first one of a phrase is the end of another phrase
        if self._reward.ordered:  # only the item after those that are present may begin
            begins &= item == self._present[lanes].sum(axis=1)[:, None]
        reached = (continues | begins) & (self._forms[rows] == units[:, None, None]).any(axis=2)
        ended = reached & self._ends[rows]
        which, positions = np.nonzero(ended)
        self._present[lanes[which], item[which, positions]] = True
        self._reached[lanes] = reached

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Copies the reached positions and present items of lanes."""
        self._marked[0][lanes], self._marked[1][lanes] = self._reached[lanes], self._present[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the reached positions and present items of lanes."""
        self._reached[lanes], self._present[lanes] = self._marked[0][lanes], self._marked[1][lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns the share of items that are present."""
        phi: NDArray[np.float64] = self._present[lanes].sum(axis=1) / self._num_items[self._row[lanes]]
        return phi
