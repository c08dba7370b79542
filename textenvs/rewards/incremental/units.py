"""Scores that read a response unit by unit (words, characters, tokens of a metric), for many lanes at once.

A token of the policy is not a unit of a score. Three pieces stand between them, and data flows down:

    Splitter    cuts a text into units: those that are finished, whatever follows, and an unfinished rest
    Units       the splitter over tokens, for N lanes: each token finishes some units and leaves some pending
    Machine     a reader over units, for N lanes: what each unit does depends on a memory of those before it

Each is worked out in plain Python when it first happens and remembered as an edge, so that a step of all lanes is a
few look-ups and array operations. What a score does with pending units is always the same: read them as if they were
final, report, and take them back before the next token (`UnitScorer`). A score that is a function of sums over units
writes even less (`UnitSums`).
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
from textenvs.rewards.incremental.splitters import Splitter, Words
from textenvs.tokenizer import Tokenizer

# Beyond any of these, what was worked out is forgotten and begins anew, so that a long run's memory stays bounded.
_MOST_EDGES = 1 << 19


_MOST_CHARACTERS = 1 << 27


_MOST_BYTES = 1 << 28


_MOST_MEMOS = 1 << 18


_LONGEST_MEMO = 32  # characters


_UNIT_BITS = 40  # of a key; the rest is the state's


class _Rows:
    """A table that grows: rows of numbers, right-padded with 0.

    Attributes:
        array: `(room, width)`.
        counts: `(room,)` int64, how many numbers each row was given.
    """

    def __init__(self, dtype: Any, width: int = 1) -> None:
        self.array: NDArray[Any] = np.zeros((64, width), dtype=dtype)
        self.counts = np.zeros(64, dtype=np.int64)
        self.size = 0

    def append(self, row: Sequence[Any]) -> None:
        room, width = self.array.shape
        if self.size == room:
            self.array = np.concatenate([self.array, np.zeros_like(self.array)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        if len(row) > width:
            wider = max(len(row), 2 * width)
            self.array = np.pad(self.array, ((0, 0), (0, wider - width)))
        if len(row):
            self.array[self.size, : len(row)] = row
            self.counts[self.size] = len(row)
        self.size += 1

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`(k, most)` those rows, cut to the longest of them."""
        return self.array[rows, : int(self.counts[rows].max(initial=0))]


