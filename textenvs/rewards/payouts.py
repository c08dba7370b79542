"""Payouts: the times at which a score is paid. A score rates the text; a payout divides the score among the tokens.

| payout | reward at step t | over the episode |
|---|---|---|
| `"immediate"` | Phi_t - Phi_{t-1} | sums to Phi_T |
| `"sparse"` | Phi_T at the end, else 0 | sums to Phi_T |
| `{"shaped": {"gamma": g}}` | sparse + g Phi_t - Phi_{t-1}, Phi taken as 0 at the end | discounted by g: sparse's |
| `{"every": k}` | the immediate reward, saved up and paid at each k-th token | sums to Phi_T |
| `{"delayed": k}` | the immediate reward of k tokens ago; what is left, at the end | sums to Phi_T |
| `"word"` | the immediate reward, saved up and paid when a space or the next character ends a word | sums to Phi_T |
| `"sentence"` | the immediate reward, saved up and paid at . ! ? and other scripts' ends of sentences | sums to Phi_T |

Phi_0 is 0, so the score of an empty response is paid with the first token.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count, check_number
from textenvs.rewards.incremental.scripts import has_lone_character
from textenvs.rewards.sentences import STOPS
from textenvs.tokenizer import Tokenizer

_MAX_TOKENS = 2**31 - 1
Lanes: TypeAlias = NDArray[np.intp]
Scores: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Tokens: TypeAlias = NDArray[np.int64]

PAYOUTS = ("immediate", "sparse", "word", "sentence", "every", "delayed", "shaped")
"""The names that `make_payout` knows."""


class Payout(ABC):
    """Turns the scores of N lanes into rewards.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.

    Attributes:
        every_step: If True, it needs Phi at every step; if False, only at the end of an episode.
        at_once: If True, a token is rewarded at once for what it adds to Phi; if False, a later token may be.
        gamma: The discount that it was made for; None if it suits any.
    """

    every_step: ClassVar[bool] = True
    at_once: ClassVar[bool] = False
    gamma: float | None = None

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._paid = np.zeros(num_lanes)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes in lanes `(k,)`."""
        self._paid[lanes] = 0.0

    @abstractmethod
    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Computes the rewards of one step.

        Args:
            lanes: `(k,)` the lanes that moved.
            phi: `(k,)` the score of each after its token. For a payout that is not `every_step`, it may be anything
                before the end of an episode.
            terminated: `(k,)` True where the token ended its episode.
            tokens: `(k,)` the tokens.

        Returns:
            `(k,)` rewards.
        """

    def _pay_up_to(self, lanes: Lanes, target: Scores) -> Scores:
        """Returns what is missing of `target` in the rewards so far."""
        rewards: Scores = target - self._paid[lanes]
        self._paid[lanes] = target
        return rewards


class Sparse(Payout):
    """The whole score at the end of an episode."""

    every_step = False

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays the score of episodes that ended."""
        return np.where(terminated, phi, 0.0)


class Immediate(Payout):
    """The change of the score at each token."""

    at_once = True

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays the change of the score."""
        return self._pay_up_to(lanes, phi)


class Shaped(Payout):
    """Sparse, plus potential-based shaping by the score itself. The optimal policies are those of the sparse payout.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
        gamma: The agent's discount. At 1 this is the immediate payout.

    Source: Ng, Harada & Russell (1999), Policy invariance under reward transformations, Theorem 1.
    """

    at_once = True

    def __init__(self, num_lanes: int, tokenizer: Tokenizer, gamma: float) -> None:
        super().__init__(num_lanes, tokenizer)
        self.gamma = gamma

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays the discounted score less the score before the token."""
        assert self.gamma is not None  # the base class has None
        before = self._paid[lanes]
        self._paid[lanes] = phi
        # At the end, the sparse reward Phi_T is paid, and the potential of the end is 0.
        return np.where(terminated, phi, self.gamma * phi) - before


class Every(Payout):
    """The immediate reward, saved up and paid at each k-th token and at the end.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
        every: k, in tokens.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer, every: int) -> None:
        super().__init__(num_lanes, tokenizer)
        self._every = every
        self._step = np.zeros(num_lanes, dtype=np.int64)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes: counts tokens from 0."""
        super().reset(lanes)
        self._step[lanes] = 0

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays at each k-th token."""
        self._step[lanes] += 1
        due = terminated | (self._step[lanes] % self._every == 0)
        return self._pay_up_to(lanes, np.where(due, phi, self._paid[lanes]))


class Delayed(Payout):
    """The immediate reward, k tokens late. The rest is paid at the end.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
        delayed: k, in tokens.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer, delayed: int) -> None:
        super().__init__(num_lanes, tokenizer)
        self._delay = delayed
        # Phi of the last k steps, as a ring buffer. It grows with the episodes: they may be far shorter than k.
        self._history = np.zeros((num_lanes, min(delayed, 16)))
        self._step = np.zeros(num_lanes, dtype=np.int64)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes: Phi of the last k steps is 0."""
        super().reset(lanes)
        self._step[lanes] = 0
        self._history[lanes] = 0.0

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays up to the score of k tokens ago."""
        slot = self._step[lanes] % self._delay
        if slot.max(initial=0) >= self._history.shape[1]:
            added = min(self._delay - self._history.shape[1], self._history.shape[1])
            self._history = np.pad(self._history, ((0, 0), (0, added)))
        delayed = self._history[lanes, slot]
        self._history[lanes, slot] = phi
        self._step[lanes] += 1
        return self._pay_up_to(lanes, np.where(terminated, phi, delayed))


