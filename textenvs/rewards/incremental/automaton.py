"""Scores that read a response character by character, with a finite memory.

    start(example)            the memory before the first character
    read(memory, character)   the memory after one more
    value(memory)             Phi

From these three functions follow the score of a whole text, a push that is one look-up in a table for all lanes at
once, and, since an episode is then a small Markov decision process, its exact random and optimal scores
(`textenvs.tasks.exact`). The table holds the memories that have occurred, and what each token did in each of them.
"""

from __future__ import annotations

import codecs
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, Scorer
from textenvs.tokenizer import Tokenizer

_UNKNOWN = -1  # in a table of memories, for a token that has not occurred in a memory yet


class AutomatonReward(Reward):
    """A score that is a function of a finite memory of the characters so far. Memories are hashable.

    Cost: one look-up in a table a token. A token that is new to a memory is read once, and its effect is kept.
    """

    @abstractmethod
    def start(self, example: Example) -> Hashable:
        """Returns the memory before the first character, with all that the score needs to know of the example."""

    @abstractmethod
    def read(self, memory: Any, character: str) -> Hashable:
        """Returns the memory after one more character. The number of memories must be finite for each example."""

    @abstractmethod
    def value(self, memory: Any) -> float:
        """Returns Phi, a finite number."""

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response, character by character."""
        memory = self.start(example)
        for character in response:
            memory = self.read(memory, character)
        return self.value(memory)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that keeps a memory for each lane."""
        return AutomatonScorer(self, num_lanes, tokenizer)


class MemoryTable:
    """The memories of an `AutomatonReward` as numbers, and what tokens do in each. It is filled in as they occur.

    Args:
        reward: The score.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        values: `(capacity,)` float64, Phi of each memory; the capacity is at least the number of memories.
    """

    def __init__(self, reward: AutomatonReward, tokenizer: Tokenizer) -> None:
        self._reward = reward
        self._pieces = tokenizer.pieces
        self.forget()

    def __len__(self) -> int:
        """Returns the number of known memories."""
        return len(self._keys)

    @property
    def entries(self) -> int:
        """The size of the table: memories times tokens."""
        return self._after.size

    def forget(self) -> None:
        """Empties the table."""
        self._keys: list[tuple[Hashable, bytes]] = []  # a memory, and the bytes of an unfinished character
        self._numbers: dict[tuple[Hashable, bytes], int] = {}
        self._after = np.full((16, len(self._pieces)), _UNKNOWN, dtype=np.int32)
        self.values = np.zeros(16)

    def start(self, example: Example) -> int:
        """Returns the number of the memory before the first character."""
        return self.number((self._reward.start(example), b""))

    def key(self, number: int) -> tuple[Hashable, bytes]:
        """Returns the memory of a number, and the bytes of an unfinished character."""
        return self._keys[number]

    def number(self, key: tuple[Hashable, bytes]) -> int:
        """Returns the number of a memory; a new one if it has none yet."""
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
            if number == len(self.values):
                self._after = np.concatenate([self._after, np.full_like(self._after, _UNKNOWN)])
                self.values = np.concatenate([self.values, np.zeros_like(self.values)])
            self.values[number] = self._reward.value(key[0])
        return number

    def push(self, numbers: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the memories after one token each.

        Args:
            numbers: `(k,)` the memories before.
            tokens: `(k,)` the tokens. Special tokens add no text and change nothing.

        Returns:
            `(k,)` the memories after.
        """
        after: NDArray[np.int64] = self._after[numbers, tokens].astype(np.int64)
        for row in np.flatnonzero(after == _UNKNOWN).tolist():
            number, token = int(numbers[row]), int(tokens[row])
            after[row] = self._read(number, token)
            self._after[number, token] = after[row]
        return after

    def _read(self, number: int, token: int) -> int:
        piece = self._pieces[token]
        if not piece:
            return number
        memory, unfinished = self._keys[number]
        data = unfinished + piece
        text, used = codecs.utf_8_decode(data, "replace", False)
        for character in text:
            memory = self._reward.read(memory, character)
        return self.number((memory, data[used:]))


class AutomatonScorer(Scorer):
    """Computes Phi of N responses by a table of memories.

    Args:
        reward: The score's definition.
        num_lanes: N.
        tokenizer: The tokenizer whose ids are pushed.

    Attributes:
        max_entries: The size of the table (of 4 bytes an entry) beyond which all memories are forgotten except those
            of the lanes.
    """

    max_entries = 1 << 24

    def __init__(self, reward: AutomatonReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._table = MemoryTable(reward, tokenizer)
        self._memory = np.full(num_lanes, _UNKNOWN, dtype=np.int64)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts new, empty responses."""
        if self._table.entries > self.max_entries:
            self._compact()
        self._memory[lanes] = [self._table.start(example) for example in examples]

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Appends one token to each of some lanes, and returns the values of their memories."""
        after = self._memory[lanes] = self._table.push(self._memory[lanes], tokens)
        values: NDArray[np.float64] = self._table.values[after]
        return values

    def _compact(self) -> None:
        """Forgets all memories except those of the lanes."""
        live = {number: self._table.key(number) for number in set(self._memory.tolist()) if number != _UNKNOWN}
        self._table.forget()
        new = {number: self._table.number(key) for number, key in live.items()}
        self._memory = np.array([new.get(number, _UNKNOWN) for number in self._memory.tolist()], dtype=np.int64)


class Match(AutomatonReward):
    """The share of the reference's characters that are right, position by position. The right end counts as one more.

    It is 1 only for the first reference. A response of another length misses the end and nothing else: writing on never
    loses a character that was right, so guessing is never worse than stopping early. An example needs a reference that
    is not empty.
    """

    name = "match"
    low, high = 0.0, 1.0

    def start(self, example: Example) -> Hashable:
        """Returns the text that is still to come, the number of right characters (none), and the reference's length."""
        if not example.references or not example.references[0]:
            raise ValueError(f"Expected an example with a reference to match, got {example!r}")
        return example.references[0], 0, len(example.references[0])

    def read(self, memory: tuple[str | None, int, int], character: str) -> Hashable:
        """Compares one character. A text that is still to come of None says that the response is too long."""
        rest, matched, length = memory
        if rest:
            return rest[1:], matched + (character == rest[0]), length
        return None, matched, length

    def value(self, memory: tuple[str | None, int, int]) -> float:
        """Returns the share of right characters, the end included."""
        rest, matched, length = memory
        return (matched + (rest == "")) / (length + 1)


__all__ = ["AutomatonReward", "AutomatonScorer", "Match", "MemoryTable"]
