"""Scores that read a response word by word, for many lanes at once.

Most such scores are a sum over finished words plus the unfinished last one, and what a token does to them depends on
a small state (the last few words, the letters of the unfinished one). `TokenAutomaton` discovers those states as
they occur and remembers what every token did in them, so that a push is one dictionary look-up a lane.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from textenvs.tokenizer import Tokenizer

# Beyond either, an automaton starts anew: about 150 MB of edges, or as much of endless words without white space.
_MOST_EDGES = 1 << 19
_MOST_CHARACTERS = 1 << 27


class WordReader(ABC):
    """How a score reads words: what its memory is, and what a word adds to its sums."""

    start: Hashable
    """The memory before the first word."""

    width: int
    """How many sums the score keeps."""

    @abstractmethod
    def read(self, memory: Hashable, word: str) -> tuple[Hashable, tuple[float, ...]]:
        """Read one word.

        Args:
            memory: What the reader remembers of the words before; must be hashable and come in few kinds.
            word: The word, without white space around it.

        Returns:
            The memory after the word, and `width` numbers to add to the sums.
        """

    def read_text(self, text: str) -> NDArray[np.float64]:
        """The sums over a whole text, its last word taken as finished.

        Args:
            text: Any text.

        Returns:
            `(width,)` sums.
        """
        memory, sums = self.start, np.zeros(self.width)
        for word in text.split():
            memory, added = self.read(memory, word)
            sums += added
        return sums


class TokenAutomaton:
    """A `WordReader` over tokens, for N lanes: finished words are committed, the last one is read provisionally.

    Args:
        reader: What reads the words.
        num_lanes: How many texts grow side by side.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reader: WordReader, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._reader = reader
        self._pieces = tokenizer.pieces
        self._vocab_size = tokenizer.vocab_size
        self._start = (reader.start, "", b"")  # memory, unfinished word, incomplete UTF-8
        self._lane_state = np.zeros(num_lanes, dtype=np.int64)
        self._committed = np.zeros((num_lanes, reader.width))
        self._forget()

    def _forget(self) -> None:
        self._states: list[tuple[Hashable, str, bytes]] = [self._start]
        self._state_ids: dict[tuple[Hashable, str, bytes], int] = {self._start: 0}
        self._edges: dict[int, int] = {}
        self._characters = 0
        self._next_state = np.zeros(1024, dtype=np.int64)
        self._commits = np.zeros((1024, self._reader.width))
        self._pending = np.zeros((1024, self._reader.width))

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Start new, empty texts in these lanes `(k,)`."""
        self._lane_state[lanes] = 0
        self._committed[lanes] = 0.0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Append one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` their tokens.

        Returns:
            `(k, width)` the sums over each text so far, its last word taken as finished.
        """
        keys = (self._lane_state[lanes] * self._vocab_size + tokens).tolist()
        get = self._edges.get
        found = [get(key) for key in keys]
        if None in found:
            if len(self._edges) > _MOST_EDGES or self._characters > _MOST_CHARACTERS:
                self._compact()
                return self.push(lanes, tokens)
            found = [self._edges[key] if key in self._edges else self._discover(key) for key in keys]
        edges = np.array(found, dtype=np.int64)
        self._lane_state[lanes] = self._next_state[edges]
        committed = self._committed[lanes] + self._commits[edges]
        self._committed[lanes] = committed
        sums: NDArray[np.float64] = committed + self._pending[edges]
        return sums

    def _discover(self, key: int) -> int:
        """What one token does in one state, worked out once."""
        state, token = divmod(key, self._vocab_size)
        memory, unfinished, incomplete = self._states[state]
        data = incomplete + self._pieces[token]
        text, used = codecs.utf_8_decode(data, "replace", False)
        text, rest = unfinished + text, data[used:]
        words = text.split()
        last = words.pop() if words and not text[-1].isspace() else ""
        commits = np.zeros(self._reader.width)
        for word in words:
            memory, added = self._reader.read(memory, word)
            commits += added
        target = (memory, last, rest)
        target_id = self._state_ids.setdefault(target, len(self._states))
        if target_id == len(self._states):
            self._states.append(target)
            self._characters += len(last)
        edge = len(self._edges)
        if edge == len(self._next_state):
            self._next_state = np.concatenate([self._next_state, np.zeros_like(self._next_state)])
            self._commits = np.concatenate([self._commits, np.zeros_like(self._commits)])
            self._pending = np.concatenate([self._pending, np.zeros_like(self._pending)])
        self._next_state[edge] = target_id
        self._commits[edge] = commits
        self._pending[edge] = self._reader.read(memory, last)[1] if last else 0.0
        self._edges[key] = edge
        return edge

    def _compact(self) -> None:
        """Forget all but the states that lanes are in, so that a long run's memory stays bounded."""
        live = [self._states[state] for state in self._lane_state.tolist()]
        self._forget()
        for lane, state in enumerate(live):
            state_id = self._state_ids.setdefault(state, len(self._states))
            if state_id == len(self._states):
                self._states.append(state)
            self._lane_state[lane] = state_id