class _SplitCharacters:
    """Puts together the characters that are spread over several tokens, as byte-level tokenizers write them.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._is_part = np.array([not _is_complete(piece) for piece in tokenizer.pieces], dtype=np.bool_)
        self._any_begun = False
        self._is_begun = np.zeros(num_lanes, dtype=np.bool_)
        self._begun: dict[int, bytes] = {}

    def reset(self, lanes: Lanes) -> None:
        """Starts new texts in lanes `(k,)`."""
        self._is_begun[lanes] = False

    def push(self, lanes: Lanes, tokens: Tokens) -> list[tuple[int, str]]:
        """Appends one token to each of some lanes.

        Returns:
            The rows whose token is not whole characters by itself, and the text that each completes, which may be "".
        """
        completed: list[tuple[int, str]] = []
        is_part = self._is_part[tokens]
        if not (self._any_begun or is_part.any()):
            return completed
        for row in np.flatnonzero(is_part | self._is_begun[lanes]).tolist():
            lane = int(lanes[row])
            begun = self._begun.get(lane, b"") if self._is_begun[lane] else b""
            data = begun + self._pieces[tokens[row]]
            text, used = codecs.utf_8_decode(data, "replace", False)
            self._begun[lane] = data[used:]
            self._is_begun[lane] = used < len(data)
            completed.append((row, text))
        self._any_begun = bool(self._is_begun.any())
        return completed


def _is_complete(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _begins_word(text: str) -> bool:
    return any(map(str.isspace, text)) or has_lone_character(text)


class Word(Payout):
    """The immediate reward, saved up and paid when white space ends a word, and at the end.

    Most tokenizers write the space before a word, so that a word is paid with the token that begins the next one. In a
    script without spaces (Chinese, Japanese, Thai) every character is a word, and is paid with the token in which the
    next one begins.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(num_lanes, tokenizer)
        texts = [piece.decode("utf-8", "replace") for piece in tokenizer.pieces]
        # White space in a token ends the word before it, and as its last character also the token's own word.
        self._ends_before = np.array([_begins_word(text) for text in texts], dtype=np.bool_)
        self._ends_within = np.array([text[-1:].isspace() for text in texts], dtype=np.bool_)
        self._previous = np.zeros(num_lanes)
        self._split = _SplitCharacters(num_lanes, tokenizer)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes: the score before the first token is 0."""
        super().reset(lanes)
        self._previous[lanes] = 0.0
        self._split.reset(lanes)

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays up to the score of the finished words."""
        ends_before, ends_within = self._ends_before[tokens], self._ends_within[tokens]
        for row, text in self._split.push(lanes, tokens):
            ends_before[row], ends_within[row] = _begins_word(text), text[-1:].isspace()
        finished = np.where(ends_before, self._previous[lanes], self._paid[lanes])
        self._previous[lanes] = phi
        return self._pay_up_to(lanes, np.where(terminated | ends_within, phi, finished))


class Sentence(Payout):
    """The immediate reward, saved up and paid at each token with the end of a sentence in it, and at the end.

    A sentence ends at . ! or ?, and at the signs that other scripts have for them: the full-width forms, the danda of
    Devanagari, and those of Arabic, Armenian, Ethiopic, Khmer and Burmese.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(num_lanes, tokenizer)
        ends = [_ends_sentence(piece.decode("utf-8", "replace")) for piece in tokenizer.pieces]
        self._ends_sentence = np.array(ends, dtype=np.bool_)
        self._split = _SplitCharacters(num_lanes, tokenizer)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes, without a begun character."""
        super().reset(lanes)
        self._split.reset(lanes)

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays at the end of a sentence."""
        ends = self._ends_sentence[tokens]
        for row, text in self._split.push(lanes, tokens):
            ends[row] = _ends_sentence(text)
        return self._pay_up_to(lanes, np.where(terminated | ends, phi, self._paid[lanes]))


def _ends_sentence(text: str) -> bool:
    return not STOPS.isdisjoint(text)


def make_payout(payout: Any, num_lanes: int, tokenizer: Tokenizer) -> Payout:
    """Makes a payout of its name or dict.

    Args:
        payout: `"immediate"`, `"sparse"`, `"word"`, `"sentence"`, `{"every": k}`, `{"delayed": k}` or
            `{"shaped": {"gamma": g}}`.
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.

    Returns:
        The payout.

    Raises:
        ValueError: If there is no such payout, or its number is out of range.
        TypeError: If it is neither a name nor a dict, its number of tokens is not a whole number, or its gamma is not a
            number.
    """
    plain: dict[str, type[Payout]] = {"immediate": Immediate, "sparse": Sparse, "word": Word, "sentence": Sentence}
    expected = "'immediate', 'sparse', 'word', 'sentence', {'every': k}, {'delayed': k} or {'shaped': {'gamma': g}}"
    if isinstance(payout, str):
        if payout not in plain:
            raise ValueError(f"Expected payout to be {expected}, got {payout!r}")
        return plain[payout](num_lanes, tokenizer)
    if not isinstance(payout, dict):
        raise TypeError(f"Expected payout to be {expected}, got {payout!r} of type {type(payout).__name__}")
    if len(payout) == 1:
        name, argument = next(iter(payout.items()))
        if name in ("every", "delayed"):
            tokens = check_count(f"the number of tokens of payout {name!r}", argument, most=_MAX_TOKENS)
            return Every(num_lanes, tokenizer, tokens) if name == "every" else Delayed(num_lanes, tokenizer, tokens)
        if name == "shaped":
            if not isinstance(argument, dict) or set(argument) != {"gamma"}:
                raise ValueError(f"Expected payout 'shaped' as {{'gamma': number in [0, 1]}}, got {argument!r}")
            gamma = check_number("the gamma of payout 'shaped'", argument["gamma"], low=0, high=1)
            return Shaped(num_lanes, tokenizer, gamma)
    raise ValueError(f"Expected payout to be {expected}, got {payout!r}")
