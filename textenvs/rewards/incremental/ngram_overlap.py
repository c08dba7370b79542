"""N-grams that growing responses share with their references, counted in many lanes at once.

`NgramReward` is the score that a metric subclasses: it says which n-grams count (`Grams`) and what the counts are worth
(`phi`, from `NgramMatches`). `NgramScorer` counts them incrementally.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Scorer
from textenvs.rewards.incremental.growing import RowTable, widen
from textenvs.rewards.incremental.references import UNIT_BITS, ReferenceReward, References, ReferenceScorer
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class NgramMatches:
    """Counts of the n-grams that k responses share with references, each at most as often as the reference has it.

    Attributes:
        lengths: `(k,)` int64, the number of units of each response.
        wanted: `(k, references)` int64, the number of units of each reference.
        matched: `(k, orders, references)` int64, the number of shared n-grams; one column if references are pooled.
    """

    lengths: NDArray[np.int64]
    wanted: NDArray[np.int64]
    matched: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grams:
    """A kind of n-grams that a score counts.

    Attributes:
        splitter: Cuts a text into units.
        low: The lowest order (n), from 1.
        high: The highest order.
        pooled: If True, references count as one. It has each n-gram as often as the reference that has it most often.
    """

    splitter: Splitter
    low: int
    high: int
    pooled: bool = False


def num_grams(lengths: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """Counts the n-grams of texts of some lengths: one axis more than `lengths`, the orders from `low` to `high`."""
    counts: NDArray[np.int64] = np.maximum(lengths[..., None] - np.arange(low - 1, high), 0)
    return counts


PreparedGrams: TypeAlias = list[tuple[list[int], list[list["Counter[tuple[str, ...]]"]]]]
"""For each kind of n-grams, the lengths of the references, and for each order the n-grams of each reference."""


class NgramReward(ReferenceReward[PreparedGrams]):
    """A score that is a function of n-gram matches with references.

    A subclass sets `grams`, one or more, and writes `phi`. The score of a whole text and the scorer follow.

    Cost: a few dictionary look-ups a unit, whatever the length of response and references.

    Attributes:
        grams: The kinds of n-grams that count.
    """

    grams: tuple[Grams, ...]

    @abstractmethod
    def phi(self, matches: Sequence[NgramMatches]) -> NDArray[np.float64]:
        """Computes Phi from matches.

        Args:
            matches: The matches of k responses, for each of `grams`.

        Returns:
            `(k,)` Phi.
        """

    def prepare(self, references: References) -> PreparedGrams:
        """Counts the n-grams of the references."""
        prepared: PreparedGrams = []
        for gram in self.grams:
            texts = [gram.splitter.split(text) for text in references]
            counts = [[_count(text, order) for text in texts] for order in range(gram.low, gram.high + 1)]
            if gram.pooled:
                counts = [[_pool(of_order)] for of_order in counts]
            prepared.append(([len(text) for text in texts], counts))
        return prepared

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        return float(self.score_all([example], [response])[0])

    def score_all(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Scores some whole responses by one call of `phi`.

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
        for kind, gram in enumerate(self.grams):
            lengths: list[int] = []
            wanted: list[list[int]] = []
            matched: list[list[list[int]]] = []
            for example, response in zip(examples, responses, strict=True):
                units, (sizes, counts) = gram.splitter.split(response), self.prepared(example)[kind]
                lengths.append(len(units))
                wanted.append(_repeat_last(sizes, columns))
                matched.append([])
                for order, of_order in enumerate(counts, start=gram.low):
                    shared = _shared(_count(units, order), of_order)
                    matched[-1].append(_repeat_last(shared, 1 if gram.pooled else columns))
            matches.append(NgramMatches(np.array(lengths), np.array(wanted), np.array(matched)))
        return self.phi(matches)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that counts each kind of n-grams."""
        counters = [NgramScorer(self, gram, num_lanes, tokenizer) for gram in self.grams]
        return counters[0] if len(counters) == 1 else _ManyGramsScorer(self, counters)


