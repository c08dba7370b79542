"""Scores that read a response unit by unit (words, characters, tokens of a metric), for many lanes at once.

A token of the policy is not a unit of a score. Three classes connect them, and data flows down:

    Splitter    cuts a text into units: those that are finished, whatever follows, and an unfinished rest
    Units       applies a splitter to the tokens of N lanes: a token finishes some units and leaves some pending
    Machine     applies a reader to the units of N lanes: it depends on a memory of earlier units what a unit does

What a token or unit does is worked out in plain Python when it first occurs, and kept as an edge of a graph, so that a
step of all lanes is a few look-ups and array operations. A score treats pending units as if they were final, and takes
them back before the next token; `UnitScorer` does that for every score. A score that is a function of sums over units
writes even less: `UnitSums`.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, Scorer
from textenvs.rewards.incremental.growing import Discards, RaggedTable
from textenvs.rewards.incremental.splitters import Splitter, Words
from textenvs.tokenizer import Tokenizer

_UNIT_BITS = 40  # of a key (memory, unit); the higher ones hold the memory


class _Edges(dict[int, int]):
    """A map from keys to numbers, in the order in which the keys first occur.

    Args:
        discover: Works out what a new key does, and appends it to the tables whose rows the numbers are.
    """

    def __init__(self, discover: Callable[[int], None]) -> None:
        super().__init__()
        self._discover = discover

    def __missing__(self, key: int) -> int:
        self._discover(key)
        number = self[key] = len(self)
        return number

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns `(k,)` the number of each key."""
        return np.fromiter(map(self.__getitem__, keys.tolist()), np.int64, len(keys))


@dataclass(frozen=True, slots=True)
class UnitStep:
    """The units that one token has finished in some lanes. A unit is a number from 1; 0 is none.

    Attributes:
        confirmed: `(k,)` bool, True where the units that were pending are final as they are.
        finished: `(k, m)` int64, the other units that are final now.
        pending: `(k, p)` int64, the units of the unfinished rest, if the text ended here.
    """

    confirmed: NDArray[np.bool_]
    finished: NDArray[np.int64]
    pending: NDArray[np.int64]


