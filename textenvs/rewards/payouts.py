"""Payouts: the times at which a score is paid. A score rates the text; a payout divides the score among the tokens.

| payout | reward at step t | over the episode |
|---|---|---|
| `"immediate"` | Phi_t - Phi_{t-1} | sums to Phi_T |
| `"sparse"` | Phi_T at the end, else 0 | sums to Phi_T |
| `{"shaped": {"gamma": g}}` | sparse + g Phi_t - Phi_{t-1}, Phi taken as 0 at the end | discounted by g: sparse's |
| `{"every": k}` | the immediate reward, saved up and paid at each k-th token | sums to Phi_T |
| `{"delayed": k}` | the immediate reward of k tokens ago; what is left, at the end | sums to Phi_T |
| `"word"` | the immediate reward, saved up and paid when white space ends a word | sums to Phi_T |
| `"sentence"` | the immediate reward, saved up and paid at . ! or ? | sums to Phi_T |

Phi_0 is 0, so the score of an empty response is paid with the first token.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count, check_number
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


class Word(Payout):
    """The immediate reward, saved up and paid when white space ends a word, and at the end.

    Most tokenizers write the space before a word, so that a word is paid with the token that begins the next one.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(num_lanes, tokenizer)
        texts = [piece.decode("utf-8", "replace") for piece in tokenizer.pieces]
        # White space in a token ends the word before it, and as its last character also the token's own word.
        self._ends_before = np.array([any(map(str.isspace, text)) for text in texts], dtype=np.bool_)
        self._ends_within = np.array([text[-1:].isspace() for text in texts], dtype=np.bool_)
        self._previous = np.zeros(num_lanes)

    def reset(self, lanes: Lanes) -> None:
        """Starts new episodes: the score before the first token is 0."""
        super().reset(lanes)
        self._previous[lanes] = 0.0

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays up to the score of the finished words."""
        finished = np.where(self._ends_before[tokens], self._previous[lanes], self._paid[lanes])
        self._previous[lanes] = phi
        return self._pay_up_to(lanes, np.where(terminated | self._ends_within[tokens], phi, finished))


class Sentence(Payout):
    """The immediate reward, saved up and paid at each token with a . ! or ? in it, and at the end.

    Args:
        num_lanes: The number of lanes.
        tokenizer: The tokenizer whose ids the lanes write.
    """

    def __init__(self, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(num_lanes, tokenizer)
        ends = [re.search(rb"[.!?]", piece) is not None for piece in tokenizer.pieces]
        self._ends_sentence = np.array(ends, dtype=np.bool_)

    def pay(self, lanes: Lanes, phi: Scores, terminated: Flags, tokens: Tokens) -> Scores:
        """Pays at the end of a sentence."""
        due = terminated | self._ends_sentence[tokens]
        return self._pay_up_to(lanes, np.where(due, phi, self._paid[lanes]))


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
