"""Overlap of n-grams with references, counted incrementally in many lanes."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Scorer
from textenvs.rewards.incremental.references import (
    _UNIT_BITS,
    ReferenceReward,
    References,
    ReferenceScorer,
    _Table,
    widen,
)
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer

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
