"""What scores that compare a response with references share: the references' tables, and three ways to read them.

    ReferenceReward   a score that needs references, which are prepared once an example
    NgramReward       clipped n-gram matches: BLEU, chrF, ROUGE-N, token F1
    RowScorer         a row of an alignment table as bits, 64 cells a word: ROUGE-L, edit similarity
    PathScorer        the path that a response takes through the tree of references: exact match, correct prefix

A scorer knows the units of the references by their numbers, and looks up what a unit of a response means in its place
with one dictionary look-up a lane: a unit that is in no reference is simply not there, and costs nothing more.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from numbers import Real
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError, Scorer
from textenvs.rewards.units import Splitter, UnitScorer
from textenvs.tokenizer import Tokenizer

# What is known of examples is forgotten, but for the examples in play, when there is more of it than this.
_MOST_PREPARED = 1 << 12  # examples
_MOST_CELLS = 1 << 24
_UNIT_BITS = 36  # of a key; the rest is the node's
_SIEVE_WORDS = 16  # of 64 bits; a power of two

MEASURES = ("f", "precision", "recall")

References = tuple[str, ...]
Prepared = TypeVar("Prepared")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return `value`, or raise `ValueError` unless it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected {name} from {list(choices)}, got {value!r}")
    return value


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """Return `value`, or raise `ValueError` unless it is a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected {name} to be a whole number from {least}, got {value!r}")
    return value


def check_number(name: str, value: Any, least: float = 0.0) -> float:
    """Return `value` as a float, or raise `ValueError` unless it is a finite number from `least`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < math.inf:
        raise ValueError(f"Expected {name} to be a finite number from {least:g}, got {value!r}")
    return float(value)


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


# Clipped n-gram matches


@dataclass(frozen=True, slots=True)
class Matches:
    """How many n-grams k responses share with references, each at most as often as the reference has it.

    Attributes:
        lengths: `(k,)` int64, units of each response.
        wanted: `(k, references)` int64, units of each reference.
        matched: `(k, orders, references)` int64, shared n-grams; one column if references are pooled.
    """

    lengths: NDArray[np.int64]
    wanted: NDArray[np.int64]
    matched: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grams:
    """Which n-grams count.

    Attributes:
        splitter: What cuts a text into units.
        low: The least order, from 1.
        high: The highest.
        pooled: Whether references are one, which has each n-gram as often as the one that has it most often.
    """

    splitter: Splitter
    low: int
    high: int
    pooled: bool = False


def num_grams(lengths: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """How many n-grams texts have: an axis of orders, from `low` to `high`, behind those of `lengths`."""
    counts: NDArray[np.int64] = np.maximum(lengths[..., None] - np.arange(low - 1, high), 0)
    return counts


PreparedGrams = list[tuple[list[int], list[list["Counter[tuple[str, ...]]"]]]]


class NgramReward(ReferenceReward[PreparedGrams]):
    """A score that is a function of n-gram matches.

    A subclass sets `grams`, one or more, and writes `phi`; the score of a whole text and the scorer follow.

    Cost: a few dictionary look-ups a unit, whatever the length of response and references.
    """

    grams: tuple[Grams, ...]

    @abstractmethod
    def phi(self, matches: Sequence[Matches]) -> NDArray[np.float64]:
        """What matches are worth.

        Args:
            matches: Of k responses, for each of `grams`.

        Returns:
            `(k,)` Phi.
        """

    def prepare(self, references: References) -> PreparedGrams:
        """For each of `grams`: the references' lengths, and a count of n-grams for each order and reference."""
        prepared: PreparedGrams = []
        for gram in self.grams:
            texts = [gram.splitter.split(text) for text in references]
            counts = [[_count(text, order) for text in texts] for order in range(gram.low, gram.high + 1)]
            if gram.pooled:
                counts = [[_pool(of_order)] for of_order in counts]
            prepared.append(([len(text) for text in texts], counts))
        return prepared

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return float(self.score_all([example], [response])[0])

    def score_all(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """The scores of some responses, all by one call of `phi`.

        Args:
            examples: The example of each.
            responses: The texts.

        Returns:
            `(k,)` scores.
        """
        if not len(examples):
            return np.zeros(0)
        columns = max(len(example.references) for example in examples)
        matches = []
        for place, gram in enumerate(self.grams):
            lengths: list[int] = []
            wanted: list[list[int]] = []
            matched: list[list[list[int]]] = []
            for example, response in zip(examples, responses, strict=True):
                units, (sizes, counts) = gram.splitter.split(response), self.prepared(example)[place]
                lengths.append(len(units))
                wanted.append(_repeat_last(sizes, columns))
                matched.append([])
                for order, of_order in enumerate(counts, start=gram.low):
                    found = _shared(_count(units, order), of_order)
                    matched[-1].append(_repeat_last(found, 1 if gram.pooled else columns))
            matches.append(Matches(np.array(lengths), np.array(wanted), np.array(matched)))
        return self.phi(matches)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        counters = [NgramScorer(self, gram, num_lanes, tokenizer) for gram in self.grams]
        return counters[0] if len(counters) == 1 else _ManyGramsScorer(self, counters)


def _count(units: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*[units[start:] for start in range(order)], strict=False))