def _count(units: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*[units[start:] for start in range(order)], strict=False))


def _shared(written: Counter[tuple[str, ...]], references: list[Counter[tuple[str, ...]]]) -> list[int]:
    """Counts the n-grams that are in each reference, each at most as often as there."""
    return [sum([min(n, has[gram]) for gram, n in written.items() if gram in has]) for has in references]


def _repeat_last(numbers: list[int], width: int) -> list[int]:
    return numbers + numbers[-1:] * (width - len(numbers))


def _pool(counts: list[Counter[tuple[str, ...]]]) -> Counter[tuple[str, ...]]:
    pooled: Counter[tuple[str, ...]] = Counter()
    for of_reference in counts:
        pooled |= of_reference  # the larger count of each n-gram
    return pooled


@dataclass(frozen=True, slots=True)
class _GramNodes:
    """The n-grams of some examples' references, numbered, a root for each example included.

    Nodes are numbered by order, and within an order as they first occur.

    Attributes:
        unit: `(positions,)` the units of all references, one after another.
        column: `(positions,)` the number of the reference of each, within its example.
        node_at: For each order from 0, `(positions,)` the node of the n-gram that begins at each position.
        starts: For each order from 0, the positions at which an n-gram of that order begins.
        owner: `(nodes,)` the example of each node.
        parent: `(nodes,)` the node of the n-gram without its last unit.
        last: `(nodes,)` the last unit.
    """

    unit: NDArray[np.int64]
    column: NDArray[np.int64]
    node_at: list[NDArray[np.int64]]
    starts: list[NDArray[np.int64]]
    owner: NDArray[np.int64]
    parent: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, examples: list[list[list[int]]], high: int) -> _GramNodes:
        """Numbers the n-grams up to an order.

        An n-gram is its parent and one unit, so sorting those pairs finds equal ones, an order at a time.
        """
        texts = [(index, column, text) for index, texts in enumerate(examples) for column, text in enumerate(texts)]
        sizes = [len(text) for _, _, text in texts]
        unit = np.array([unit for _, _, text in texts for unit in text], dtype=np.int64)
        column = np.repeat([column for _, column, _ in texts], sizes)
        left = np.concatenate([np.arange(size, 0, -1) for size in sizes])  # units from here to the end of the text
        owner = [np.arange(len(examples))]
        parent, last = [np.zeros(len(examples), dtype=np.int64)], [np.zeros(len(examples), dtype=np.int64)]
        node_at = [np.repeat([index for index, _, _ in texts], sizes)]
        starts = [np.arange(len(unit))]
        num_nodes = len(examples)
        for order in range(1, high + 1):
            positions = np.flatnonzero(left >= order)
            keys = (node_at[-1][positions] << UNIT_BITS) | unit[positions + order - 1]
            distinct, first_seen, which = np.unique(keys, return_index=True, return_inverse=True)
            by_occurrence = np.argsort(first_seen)
            rank = np.empty_like(first_seen)
            rank[by_occurrence] = np.arange(len(by_occurrence))
            nodes = np.zeros_like(unit)
            nodes[positions] = num_nodes + rank[which]
            owner.append(node_at[0][positions[first_seen[by_occurrence]]])
            parent.append(distinct[by_occurrence] >> UNIT_BITS)
            last.append(distinct[by_occurrence] & ((1 << UNIT_BITS) - 1))
            node_at.append(nodes)
            starts.append(positions)
            num_nodes += len(distinct)
        return cls(unit, column, node_at, starts, *map(np.concatenate, (owner, parent, last)))


