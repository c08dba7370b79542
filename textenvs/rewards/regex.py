"""`regex`: the progress of a response towards a text that matches a regular expression."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.grammars import MAX_REGEX_SIZE, Regex
from textenvs.rewards.base import RewardError
from textenvs.rewards.incremental.splitters import Chunks
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.keywords import argument_or_metadata


@lru_cache(maxsize=1 << 10)
def _regex(pattern: str, max_size: int) -> tuple[Regex, float]:
    regex = Regex(pattern, max_size)
    fewest = regex.remaining(regex.start)
    if math.isinf(fewest):
        raise ValueError(f"Expected a regular expression that matches something, got {pattern!r}")
    return regex, fewest


class RegexProgress(UnitSums):
    """The progress of a text towards a text that a regular expression matches as a whole.

    With d the least number of bytes that are missing to a match, and D that number for an empty text, the score is
    1 - d / D, and at least 0. So it is 1 exactly at a match, and 0 where no text with this beginning can match. A
    detour that the expression allows costs as many bytes as it takes to come back.

    An example names its own expression in `metadata["pattern"]`.

    Args:
        pattern: The expression of all examples, in the syntax of `textenvs.grammars.Regex` (no look-around, no
            back-references). None takes each example's own.
        max_size: The largest size of an expression, as `textenvs.grammars.Regex` takes it.

    Raises:
        ValueError: If it is not such an expression, is larger than `max_size`, or matches nothing.

    Cost: two dictionary look-ups a token, once the token has occurred in a state.
    """

    name = "regex"
    low, high = 0.0, 1.0
    splitter = Chunks()

    def __init__(self, pattern: str | None = None, max_size: int = MAX_REGEX_SIZE) -> None:
        self.max_size = check_count("max_size", max_size)
        if pattern is not None:
            if not isinstance(pattern, str):
                raise ValueError(f"Expected pattern to be a regular expression, got {pattern!r}")
            _regex(pattern, max_size)
        self.pattern = pattern

    def _pattern(self, example: Example) -> str:
        return str(argument_or_metadata(self, self.pattern, example, "pattern"))

    def start(self, example: Example) -> tuple[str, Any]:
        """Returns the pattern and its start state. A later state of None says that nothing can match any more."""
        pattern = self._pattern(example)
        try:
            return pattern, _regex(pattern, self.max_size)[0].start
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata['pattern']: {error}", example, None) from error

    def read(self, memory: tuple[str, Any], unit: str) -> tuple[tuple[str, Any], tuple[float]]:
        """Reads some characters, and returns the change in the number of missing bytes."""
        pattern, state = memory
        regex, fewest = _regex(pattern, self.max_size)
        before = _remaining(regex, fewest, state)
        for byte in unit.encode():
            if state is not None:
                state = regex.step(state, byte)
        return (pattern, state), (_remaining(regex, fewest, state) - before,)

    def size(self, memory: tuple[str, Any]) -> int:
        """Returns the number of items in the terms of a state: up to `max_size` and more."""
        _, state = memory
        return 4 if state is None else 4 + sum(4 + len(term) for term in state)

    def features(self, example: Example) -> tuple[float]:
        """Returns the number of bytes that an empty text misses."""
        return (_regex(self._pattern(example), self.max_size)[1],)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the missing bytes by those of an empty text."""
        at_start = features[:, 0]
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - (at_start + sums[:, 0]) / np.maximum(at_start, 1.0))
        return phi


def _remaining(regex: Regex, fewest: float, state: Any) -> float:
    """Returns the number of bytes that a state misses, cut at the number that scores 0."""
    return min(max(fewest, 1.0), math.inf if state is None else regex.remaining(state))
