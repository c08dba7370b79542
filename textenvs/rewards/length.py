"""Length: does a response have the wanted number of words?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.base import Reward, Scorer
from textenvs.rewards.words import TokenAutomaton, WordReader
from textenvs.tasks.base import Example
from textenvs.tokenizer import Tokenizer


class _WordCounter(WordReader):
    start = None
    width = 1

    def read(self, memory: object, word: str) -> tuple[None, tuple[float, ...]]:
        return None, (1.0,)


class Length(Reward):
    """1 at the wanted number of words, falling in a straight line to 0 at no words and at twice as many.

    Args:
        target: The wanted number of words (pieces of text between white space).

    Raises:
        ValueError: If `target` is less than 1.

    Cost: one dictionary look-up a token (amortised).
    """

    name = "length"
    low, high = 0.0, 1.0

    def __init__(self, target: int = 20) -> None:
        if isinstance(target, bool) or not isinstance(target, int) or target < 1:
            raise ValueError(f"Expected target to be at least 1 word, got {target!r}")
        self.target = target

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return max(0.0, 1.0 - abs(len(response.split()) - self.target) / self.target)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _LengthScorer(self, num_lanes, tokenizer)


class _LengthScorer(Scorer):
    def __init__(self, reward: Length, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._target = reward.target
        self._automaton = TokenAutomaton(_WordCounter(), num_lanes, tokenizer)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._automaton.reset(lanes)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        words = self._automaton.push(lanes, tokens)[:, 0]
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(words - self._target) / self._target)
        return phi