class NgramScorer(ReferenceScorer):
    """Counts matches of n-grams of one kind.

    The n-grams of an example's references are the nodes of a tree, with the empty one as its root. A lane is at the
    longest of them that its text ends with; all others that the text ends with are suffixes of that one. (Aho &
    Corasick, 1975, Efficient string matching.)

    Args:
        reward: The score's definition.
        grams: The kind of n-grams.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
    """

    def __init__(self, reward: NgramReward, grams: Grams, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._grams = grams
        super().__init__(reward, grams.splitter, num_lanes, tokenizer)
        self._phi_of, self._score_all = reward.phi, reward.score_all
        orders = grams.high - grams.low + 1
        self._node = np.zeros(num_lanes, dtype=np.int64)  # counted from the root of its example's tree
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._matched = np.zeros((num_lanes, orders, 1), dtype=np.int64)
        self._marked = (self._node.copy(), self._length.copy(), self._matched.copy())
        # How often the text has each node of its tree. Not copied at a mark, since it is as large as the references:
        # the nodes that were counted since the mark are listed instead, and counted back.
        self._written = np.zeros((num_lanes, 1), dtype=np.int32)
        self._pending = np.zeros((num_lanes, 1, orders), dtype=np.int64)
        self._num_pending = np.zeros(num_lanes, dtype=np.int64)

    def _forget(self) -> None:
        super()._forget()
        orders = self._grams.high - self._grams.low + 1
        # A row for each example:
        self._first = RowTable(np.int64)  # the root of its tree, among all nodes
        self._size = RowTable(np.int64)  # the number of nodes
        # A row for each node:
        self._suffix = RowTable(np.int64)  # the node without its first unit, among all nodes
        self._endings = RowTable(np.int32, (orders,))  # its suffixes of the counted orders, itself included
        self._has = RowTable(np.int32, (1 if self._grams.pooled else self._num_columns,))  # count in each reference

    def _add_tables(self, examples: list[list[list[int]]]) -> None:
        low, high = self._grams.low, self._grams.high
        grams = _GramNodes.of(examples, high)
        node_at, starts, owner, column = grams.node_at, grams.starts, grams.owner, grams.column
        num_nodes = len(owner)
        # Nodes are numbered anew by example, so that the numbers within a tree depend on nothing but its references:
        # what a lane has read stays valid when other examples are forgotten.
        by_owner = np.argsort(owner, kind="stable")
        number = np.empty(num_nodes, dtype=np.int64)
        number[by_owner] = np.arange(self._num_nodes, self._num_nodes + num_nodes)
        size = np.bincount(owner, minlength=len(examples))
        first = self._num_nodes + np.cumsum(size) - size

        suffix, endings = number[owner], np.zeros((num_nodes, high - low + 1), dtype=np.int64)
        counts = np.zeros((num_nodes, self._num_columns), dtype=np.int64)
        for order in range(1, high + 1):
            node, position = node_at[order][starts[order]], starts[order]
            if order > 1:
                suffix[node] = number[node_at[order - 1][position + 1]]
            for shorter in range(low, order + 1):
                ending = node_at[shorter][position + order - shorter]
                endings[node, shorter - low] = number[ending] - first[owner[ending]]
            np.add.at(counts, (node, column[position]), 1)
        above, last = grams.parent[len(examples) :], grams.last[len(examples) :]  # a root has neither
        keys = (number[above] << UNIT_BITS) | last
        self._edges.update(zip(keys.tolist(), number[len(examples) :].tolist(), strict=True))
        self._suffix.extend(suffix[by_owner])
        self._endings.extend(endings[by_owner])
        counts = counts[by_owner]
        self._has.extend(counts.max(axis=1, keepdims=True) if self._grams.pooled else counts)
        self._first.extend(first)
        self._size.extend(size)
        self._num_nodes += num_nodes
        self._num_cells += num_nodes * (high - low + 3 + self._has.array.shape[1])

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        most = int(self._size.array[self._slot[lanes]].max(initial=0))
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
        """Reads one unit in each of some lanes, and counts the n-grams that end with it."""
        self._length[lanes] += 1
        known = self._passes_sieve(lanes, units)
        if not known.all():
            self._node[lanes[~known]] = 0
            lanes, units = lanes[known], units[known]
        first = self._first.array[self._slot[lanes]]
        nodes = first + self._node[lanes]
        after = self._follow(nodes, units)
        for row in np.flatnonzero((after < 0) & (nodes > first)).tolist():
            after[row] = self._follow_suffix(int(first[row]), int(nodes[row]), int(units[row]))
        is_known = after >= 0
        self._node[lanes] = np.where(is_known, after - first, 0)
        if is_known.any():
            self._count_endings(lanes[is_known], first[is_known], after[is_known])

    def _count_endings(self, lanes: NDArray[np.intp], first: NDArray[np.int64], nodes: NDArray[np.int64]) -> None:
        """Counts the n-grams that end `nodes`, with which the texts of lanes `(k,)` now end. Trees begin at `first`."""
        endings = self._endings.array[nodes]
        cells = lanes[:, None] * self._written.shape[1] + endings
        flat = self._written.reshape(-1)
        before = flat[cells]
        # An order that a node is too short for has the root as its ending. Its count is wrong, and is never read.
        flat[cells] = before + 1
        has = self._has.array[first[:, None] + endings]
        self._matched[lanes] += before[:, :, None] < has  # clipped: one more matches only if the reference has more
        column = self._num_pending[lanes]
        if (most := int(column.max()) + 1) > self._pending.shape[1]:
            self._pending = np.pad(self._pending, ((0, 0), (0, most), (0, 0)))
        self._pending[lanes, column] = endings
        self._num_pending[lanes] = column + 1

    def _follow_suffix(self, first: int, node: int, unit: int) -> int:
        """Returns the longest node that ends with a unit which does not prolong `node`, or -1 if there is none."""
        edges = self._edges
        if (first << UNIT_BITS) | unit not in edges:  # it does not even prolong the root
            return -1
        start = (node << UNIT_BITS) | unit
        after = None
        while after is None:
            node = int(self._suffix.array[node])
            after = edges.get((node << UNIT_BITS) | unit)
        edges[start] = after  # so that it is one look-up the next time
        self._num_cells += 1
        return after

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Copies the counts of lanes."""
        for marked, array in zip(self._marked, (self._node, self._length, self._matched), strict=True):
            marked[lanes] = array[lanes]
        self._num_pending[lanes] = 0

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the counts of lanes."""
        for marked, array in zip(self._marked, (self._node, self._length, self._matched), strict=True):
            array[lanes] = marked[lanes]
        pending = self._num_pending[lanes]
        for column in range(int(pending.max(initial=0))):
            rows = lanes[pending > column]
            self._written[rows[:, None], self._pending[rows, column]] -= 1  # cells are distinct: one an order
        self._num_pending[lanes] = 0

    def matches(self, lanes: NDArray[np.intp]) -> NgramMatches:
        """Returns the counts of lanes `(k,)`."""
        return NgramMatches(self._length[lanes], self._lengths.array[self._slot[lanes]], self._matched[lanes])

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Computes Phi from the counts."""
        return self._phi_of([self.matches(lanes)])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Scores whole responses at once. `Lanes` checks that the scores are finite."""
        return self._score_all(examples, responses)


class _ManyGramsScorer(Scorer):
    """Computes Phi from n-grams of several kinds (characters and words), each with a counter of its own."""

    def __init__(self, reward: NgramReward, counters: Sequence[NgramScorer]) -> None:
        super().__init__(reward)
        self._phi_of, self._score_all = reward.phi, reward.score_all
        self._counters = counters

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for counter in self._counters:
            counter.reset(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        for counter in self._counters:
            counter.advance(lanes, tokens)
        return self._phi_of([counter.matches(lanes) for counter in self._counters])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        return self._score_all(examples, responses)
