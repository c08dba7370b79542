"""Action masks and stop sequences: the tokens that are allowed next, and those that end an episode.

`ActionMasks` follows one language (`textenvs.grammars`) a lane and says which tokens may come next; `Stops` finds the
lanes that have just written a stop sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.grammars import Language
from textenvs.tokenizer import Tokenizer

MAX_MASK_BYTES = 1 << 26
"""The most memory that the masks of all states met so far may take before they are forgotten."""


class ActionMasks:
    """The tokens that may come next, in N lanes.

    A token may come if the text with it still begins an allowed text, and there are tokens to write the rest: "a"
    begins both "ab" and "ax", and yet is a dead end if "ab" is a token and neither "b" nor "x" is. EOS may come once
    the text is an allowed one, other special tokens never. Where nothing else may come (after a token that was not
    allowed, say), EOS may.

    Args:
        num_lanes: N.
        tokenizer: The tokenizer, whose ids are masked.
        max_bytes: The memory that masks may take. Beyond it, those of states that no lane is in are forgotten.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer, max_bytes: int = MAX_MASK_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces = tokenizer.pieces
        self._vocab_size = tokenizer.vocab_size
        self._eos = tokenizer.eos_token_id
        self._by_first_byte: dict[int, list[tuple[int, bytes]]] = {}
        for token, piece in enumerate(tokenizer.pieces):
            if piece:
                self._by_first_byte.setdefault(piece[0], []).append((token, piece[1:]))
        # With a token for each byte, whatever begins an allowed text can be finished.
        self._spells_all = len({piece for piece in tokenizer.pieces if len(piece) == 1}) == 256
        self._state = np.zeros(num_lanes, dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self._keys: list[tuple[Language | None, Any]] = []
        self._ids: dict[tuple[Language | None, Any], int] = {}
        self._edges: dict[int, int] = {}
        self._finishable: dict[tuple[Language, Any], bool] = {}
        self._legal = np.zeros((16, self._vocab_size), dtype=np.int8)

    def reset(self, lanes: NDArray[np.intp], languages: Sequence[Language | None]) -> None:
        """Starts new, empty texts.

        Args:
            lanes: `(k,)` the lanes.
            languages: The texts that each may write; None allows everything.
        """
        if len(self._keys) * self._vocab_size > self._max_bytes:
            live = [self._keys[state] for state in self._state.tolist()]
            self._forget()
            self._state[:] = [self._id(*key) for key in live]
        self._state[lanes] = [
            self._id(language, None if language is None else language.start) for language in languages
        ]

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Appends one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` the token that each writes. Special tokens add no text.
        """
        keys = (self._state[lanes] * self._vocab_size + tokens).tolist()
        self._state[lanes] = [self._edges[key] if key in self._edges else self._discover(key) for key in keys]

    def legal(self, lanes: NDArray[np.intp]) -> NDArray[np.int8]:
        """Returns the masks of some lanes `(k,)`: `(k, vocab_size)` int8, 1 where a token may come next."""
        return self._legal[self._state[lanes]]

    def _discover(self, key: int) -> int:
        language, state = self._keys[key // self._vocab_size]
        if language is not None:
            state = _read(language, state, self._pieces[key % self._vocab_size])
        self._edges[key] = self._id(language, state)
        return self._edges[key]

    def _id(self, language: Language | None, state: Any) -> int:
        """Returns the number of a state. Its mask is worked out when it is first met."""
        key = (language, state)
        if key not in self._ids:
            number = self._ids[key] = len(self._keys)
            self._keys.append(key)
            if number == len(self._legal):
                self._legal = np.concatenate([self._legal, np.zeros_like(self._legal)])
            row = self._legal[number]
            if language is None:
                row[:] = 1
            elif state is not None:
                for token, after in self._moves(language, state):
                    row[token] = self._can_finish(language, after)
                row[self._eos] = language.accepts(state)
            if not row.any():
                row[self._eos] = 1
        return self._ids[key]

    def _moves(self, language: Language, state: Any) -> Iterator[tuple[int, Any]]:
        """Yields the tokens after which the text still begins an allowed one, each with the state after it."""
        for byte, tokens in self._by_first_byte.items():
            begun = language.step(state, byte)
            if begun is not None:
                for token, rest in tokens:
                    after = _read(language, begun, rest)
                    if after is not None:
                        yield token, after

    def _can_finish(self, language: Language, state: Any) -> bool:
        """Returns True if tokens lead from a state to an allowed text."""
        known = self._finishable
        if self._spells_all:
            return True
        if (language, state) in known:
            return known[language, state]
        # A search over states. A way out settles every state on its path; without one, all that were reached are dead.
        came_from: dict[Any, Any] = {state: None}
        waiting = [state]
        while waiting:
            reached = waiting.pop()
            if language.accepts(reached) or known.get((language, reached), False):
                while reached is not None:
                    known[language, reached] = True
                    reached = came_from[reached]
                return True
            for _, after in self._moves(language, reached):
                if after not in came_from and known.get((language, after), True):
                    came_from[after] = reached
                    waiting.append(after)
        known.update(((language, dead), False) for dead in came_from)
        return False


def _read(language: Language, state: Any, data: bytes) -> Any:
    for byte in data:
        if state is None:
            return None
        state = language.step(state, byte)
    return state


def split_stops(
    stop: Sequence[str] | None, tokenizer: Tokenizer, max_new_tokens: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Splits what a user passes as `stop` into special tokens and texts.

    Args:
        stop: Names of special tokens ("<|im_end|>"), which print nothing, and texts; or None.
        tokenizer: The tokenizer, whose ids are written.
        max_new_tokens: The budget of an episode.

    Returns:
        The ids of the special tokens, and the texts.

    Raises:
        ValueError: If there is no stop, or one is empty, or no response could ever have it.
        TypeError: If one is not a string.
    """
    if stop is None:
        return (), ()
    _check_stops(stop)
    special_token_id = getattr(tokenizer, "special_token_id", lambda text: None)
    named = {text: special_token_id(text) for text in stop}
    texts = tuple(text for text in named if named[text] is None)
    for text in texts:
        _check_can_fire(text, tokenizer, max_new_tokens)
    return tuple(token for token in named.values() if token is not None), texts


def _check_stops(texts: Any) -> None:
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
        raise TypeError(f"Expected stop to be a list of texts, got {texts!r}")
    if not texts or not all(texts):
        raise ValueError(f"Expected stop to be a list of texts that are not empty, got {texts!r}")


def _check_can_fire(text: str, tokenizer: Tokenizer, max_new_tokens: int) -> None:
    """Raises if no response can have a stop sequence in it."""
    special = next((name for name in getattr(tokenizer, "special_names", ()) if name in text), None)
    if special is not None:
        raise ValueError(
            f"Expected stop to have texts, or special tokens alone, got {text!r}, which can never come: the special "
            f"token {special!r} prints nothing. Stop at it: stop={special!r}"
        )
    fewest = _fewest_tokens(text.encode(), tokenizer.pieces)
    if fewest is None or fewest > max_new_tokens:
        why = "no tokens spell it" if fewest is None else f"it takes {fewest} tokens of max_new_tokens={max_new_tokens}"
        raise ValueError(f"Expected stop to have texts that a response can have, got {text!r}: {why}")


def _fewest_tokens(text: bytes, pieces: Sequence[bytes]) -> int | None:
    """Returns the smallest number of tokens in a row that have a text in them, or None if there are none."""
    if any(text in piece for piece in pieces):
        return 1
    size = len(text)
    # The first token may begin before the text, and the last may end behind it. fewest[n] is the number of tokens that
    # write its first n bytes, and nothing behind them.
    fewest: dict[int, int] = {end: 1 for end in range(1, size) if any(piece.endswith(text[:end]) for piece in pieces)}
    whole = set(pieces)
    best: int | None = None
    for begin in range(1, size):
        if begin not in fewest:
            continue
        spent = fewest[begin] + 1
        for end in range(begin + 1, size):
            if text[begin:end] in whole:
                fewest[end] = min(spent, fewest.get(end, spent))
        if (best is None or spent < best) and any(piece.startswith(text[begin:]) for piece in pieces):
            best = spent
    return best


class Stops:
    """A watch over N lanes for stop sequences.

    Args:
        texts: The stop sequences.
        num_lanes: N.
        tokenizer: The tokenizer, whose ids are written.

    Raises:
        ValueError: If there is no stop sequence, or one is empty.
        TypeError: If one is not a string.
    """

    def __init__(self, texts: Sequence[str], num_lanes: int, tokenizer: Tokenizer) -> None:
        _check_stops(texts)
        self._stops = tuple(text.encode() for text in texts)
        self._longest = max(map(len, self._stops))
        self._pieces = tokenizer.pieces
        first = {stop[0] for stop in self._stops}
        self._may_begin = np.array([not first.isdisjoint(piece) for piece in tokenizer.pieces])
        self._begun = np.zeros(num_lanes, dtype=np.bool_)
        self._tails = [b""] * num_lanes  # the end of each text that may turn out to begin a stop sequence

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Starts new, empty texts in some lanes `(k,)`."""
        self._begun[lanes] = False

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Appends one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` the token that each writes. Special tokens add no text.

        Returns:
            `(k,)` bool, True where this token completed a stop sequence.
        """
        completed = np.zeros(len(lanes), dtype=np.bool_)
        for row in np.flatnonzero(self._begun[lanes] | self._may_begin[tokens]).tolist():
            lane = int(lanes[row])
            tail = self._tails[lane] if self._begun[lane] else b""
            data = tail + self._pieces[tokens[row]]
            # A tail may hold a whole stop sequence, which an earlier token completed: only one that ends behind the
            # tail is completed by this token.
            completed[row] = any(data.find(s, max(0, len(tail) + 1 - len(s))) >= 0 for s in self._stops)
            sizes = range(min(len(data), self._longest - 1), 0, -1)
            tails = (data[-size:] for size in sizes)
            self._tails[lane] = next((tail for tail in tails if any(s.startswith(tail) for s in self._stops)), b"")
            self._begun[lane] = bool(self._tails[lane])
        return completed