def _shared(written: Counter[tuple[str, ...]], references: list[Counter[tuple[str, ...]]]) -> list[int]:
    """How many n-grams are in each reference, each at most as often as there."""
    return [sum([min(n, has[one]) for one, n in written.items() if one in has]) for has in references]


def _repeat_last(numbers: list[int], width: int) -> list[int]:
    return numbers + numbers[-1:] * (width - len(numbers))


def _pool(counts: list[Counter[tuple[str, ...]]]) -> Counter[tuple[str, ...]]:
    pooled: Counter[tuple[str, ...]] = Counter()
    for one in counts:
        pooled |= one
    return pooled


class NgramScorer(ReferenceScorer):
    """Counts matches of n-grams of one kind.

    The n-grams of an example's references are the nodes of a tree, its root the empty one. A lane is at the longest of
    them that its text ends with; all others that it ends with are suffixes of that one. (Aho & Corasick, 1975,
    Efficient string matching.)

    Args:
        reward: What matches are worth.
        grams: Which n-grams.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reward: NgramReward, grams: Grams, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._grams = grams
        super().__init__(reward, grams.splitter, num_lanes, tokenizer)
        self._worth, self._score_all = reward.phi, reward.score_all
        orders = grams.high - grams.low + 1
        self._node = np.zeros(num_lanes, dtype=np.int64)  # in its example's tree
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._matched = np.zeros((num_lanes, orders, 1), dtype=np.int64)
        self._marked = (self._node.copy(), self._length.copy(), self._matched.copy())
        self._written = np.zeros((num_lanes, 1), dtype=np.int32)  # how often each node of its tree
        self._pending = np.zeros((num_lanes, 1, orders), dtype=np.int64)  # nodes written since the mark
        self._num_pending = np.zeros(num_lanes, dtype=np.int64)

    def _forget(self) -> None:
        super()._forget()
        orders = self._grams.high - self._grams.low + 1
        self._first = _Table(np.int64)  # the root of each example's tree, among all nodes
        self._size = _Table(np.int64)
        self._suffix = _Table(np.int64)  # each node without its first unit, among all nodes
        self._found = _Table(np.int32, (orders,))  # the nodes of counted orders that each node ends with, and is
        # How often each reference has each node.
        self._has = _Table(np.int32, (1 if self._grams.pooled else self._columns,))

    def _add(self, examples: list[list[list[int]]]) -> None:
        low, high = self._grams.low, self._grams.high
        texts = [(index, column, text) for index, texts in enumerate(examples) for column, text in enumerate(texts)]
        sizes = [len(text) for _, _, text in texts]
        unit = np.array([one for _, _, text in texts for one in text], dtype=np.int64)
        column = np.repeat([column for _, column, _ in texts], sizes)
        left = np.concatenate([np.arange(size, 0, -1) for size in sizes])  # units from here to the end of the text
        # Of each node: its example, the node that it prolongs and by what. They are numbered by order, then as they
        # come, and at the end by example, which makes numbers within a tree independent of all but its references.
        owner = [np.arange(len(examples))]
        parent, last = [np.zeros(len(examples), dtype=np.int64)], [np.zeros(len(examples), dtype=np.int64)]
        at = [np.repeat([index for index, _, _ in texts], sizes)]  # for each order, the node that begins at each place
        starts = [np.arange(len(unit))]  # for each order, the places where one does
        num_nodes = len(examples)
        for order in range(1, high + 1):
            places = np.flatnonzero(left >= order)
            keys = (at[-1][places] << _UNIT_BITS) | unit[places + order - 1]
            kinds, seen, which = np.unique(keys, return_index=True, return_inverse=True)
            rank = np.empty_like(seen)
            come = np.argsort(seen)
            rank[come] = np.arange(len(come))
            now = np.zeros_like(unit)
            now[places] = num_nodes + rank[which]
            owner.append(at[0][places[seen[come]]])
            parent.append(kinds[come] >> _UNIT_BITS)
            last.append(kinds[come] & ((1 << _UNIT_BITS) - 1))
            at.append(now)
            starts.append(places)
            num_nodes += len(kinds)
        owners = np.concatenate(owner)
        number = np.empty(num_nodes, dtype=np.int64)
        by_owner = np.argsort(owners, kind="stable")
        number[by_owner] = np.arange(self._num_nodes, self._num_nodes + num_nodes)
        size = np.bincount(owners, minlength=len(examples))
        first = self._num_nodes + np.cumsum(size) - size

        suffix, found = number[owners], np.zeros((num_nodes, high - low + 1), dtype=np.int64)
        for order in range(1, high + 1):
            node, place = at[order][starts[order]], starts[order]
            if order > 1:
                suffix[node] = number[at[order - 1][place + 1]]
            for shorter in range(low, order + 1):
                inner = at[shorter][place + order - shorter]
                found[node, shorter - low] = number[inner] - first[owners[inner]]
        columns = self._columns
        counts = np.zeros((num_nodes, columns), dtype=np.int64)
        for order in range(1, high + 1):
            np.add.at(counts, (at[order][starts[order]], column[starts[order]]), 1)
        above = np.concatenate(parent)[len(examples) :]
        keys = (number[above] << _UNIT_BITS) | np.concatenate(last)[len(examples) :]
        self._edges.update(zip(keys.tolist(), number[len(examples) :].tolist(), strict=True))
        self._suffix.extend(suffix[by_owner])
        self._found.extend(found[by_owner])
        counts = counts[by_owner]
        self._has.extend(counts.max(axis=1, keepdims=True) if self._grams.pooled else counts)
        self._first.extend(first)
        self._size.extend(size)
        self._num_nodes += num_nodes
        self._num_cells += num_nodes * (high - low + 3 + self._has.array.shape[1])

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        most = int(self._size.array[self._place[lanes]].max(initial=0))
        if most > self._written.shape[1]:
            self._written = widen(self._written, max(most, 2 * self._written.shape[1]))
        columns = self._has.array.shape[1]
        if columns > self._matched.shape[2]:
            node, length, matched = self._marked
            self._matched = widen(self._matched, columns)
            self._marked = (node, length, widen(matched, columns))
        self._written[lanes] = 0
        for array in (self._node, self._length, self._matched, self._num_pending):
            array[lanes] = 0
        for array in self._marked:
            array[lanes] = 0

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """See `UnitScorer.read`."""
        self._length[lanes] += 1
        known = self._may_have(lanes, units)
        if not known.all():
            self._node[lanes[~known]] = 0
            lanes, units = lanes[known], units[known]
        first = self._first.array[self._place[lanes]]
        nodes = first + self._node[lanes]
        after = self._find(nodes, units)
        for row in np.flatnonzero((after < 0) & (nodes > first)).tolist():
            after[row] = self._fall(int(first[row]), int(nodes[row]), int(units[row]))
        hit = after >= 0
        self._node[lanes] = np.where(hit, after - first, 0)
        if hit.any():
            self._count_in(lanes[hit], first[hit], after[hit])

    def _count_in(self, lanes: NDArray[np.intp], first: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """The texts of lanes `(k,)`, whose trees begin at `first`, now end with all n-grams of the nodes `after`."""
        found = self._found.array[after]
        cells = lanes[:, None] * self._written.shape[1] + found
        flat = self._written.reshape(-1)
        before = flat[cells]
        flat[cells] = before + 1  # the root's as well, which stands for none: nobody reads it
        has = self._has.array[first[:, None] + found]
        self._matched[lanes] += before[:, :, None] < has
        column = self._num_pending[lanes]
        if (most := int(column.max()) + 1) > self._pending.shape[1]:
            self._pending = np.pad(self._pending, ((0, 0), (0, most), (0, 0)))
        self._pending[lanes, column] = found
        self._num_pending[lanes] = column + 1

    def _fall(self, first: int, node: int, unit: int) -> int:
        """Where a unit leads that does not prolong a node: from the longest suffix that it does prolong."""
        edges = self._edges
        if (first << _UNIT_BITS) | unit not in edges:
            return -1
        start = (node << _UNIT_BITS) | unit
        after = None
        while after is None:
            node = int(self._suffix.array[node])
            after = edges.get((node << _UNIT_BITS) | unit)
        edges[start] = after
        self._num_cells += 1
        return after

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.mark`."""
        for marked, array in zip(self._marked, (self._node, self._length, self._matched), strict=True):
            marked[lanes] = array[lanes]
        self._num_pending[lanes] = 0

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """See `UnitScorer.undo`."""
        for marked, array in zip(self._marked, (self._node, self._length, self._matched), strict=True):
            array[lanes] = marked[lanes]
        pending = self._num_pending[lanes]
        for column in range(int(pending.max(initial=0))):
            rows = lanes[pending > column]
            self._written[rows[:, None], self._pending[rows, column]] -= 1  # of distinct orders: no cell comes twice
        self._num_pending[lanes] = 0

    def matches(self, lanes: NDArray[np.intp]) -> Matches:
        """What has been counted in lanes `(k,)`."""
        return Matches(self._length[lanes], self._lengths.array[self._place[lanes]], self._matched[lanes])

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """See `UnitScorer.phi`."""
        return self._worth([self.matches(lanes)])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """See `Scorer.score_whole`. `Lanes` checks what comes out."""
        return self._score_all(examples, responses)


class _ManyGramsScorer(Scorer):
    """A score of n-grams of several kinds (characters and words), each counted by itself."""

    def __init__(self, reward: NgramReward, counters: Sequence[NgramScorer]) -> None:
        super().__init__(reward)
        self._worth, self._score_all = reward.phi, reward.score_all
        self._counters = counters

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for counter in self._counters:
            counter.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        for counter in self._counters:
            counter.advance(lanes, tokens)
        return self._worth([counter.matches(lanes) for counter in self._counters])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        return self._score_all(examples, responses)


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


def _words(numbers: list[int], words: int) -> NDArray[np.uint64]:
    """Whole numbers as `(k, words)` of 64 bits a word, the lowest first."""
    data = b"".join([number.to_bytes(8 * words, "little") for number in numbers])
    return np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(len(numbers), words)


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