class Units:
    """Cuts N growing texts into units, token by token.

    Args:
        splitter: Cuts a text into units.
        num_lanes: N.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        max_edges: The number of (rest, token) pairs, and
        max_characters: the number of characters of rests and units, and
        max_bytes: the size of the tables, beyond any of which all is forgotten except what lanes need, so that memory
            stays bounded in a long run, at some 0.3 GB. What is forgotten is freed bit by bit: no step pauses for it.
    """

    max_edges = 1 << 18
    max_characters = 1 << 25
    max_bytes = 1 << 26

    def __init__(self, splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._splitter = splitter
        self._pieces = tokenizer.pieces
        self._vocab_size = tokenizer.vocab_size
        self._state = np.zeros(num_lanes, dtype=np.int64)
        self._closes = np.array(
            [piece[:1].isascii() and bool(piece) and splitter.closes(chr(piece[0])) for piece in tokenizer.pieces],
            dtype=np.bool_,
        )
        self._next_unit = 1
        self._kept: dict[str, int] = {}
        self._num_keepers: dict[str, int] = {}
        self._discards = Discards()
        self._forget()

    def _forget(self) -> None:
        self._states: list[tuple[str, bytes]] = []  # the rest, and the bytes of an incomplete character
        self._state_ids: dict[tuple[str, bytes], int] = {}
        self._closable = RaggedTable(np.bool_)
        self._unit_ids = dict(self._kept)
        self._unit_names = {number: unit for unit, number in self._kept.items()}
        self._edges = _Edges(self._discover)
        self._next = RaggedTable(np.int64)
        self._finished = RaggedTable(np.int64)
        self._pending = RaggedTable(np.int64)
        self._characters = 0
        self._state_id("", b"")

    def name(self, unit: int) -> str:
        """Returns the text of a unit that the latest push gave."""
        return self._unit_names[unit]

    def keep(self, unit: str) -> int:
        """Returns the number of a unit that a score looks for (one of a reference, say), and keeps it.

        It is kept until `drop` has been called for it as often as `keep`, or until `release`.
        """
        number = self._kept.get(unit)
        if number is None:
            number = self._kept[unit] = self._number(unit)
            self._num_keepers[unit] = 1
        else:
            self._num_keepers[unit] += 1
        return number

    def drop(self, unit: str) -> None:
        """Takes one `keep` of a unit back."""
        self._num_keepers[unit] -= 1
        if not self._num_keepers[unit]:
            del self._num_keepers[unit], self._kept[unit]

    def release(self) -> None:
        """Stops keeping units: the numbers that `keep` gave have no meaning from now on."""
        self._kept.clear()
        self._num_keepers.clear()

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Starts new, empty texts in lanes `(k,)`."""
        self._state[lanes] = 0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> UnitStep:
        """Appends one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` their tokens.

        Returns:
            The units that the tokens have finished, and those that are pending now.
        """
        if (
            len(self._edges) > self.max_edges
            or self._characters > self.max_characters
            or self._finished.num_bytes + self._pending.num_bytes > self.max_bytes
        ):
            self._compact()
        self._discards.free()
        state = self._state[lanes]
        # A token that begins with white space confirms the word before it, and then does the same as in state 0, with
        # no word before it. So all states share one edge for such a token.
        confirmed = self._closes[tokens] & self._closable.array[state, 0]
        edges = self._edges.find(np.where(confirmed, 0, state) * self._vocab_size + tokens)
        self._state[lanes] = self._next.array[edges, 0]
        return UnitStep(confirmed, self._finished.take(edges), self._pending.take(edges))

    def _discover(self, key: int) -> None:
        """Works out what one token does in one state."""
        state, token = divmod(key, self._vocab_size)
        rest, incomplete = self._states[state]
        data = incomplete + self._pieces[token]
        text, used = codecs.utf_8_decode(data, "replace", False)
        units, rest = self._splitter.cut(rest + text)
        rest = self._splitter.shorten(rest)
        self._next.append([self._state_id(rest, data[used:])])
        self._finished.append([self._number(unit) for unit in units])
        self._pending.append([self._number(unit) for unit in self._splitter.finish(rest)])

    def _state_id(self, rest: str, incomplete: bytes) -> int:
        state = (rest, incomplete)
        number = self._state_ids.get(state)
        if number is None:
            number = self._state_ids[state] = len(self._states)
            self._states.append(state)
            self._closable.append([not incomplete and self._splitter.stands(rest)])
            self._characters += len(rest)
        return number

    def _number(self, unit: str) -> int:
        """Returns the number of a unit. A number is never given to another unit, even when its unit is forgotten."""
        number = self._unit_ids.get(unit)
        if number is None:
            number = self._unit_ids[unit] = self._next_unit
            self._unit_names[number] = unit
            self._next_unit += 1
            self._characters += len(unit)
        return number

    def _compact(self) -> None:
        """Forgets all states except those that lanes are in."""
        live = [self._states[state] for state in self._state.tolist()]
        self._discards.add(self._states, self._state_ids, self._unit_ids, self._unit_names, self._edges)
        self._forget()
        self._state[:] = [self._state_id(*state) for state in live]


class UnitReader(ABC):
    """Reads units one by one: a unit gives numbers, which may depend on a memory of the units before it."""

    @abstractmethod
    def read(self, memory: Any, unit: str) -> tuple[Hashable, Sequence[float]]:
        """Reads one unit.

        Args:
            memory: The memory of the units before: hashable, and the fewer different ones the better.
            unit: The unit.

        Returns:
            The memory after the unit, and the numbers that the unit gives, always equally many.
        """

    def size(self, memory: Any) -> int:
        """Returns the number of items in a memory, for readers whose memories may be large."""
        return 1


class Machine:
    """Reads the units of N lanes, each with a memory of its own.

    Args:
        reader: Reads one unit.
        units: Gives the units.
        num_lanes: N.
        width: The number of numbers that a unit gives.
        dtype: The type of the numbers.

    Attributes:
        max_edges: The number of (memory, unit) pairs, and of memories, beyond which all are forgotten except those of
            the lanes. What is forgotten is freed bit by bit. An edge takes some 150 bytes, and what its memory takes.
        max_size: The number of items in memories (`UnitReader.size`), beyond which the same happens. If the memories of
            the lanes alone have more than half of it, twice theirs is the bound.
    """

    max_edges = 1 << 18
    max_size = 1 << 23

    def __init__(self, reader: UnitReader, units: Units, num_lanes: int, width: int, dtype: Any = np.float64) -> None:
        self._reader = reader
        self._units = units
        self._width = width
        self._dtype = dtype
        self._state = np.zeros(num_lanes, dtype=np.int64)
        self._marked = np.zeros(num_lanes, dtype=np.int64)
        self._discards = Discards()
        self._size_limit = self.max_size
        self._forget()
        self.start(np.arange(num_lanes), [None] * num_lanes)

    def _forget(self) -> None:
        self._memories: list[Hashable] = []
        self._memory_ids: dict[Hashable, int] = {}
        self._size = 0
        self._edges = _Edges(self._discover)
        self._next = RaggedTable(np.int64)
        self._numbers = RaggedTable(self._dtype, self._width)

    def start(self, lanes: NDArray[np.intp], memories: Sequence[Hashable]) -> None:
        """Gives lanes `(k,)` the memory that each has before its first unit."""
        if len(self._memories) > self.max_edges or self._size > self._size_limit:
            self._compact()
        self._state[lanes] = [self._memory_id(memory) for memory in memories]
        self._marked[lanes] = self._state[lanes]

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> NDArray[Any]:
        """Reads one unit in each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            units: `(k,)` a unit for each, none of them 0.

        Returns:
            `(k, width)` the numbers that each unit gives.
        """
        if len(self._edges) > self.max_edges or self._size > self._size_limit:
            self._compact()
        self._discards.free()
        edges = self._edges.find((self._state[lanes] << _UNIT_BITS) | units)
        self._state[lanes] = self._next.array[edges, 0]
        return self._numbers.array[edges]

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Remembers the memories of lanes `(k,)`."""
        self._marked[lanes] = self._state[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the memories that lanes `(k,)` had at the mark."""
        self._state[lanes] = self._marked[lanes]

    def _memory_id(self, memory: Hashable) -> int:
        number = self._memory_ids.get(memory)
        if number is None:
            number = self._memory_ids[memory] = len(self._memories)
            self._memories.append(memory)
            self._size += 1 if memory is None else self._reader.size(memory)  # None: of a lane before its first reset
        return number

    def _discover(self, key: int) -> None:
        memory = self._memories[key >> _UNIT_BITS]
        after, numbers = self._reader.read(memory, self._units.name(key & ((1 << _UNIT_BITS) - 1)))
        self._next.append([self._memory_id(after)])
        self._numbers.append(numbers)

    def _compact(self) -> None:
        """Forgets all memories except those that lanes have."""
        states = (self._state, self._marked)
        live = [[self._memories[number] for number in state.tolist()] for state in states]
        self._discards.add(self._memories, self._memory_ids, self._edges)
        self._forget()
        for state, memories in zip(states, live, strict=True):
            state[:] = [self._memory_id(memory) for memory in memories]
        self._size_limit = max(self.max_size, 2 * self._size)


class UnitScorer(Scorer):
    """Computes Phi of N responses unit by unit, their unfinished rest taken as final.

    A subclass writes `start`, `read`, `mark`, `undo` and `phi`. A push takes the pending units back (`undo`), reads the
    units that are final now, marks the lanes, reads the new pending units, and asks for `phi`.

    Args:
        reward: The score's definition.
        splitter: Cuts responses into units.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
    """

    def __init__(self, reward: Reward, splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self.units = Units(splitter, num_lanes, tokenizer)

    @abstractmethod
    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts new, empty responses in lanes `(k,)`: nothing is read, and the mark is here."""

    @abstractmethod
    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Reads one unit `(k,)` in each of some distinct lanes `(k,)`."""

    @abstractmethod
    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Remembers the state of lanes `(k,)`, before their pending units are read."""

    @abstractmethod
    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Restores the state that lanes `(k,)` had at the mark."""

    @abstractmethod
    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Returns `(k,)` the score of what lanes `(k,)` have read."""

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts new, empty responses, without a pending unit."""
        self.units.reset(lanes)
        self.start(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Appends one token to each of some lanes, and computes their scores."""
        self.advance(lanes, tokens)
        return self.phi(lanes)

    def advance(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Appends one token to each of some lanes, without computing a score."""
        step = self.units.push(lanes, tokens)
        if not step.confirmed.all():
            self.undo(lanes[~step.confirmed])
        self._read_columns(lanes, step.finished)
        self.mark(lanes)
        self._read_columns(lanes, step.pending)

    def _read_columns(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        for column in units.T:
            present = column != 0
            if present.all():
                self.read(lanes, column)
            else:
                self.read(lanes[present], column[present])


class UnitSums(Reward, UnitReader):
    """A score that is a function of sums over units.

    A subclass sets `width`, and writes `read` (the numbers that a unit adds) and `phi` (the score that sums give). The
    score of a whole text and the scorer over lanes follow.

    Attributes:
        splitter: Cuts a response into units; by default, words between white space.
        width: The number of sums.
    """

    splitter: Splitter = Words()
    width: int = 1
    _max_memos = 1 << 18
    _max_memo_size = 1 << 23  # items in memories
    _max_memo_length = 32  # characters

    @abstractmethod
    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the scores that sums give.

        Args:
            sums: `(k, width)` the sums of k responses.
            features: `(k, f)` the `features` of the example of each.

        Returns:
            `(k,)` Phi.
        """

    def features(self, example: Example) -> Sequence[float]:
        """Returns the numbers of an example that `phi` needs, always equally many."""
        return ()

    def start(self, example: Example) -> Hashable:
        """Returns the memory before the first unit of a response to an example."""
        return None

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by the sums over its units."""
        sums = self.read_text(example, response)
        return float(self.phi(sums[None], np.array([self.features(example)], dtype=np.float64))[0])

    def read_text(self, example: Example, response: str) -> NDArray[np.float64]:
        """Computes the sums over a whole text.

        Args:
            example: The example that the text responds to.
            response: The text.

        Returns:
            `(width,)` sums, added up in the order of the units, as the scorer does.
        """
        # What a short unit did is kept, so that a text is a look-up a unit. A long one, a line say, hardly recurs.
        memos: dict[Any, tuple[Hashable, Sequence[float]]] = self.__dict__.setdefault("_memos", {})
        if len(memos) > self._max_memos or self.__dict__.get("_memo_size", 0) > self._max_memo_size:
            memos.clear()
            self._memo_size = 0
        memory, sums = self.start(example), [0.0] * self.width
        for unit in self.splitter.split(response):
            key = (memory, unit)
            known = memos.get(key)
            if known is None:
                known = self.read(memory, unit)
                if len(unit) <= self._max_memo_length:
                    memos[key] = known
                    self._memo_size = self.__dict__.get("_memo_size", 0) + self.size(known[0])
            memory, added = known
            for column, number in enumerate(added):
                if number:
                    sums[column] += number
        return np.array(sums)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what can be worked out again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_memos", "_memo_size")}

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that keeps the sums of each lane."""
        return _SumsScorer(self, num_lanes, tokenizer)


class _SumsScorer(UnitScorer):
    def __init__(self, reward: UnitSums, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._score = reward
        self._machine = Machine(reward, self.units, num_lanes, reward.width)
        self._sums = np.zeros((num_lanes, reward.width))
        self._marked = np.zeros((num_lanes, reward.width))
        self._features = np.zeros((num_lanes, 0))

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        if not len(examples):
            return
        features = self._features_of(examples)
        if features.shape[1] != self._features.shape[1]:
            self._features = np.zeros((len(self._features), features.shape[1]))
        self._features[lanes] = features
        self._machine.start(lanes, [self._score.start(example) for example in examples])
        self._sums[lanes] = 0.0
        self._marked[lanes] = 0.0

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        self._sums[lanes] += self._machine.read(lanes, units)

    def mark(self, lanes: NDArray[np.intp]) -> None:
        self._machine.mark(lanes)
        self._marked[lanes] = self._sums[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        self._machine.undo(lanes)
        self._sums[lanes] = self._marked[lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        return self._score.phi(self._sums[lanes], self._features[lanes])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Scores whole responses by one call of `phi`. `Lanes` checks that the scores are finite."""
        if not len(examples):
            return np.zeros(0)
        pairs = zip(examples, responses, strict=True)
        sums = np.array([self._score.read_text(example, response) for example, response in pairs])
        return self._score.phi(sums, self._features_of(examples))

    def _features_of(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        return np.array([self._score.features(example) for example in examples], dtype=np.float64)
