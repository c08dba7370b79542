"""Scores that read a response character by character, with a finite memory.

    start(example)            the memory before the first character
    read(memory, character)   the memory after one more
    value(memory)             Phi

Three functions, and the rest follows: the score of a whole text, a push that is one look-up in a table for all lanes at
once, and, since an episode is then a small Markov decision process, its exact random and optimal scores
(`textenvs.exact`). The table holds the memories that occurred, and what each token did in each of them.
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

_MOST_ENTRIES = 1 << 24  # of a scorer's table (64 MB); beyond, it forgets all but the memories that lanes are in


_UNKNOWN = -1


class AutomatonReward(Reward):
    """A score that is a function of a finite memory of the characters so far. Memories are hashable.

    Cost: one look-up in a table a token; a token that is new to a memory is read once, and remembered.
    """

    @abstractmethod
    def start(self, example: Example) -> Hashable:
        """The memory before the first character, with all that the score needs to know of the example."""

    @abstractmethod
    def read(self, memory: Any, character: str) -> Hashable:
        """The memory after one more character. Memories must be bounded: what cannot count any more is forgotten."""

    @abstractmethod
    def value(self, memory: Any) -> float:
        """Phi, a finite number."""

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        memory = self.start(example)
        for character in response:
            memory = self.read(memory, character)
        return self.value(memory)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _AutomatonScorer(self, num_lanes, tokenizer)


class MemoryTable:
    """The memories of a `AutomatonReward` as numbers, and what every token does in each, found as they occur.

    Args:
        reward: The score.
        tokenizer: Whose ids are pushed.

    Attributes:
        values: `(memories,)` float64, Phi of each; longer than the number of memories so far.
    """

    def __init__(self, reward: AutomatonReward, tokenizer: Tokenizer) -> None:
        self._reward = reward
        self._pieces = tokenizer.pieces
        self.forget()

    def __len__(self) -> int:
        """How many memories are known."""
        return len(self._keys)

    @property
    def entries(self) -> int:
        """How large the table is: memories, times tokens."""
        return self._after.size

    def forget(self) -> None:
        """Start anew, without a memory."""
        self._keys: list[tuple[Hashable, bytes]] = []  # what was read, and the bytes of an unfinished character
        self._numbers: dict[tuple[Hashable, bytes], int] = {}
        self._after = np.full((16, len(self._pieces)), _UNKNOWN, dtype=np.int32)
        self.values = np.zeros(16)

    def start(self, example: Example) -> int:
        """The number of the memory before the first character."""
        return self.number((self._reward.start(example), b""))

    def key(self, number: int) -> tuple[Hashable, bytes]:
        """What a number stands for: a memory, and the bytes of an unfinished character."""
        return self._keys[number]

    def number(self, key: tuple[Hashable, bytes]) -> int:
        """The number of a memory; a new one where it has none yet."""
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
            if number == len(self.values):
                self._after = np.concatenate([self._after, np.full_like(self._after, _UNKNOWN)])
                self.values = np.concatenate([self.values, np.zeros_like(self.values)])
            self.values[number] = self._reward.value(key[0])
        return number

    def push(self, numbers: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The memories after one token each.

        Args:
            numbers: `(k,)` the memories before.
            tokens: `(k,)` the tokens. Special tokens add no text, and change nothing.

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


class _AutomatonScorer(Scorer):
    def __init__(self, reward: AutomatonReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._table = MemoryTable(reward, tokenizer)
        self._memory = np.full(num_lanes, _UNKNOWN, dtype=np.int64)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        if self._table.entries > _MOST_ENTRIES:
            self._compact()
        self._memory[lanes] = [self._table.start(example) for example in examples]

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        after = self._memory[lanes] = self._table.push(self._memory[lanes], tokens)
        values: NDArray[np.float64] = self._table.values[after]
        return values

    def _compact(self) -> None:
        """Forget all but the memories that lanes are in, so that a long run's size stays bounded."""
        live = {number: self._table.key(number) for number in set(self._memory.tolist()) if number != _UNKNOWN}
        self._table.forget()
        new = {number: self._table.number(key) for number, key in live.items()}
        self._memory = np.array([new.get(number, _UNKNOWN) for number in self._memory.tolist()], dtype=np.int64)


class Match(AutomatonReward):
    """The share of the reference's characters that stand at their place, the right end counted as one more character.

    1 exactly for the first reference. A response that is shorter or longer has missed the end, and no more than that:
    going on never costs what was earned before, and so stopping early is never better than guessing. An example needs a
    reference that is not empty.
    """

    name = "match"
    low, high = 0.0, 1.0

    def start(self, example: Example) -> Hashable:
        """The text that is still to come, how many characters matched, and how many there are in all."""
        if not example.references or not example.references[0]:
            raise ValueError(f"Expected an example with a reference to match, got {example!r}")
        return example.references[0], 0, len(example.references[0])

    def read(self, memory: tuple[str | None, int, int], character: str) -> Hashable:
        """Remembers what is still to come; None: it was too long."""
        rest, matched, length = memory
        if rest:
            return rest[1:], matched + (character == rest[0]), length
        return None, matched, length

    def value(self, memory: tuple[str | None, int, int]) -> float:
        """See `AutomatonReward.value`."""
        rest, matched, length = memory
        return (matched + (rest == "")) / (length + 1)


__all__ = ["AutomatonReward", "Match", "MemoryTable"]
