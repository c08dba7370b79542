"""N-grams that growing responses share with their references, counted in many lanes at once.

`NgramReward` is the score that a metric subclasses: it says which n-grams count (`Grams`) and what the counts are worth
(`phi`, from `NgramMatches`). `NgramScorer` counts them incrementally.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect
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
    return [
        # Without a call of `min` for each: there are as many n-grams as characters.
        sum([n if n < (most := has[gram]) else most for gram, n in written.items() if gram in has])
        for has in references
    ]


def _repeat_last(numbers: list[int], width: int) -> list[int]:
    return numbers + numbers[-1:] * (width - len(numbers))


def _pool(counts: list[Counter[tuple[str, ...]]]) -> Counter[tuple[str, ...]]:
    if len(counts) == 1:
        return counts[0]
    pooled: Counter[tuple[str, ...]] = Counter()
    for of_reference in counts:
        pooled |= of_reference  # the larger count of each n-gram
    return pooled


class _GramTree:
    """The n-grams of one example's references that responses have come to, numbered as they came.

    Attributes:
        nodes: By number, the node: its row in the tables of all trees. Number 0 is the empty n-gram, the root.
        order: By number, the order (n).
        suffix: By number, the number of the n-gram without its first unit.
        ends: By number, the indices (in `ReferenceIndex.units`) of the last unit of each occurrence.
        counts: By number, the number of occurrences in each reference; if they are pooled, in the one that has most.
    """

    __slots__ = ("counts", "ends", "nodes", "order", "suffix")

    def __init__(self, root: int) -> None:
        self.nodes, self.order, self.suffix = [root], [0], [0]
        self.ends: list[tuple[int, ...]] = [()]
        self.counts: list[tuple[int, ...]] = [()]


class NgramScorer(ReferenceScorer):
    """Counts matches of n-grams of one kind.

    The n-grams of an example's references are the nodes of a tree, with the empty one as its root. A lane is at the
    longest of them that its text ends with; all others that the text ends with are suffixes of that one. (Aho &
    Corasick, 1975, Efficient string matching.) A node is made when a response first comes to it: its occurrences are
    those of its parent that go on with one unit more.

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
        self._node = np.zeros(num_lanes, dtype=np.int64)
        self._root = np.zeros(num_lanes, dtype=np.int64)  # of the tree of each lane's example
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self._matched = np.zeros((num_lanes, orders, 1), dtype=np.int64)
        self._marked = (self._node.copy(), self._length.copy(), self._matched.copy())
        # How often the text has each n-gram of its tree, by number. Not copied at a mark, since it is as large as the
        # references: what was counted since the mark is listed instead, and counted back.
        self._written = np.zeros((num_lanes, 1), dtype=np.int32)
        self._pending = np.zeros((num_lanes, 1, orders), dtype=np.int64)
        self._num_pending = np.zeros(num_lanes, dtype=np.int64)
        self._trees: list[_GramTree] = []  # by slot
        self._number: list[int] = []  # by node: its number in its tree
        self._free_nodes: list[int] = []
        # By node: the numbers of its suffixes of the counted orders, itself included (0, the root, where it is too
        # short), and how often each reference has each of these.
        self._endings = RowTable(np.int32, (orders,))
        self._has = RowTable(np.int32, (orders, 1))
        self._new: list[tuple[int, list[int], list[tuple[int, ...]]]] = []  # node, endings and counts, to be written

    def _begin_examples(self, slots: list[int]) -> None:
        for slot in slots:
            tree = _GramTree(self._new_node(0))
            if slot == len(self._trees):
                self._trees.append(tree)
            else:
                self._trees[slot] = tree
            self._queue(slot, 0)
        self._write_discovered()

    def _forget_example(self, slot: int) -> None:
        self._free_nodes += self._trees[slot].nodes

    def _new_node(self, number: int) -> int:
        if self._free_nodes:
            node = self._free_nodes.pop()
            self._number[node] = number
        else:
            node = len(self._number)
            self._number.append(number)
        return node

    def _discover(self, slot: int, node: int, unit: int) -> int:
        number = self._go(slot, self._number[node], unit, self.units.name(unit))
        return self._trees[slot].nodes[number] if number else -1

    def _go(self, slot: int, number: int, unit: int, name: str) -> int:
        """Returns the number of the longest n-gram that a text ends with after a unit; 0 if there is none."""
        tree, edges = self._trees[slot], self._edges[slot]
        key = (tree.nodes[number] << UNIT_BITS) | unit
        node = edges.get(key)
        if node is not None:
            return self._number[node]
        after = 0
        if tree.order[number] < self._grams.high:
            after = self._make_child(slot, number, unit, name)
        if not after:
            if not number:
                return 0
            after = self._go(slot, tree.suffix[number], unit, name)
        if after:  # else it is found out again: most such units do not pass the sieve
            edges[key] = tree.nodes[after]
            self._count(slot, 1)
        return after

    def _make_child(self, slot: int, parent: int, unit: int, name: str) -> int:
        """Makes the node of an n-gram that is one unit longer than its parent; returns 0 if no reference has it."""
        tree, index = self._trees[slot], self._indices[slot]
        ends = index.continued(tree.ends[parent], tree.order[parent], name) if parent else index.positions(name)
        if not ends:
            return 0
        suffix = self._go(slot, tree.suffix[parent], unit, name) if parent else 0
        number = len(tree.nodes)
        tree.nodes.append(self._new_node(number))
        tree.order.append(tree.order[parent] + 1)
        tree.suffix.append(suffix)
        tree.ends.append(ends)
        tree.counts.append(self._counts(index.ends, ends))
        self._queue(slot, number)
        self._count(slot, 4 + len(ends) // 2)
        return number

    def _queue(self, slot: int, number: int) -> None:
        """Notes what is to be written into the tables for a new node."""
        tree, low, columns = self._trees[slot], self._grams.low, 1 if self._grams.pooled else self._num_columns
        node, order = tree.nodes[number], tree.order[number]
        endings, counts = [0] * (self._grams.high - low + 1), [(0,) * columns] * (self._grams.high - low + 1)
        while order >= low:
            endings[order - low] = number
            of_number = tree.counts[number]
            missing = columns - len(of_number)
            counts[order - low] = of_number + (0,) * missing if missing else of_number
            number, order = tree.suffix[number], order - 1
        self._new.append((node, endings, counts))

    def _counts(self, reference_ends: list[int], ends: tuple[int, ...]) -> tuple[int, ...]:
        """Counts the occurrences in each reference; if they are pooled, in the one that has most."""
        if len(reference_ends) == 1 or (self._grams.pooled and len(ends) == 1):
            return (len(ends),)
        until = [bisect(ends, end) for end in reference_ends]
        counts = tuple([last - first for first, last in zip([0, *until], until, strict=False)])
        return (max(counts),) if self._grams.pooled else counts

    def _write_discovered(self) -> None:
        if not self._new:
            return
        nodes = [node for node, _, _ in self._new]
        endings = np.array([endings for _, endings, _ in self._new])
        self._endings.put(nodes, endings)
        self._has.put(nodes, np.array([counts for _, _, counts in self._new]))
        most = int(endings.max()) + 1
        if most > self._written.shape[1]:
            self._written = widen(self._written, max(most, 2 * self._written.shape[1]))
        self._new.clear()

    def _clear(self, lanes: NDArray[np.intp]) -> None:
        columns = self._has.array.shape[2]
        if columns > self._matched.shape[2]:
            node, length, matched = self._marked
            self._matched = widen(self._matched, columns)
            self._marked = (node, length, widen(matched, columns))
        self._written[lanes] = 0
        for array in (self._length, self._matched, self._num_pending):
            array[lanes] = 0
        self._root[lanes] = self._node[lanes] = [self._trees[slot].nodes[0] for slot in self._slot[lanes].tolist()]
        self.mark(lanes)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit in each of some lanes, and counts the n-grams that end with it."""
        self._length[lanes] += 1
        known = self._passes_sieve(lanes, units)
        if not known.all():
            unknown = lanes[~known]
            self._node[unknown] = self._root[unknown]
            lanes, units = lanes[known], units[known]
        after = self._follow(lanes, self._node[lanes], units)
        is_known = after >= 0
        if is_known.all():
            self._node[lanes] = after
            if len(lanes):
                self._count_endings(lanes, after)
            return
        self._node[lanes] = np.where(is_known, after, self._root[lanes])
        if is_known.any():
            self._count_endings(lanes[is_known], after[is_known])

    def _count_endings(self, lanes: NDArray[np.intp], nodes: NDArray[np.int64]) -> None:
        """Counts the n-grams that end `nodes`, with which the texts of lanes `(k,)` now end."""
        endings = self._endings.array[nodes]
        cells = lanes[:, None] * self._written.shape[1] + endings
        flat = self._written.reshape(-1)
        before = flat[cells]
        # An order that a node is too short for has the root as its ending. Its count is wrong, and is never read.
        flat[cells] = before + 1
        # Clipped: one more matches only if the reference has more.
        self._matched[lanes] += before[:, :, None] < self._has.array[nodes]
        column = self._num_pending[lanes]
        if (most := int(column.max()) + 1) > self._pending.shape[1]:
            self._pending = np.pad(self._pending, ((0, 0), (0, most), (0, 0)))
        self._pending[lanes, column] = endings
        self._num_pending[lanes] = column + 1

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