class _Edges(dict[int, int]):
    """Key to number, in the order in which keys are first met.

    Args:
        discover: Works out what a new key stands for and appends it to the tables that the numbers are places in.
    """

    def __init__(self, discover: Callable[[int], None]) -> None:
        super().__init__()
        self._discover = discover

    def __missing__(self, key: int) -> int:
        self._discover(key)
        number = self[key] = len(self)
        return number

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(k,)` the number of each key."""
        return np.fromiter(map(self.__getitem__, keys.tolist()), np.int64, len(keys))


@dataclass(frozen=True, slots=True)
class UnitStep:
    """What one token did to the units of some lanes. A unit is a number from 1; 0 is none.

    Attributes:
        confirmed: `(k,)` bool, True where the units that were pending stand as they are.
        finished: `(k, m)` int64, units that have been finished besides.
        pending: `(k, p)` int64, the units of the unfinished rest, taken as final.
    """

    confirmed: NDArray[np.bool_]
    finished: NDArray[np.int64]
    pending: NDArray[np.int64]


class Units:
    """A splitter over tokens, for N growing texts.

    Args:
        splitter: What cuts.
        num_lanes: N.
        tokenizer: Whose ids are pushed.
    """

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
        self._forget()

    def _forget(self) -> None:
        self._states: list[tuple[str, bytes]] = []  # the rest, and the bytes of an incomplete character
        self._state_ids: dict[tuple[str, bytes], int] = {}
        self._closable = _Rows(np.bool_)
        self._unit_ids = dict(self._kept)
        self._unit_names = {number: unit for unit, number in self._kept.items()}
        self._edges = _Edges(self._discover)
        self._next = _Rows(np.int64)
        self._finished = _Rows(np.int64)
        self._pending = _Rows(np.int64)
        self._characters = 0
        self._state_id("", b"")

    def name(self, unit: int) -> str:
        """The text of a unit that the latest push gave."""
        return self._unit_names[unit]

    def keep(self, unit: str) -> int:
        """The number of a unit that a score knows of (one of a reference, say). It stays the unit's until `release`."""
        number = self._kept.get(unit)
        if number is None:
            number = self._kept[unit] = self._number(unit)
        return number

    def release(self) -> None:
        """Keep no unit any more: a number that `keep` gave means nothing from now on."""
        self._kept.clear()

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Start new, empty texts in these lanes `(k,)`."""
        self._state[lanes] = 0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> UnitStep:
        """Append one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` their tokens.

        Returns:
            The units that this finished, and those that are pending now.
        """
        if len(self._edges) > _MOST_EDGES or self._characters > _MOST_CHARACTERS or self._bytes() > _MOST_BYTES:
            self._compact()
        state = self._state[lanes]
        # A token that begins with white space does the same in every state, once the word before it stands: one edge
        # a token serves all of them.
        confirmed = self._closes[tokens] & self._closable.array[state, 0]
        edges = self._edges.find(np.where(confirmed, 0, state) * self._vocab_size + tokens)
        self._state[lanes] = self._next.array[edges, 0]
        return UnitStep(confirmed, self._finished.take(edges), self._pending.take(edges))

    def _bytes(self) -> int:
        return self._finished.array.nbytes + self._pending.array.nbytes

    def _discover(self, key: int) -> None:
        """What one token does in one state, worked out once."""
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
        """The number of a unit. It is never used again for another one, also when this one is forgotten."""
        number = self._unit_ids.get(unit)
        if number is None:
            number = self._unit_ids[unit] = self._next_unit
            self._unit_names[number] = unit
            self._next_unit += 1
            self._characters += len(unit)
        return number

    def _compact(self) -> None:
        """Forget all but the states that lanes are in."""
        live = [self._states[state] for state in self._state.tolist()]
        self._forget()
        self._state[:] = [self._state_id(*state) for state in live]


class UnitReader(ABC):
    """What a unit does to a score: a memory of the units before it, and numbers that it gives."""

    @abstractmethod
    def read(self, memory: Any, unit: str) -> tuple[Hashable, Sequence[float]]:
        """Read one unit.

        Args:
            memory: What is remembered of the units before: hashable, and better of few kinds.
            unit: The unit.

        Returns:
            The memory after the unit, and the numbers that it gives, always as many.
        """


class Machine:
    """A reader over units, for N lanes, each with a memory of its own.

    Args:
        reader: What reads.
        units: What the units come from.
        num_lanes: N.
        width: How many numbers a unit gives.
        dtype: Of what kind they are.
    """

    def __init__(self, reader: UnitReader, units: Units, num_lanes: int, width: int, dtype: Any = np.float64) -> None:
        self._reader = reader
        self._units = units
        self._width = width
        self._dtype = dtype
        self._state = np.zeros(num_lanes, dtype=np.int64)
        self._marked = np.zeros(num_lanes, dtype=np.int64)
        self._forget()
        self.start(np.arange(num_lanes), [None] * num_lanes)

    def _forget(self) -> None:
        self._memories: list[Hashable] = []
        self._memory_ids: dict[Hashable, int] = {}
        self._edges = _Edges(self._discover)
        self._next = _Rows(np.int64)
        self._numbers = _Rows(self._dtype, self._width)

    def start(self, lanes: NDArray[np.intp], memories: Sequence[Hashable]) -> None:
        """Give lanes `(k,)` the memory that each has before its first unit."""
        if len(self._memories) > _MOST_EDGES:
            self._compact()
        self._state[lanes] = [self._memory_id(memory) for memory in memories]
        self._marked[lanes] = self._state[lanes]

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> NDArray[Any]:
        """Read one unit in each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            units: `(k,)` a unit for each, none of them 0.

        Returns:
            `(k, width)` what each gave.
        """
        if len(self._edges) > _MOST_EDGES:
            self._compact()
        edges = self._edges.find((self._state[lanes] << _UNIT_BITS) | units)
        self._state[lanes] = self._next.array[edges, 0]
        return self._numbers.array[edges]

    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Remember where these lanes `(k,)` are."""
        self._marked[lanes] = self._state[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Go back to where these lanes `(k,)` were marked."""
        self._state[lanes] = self._marked[lanes]

    def _memory_id(self, memory: Hashable) -> int:
        number = self._memory_ids.get(memory)
        if number is None:
            number = self._memory_ids[memory] = len(self._memories)
            self._memories.append(memory)
        return number

    def _discover(self, key: int) -> None:
        memory = self._memories[key >> _UNIT_BITS]
        after, numbers = self._reader.read(memory, self._units.name(key & ((1 << _UNIT_BITS) - 1)))
        self._next.append([self._memory_id(after)])
        self._numbers.append(numbers)

    def _compact(self) -> None:
        """Forget all but the memories that lanes have."""
        old, states = self._memories, (self._state, self._marked)
        self._forget()
        for state in states:
            state[:] = [self._memory_id(old[one]) for one in state.tolist()]


class UnitScorer(Scorer):
    """Phi of N responses that are read unit by unit, the unfinished rest taken as final.

    A subclass says what it is to start, to read a unit, to mark where it is, to go back there, and what Phi is.

    Args:
        reward: The score's definition.
        splitter: What cuts responses into units.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reward: Reward, splitter: Splitter, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self.units = Units(splitter, num_lanes, tokenizer)

    @abstractmethod
    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Start new, empty responses in lanes `(k,)`, nothing read and nothing marked."""

    @abstractmethod
    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        """Read one unit `(k,)` in each of some distinct lanes `(k,)`."""

    @abstractmethod
    def mark(self, lanes: NDArray[np.intp]) -> None:
        """Remember where these lanes `(k,)` are: before their pending units."""

    @abstractmethod
    def undo(self, lanes: NDArray[np.intp]) -> None:
        """Take back what these lanes `(k,)` have read since the mark."""

    @abstractmethod
    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        """`(k,)` the score of what these lanes `(k,)` have read."""

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """See `Scorer.reset`."""
        self.units.reset(lanes)
        self.start(lanes, examples)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scorer.push`."""
        self.advance(lanes, tokens)
        return self.phi(lanes)

    def advance(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Append one token to each of some lanes, and ask for no score: all of `push` but its `phi`."""
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
    """A score that is a function of sums over units: what each unit adds, and what the sums are worth.

    A subclass sets `width` and writes `read` and `phi`; the score of a whole text and the scorer over lanes follow.

    Attributes:
        splitter: What cuts a response into units; words between white space unless a subclass says otherwise.
        width: How many sums there are.
    """

    splitter: Splitter = Words()
    width: int = 1

    @abstractmethod
    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """What sums are worth.

        Args:
            sums: `(k, width)` of k responses.
            features: `(k, f)` what `features` said of the example of each.

        Returns:
            `(k,)` Phi.
        """

    def features(self, example: Example) -> Sequence[float]:
        """The numbers of an example that `phi` needs, always as many."""
        return ()

    def start(self, example: Example) -> Hashable:
        """The memory before the first unit of a response to an example."""
        return None

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        sums = self.read_text(example, response)
        return float(self.phi(sums[None], np.array([self.features(example)], dtype=np.float64))[0])

    def read_text(self, example: Example, response: str) -> NDArray[np.float64]:
        """The sums over a whole text.

        Args:
            example: What it responds to.
            response: The text.

        Returns:
            `(width,)` sums, added up in the order of the units, as the scorer does.
        """
        # What every short unit did is remembered, so that a text is a look-up a unit. Lines hardly come again.
        memos: dict[Any, tuple[Hashable, Sequence[float]]] = self.__dict__.setdefault("_memos", {})
        if len(memos) > _MOST_MEMOS:
            memos.clear()
        memory, sums = self.start(example), [0.0] * self.width
        for unit in self.splitter.split(response):
            key = (memory, unit)
            known = memos.get(key)
            if known is None:
                known = self.read(memory, unit)
                if len(unit) <= _LONGEST_MEMO:
                    memos[key] = known
            memory, added = known
            for place, number in enumerate(added):
                if number:
                    sums[place] += number
        return np.array(sums)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be worked out again."""
        return {name: value for name, value in self.__dict__.items() if name != "_memos"}

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
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
        """Not through `checked_score`: `Lanes` checks what comes out, and one call of `phi` serves all."""
        if not len(examples):
            return np.zeros(0)
        pairs = zip(examples, responses, strict=True)
        sums = np.array([self._score.read_text(example, response) for example, response in pairs])
        return self._score.phi(sums, self._features_of(examples))

    def _features_of(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        return np.array([self._score.features(example) for example in examples], dtype=np.float64)
