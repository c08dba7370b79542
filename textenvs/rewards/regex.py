"""`regex_progress`: how far a response has come in a regular expression."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.grammars import Regex
from textenvs.rewards.base import RewardError
from textenvs.rewards.incremental.splitters import Chunks
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.keywords import given


@lru_cache(maxsize=1 << 10)
def _regex(pattern: str) -> tuple[Regex, float]:
    regex = Regex(pattern)
    fewest = regex.remaining(regex.start)
    if math.isinf(fewest):
        raise ValueError(f"Expected a regular expression that matches something, got {pattern!r}")
    return regex, fewest


class RegexProgress(UnitSums):
    """How far a text has come on the way to a text that a regular expression matches as a whole.

    With d the number of bytes that the shortest way from here to a matching text still takes, and D what it takes from
    nothing, the score is 1 - d / D, and not below 0. So it is 1 exactly at a match, and 0 where no text that begins so
    can match. A detour that the expression allows costs nothing but the way back.

    An example names its own in `metadata["pattern"]`.

    Args:
        pattern: The same for all examples, as `textenvs.grammars.Regex` reads it (no look-around, no back-references).
            None takes each example's own.

    Raises:
        ValueError: If it is no such expression, or nothing matches it.

    Cost: two dictionary look-ups a token, once a state has seen it.
    """

    name = "regex"
    low, high = 0.0, 1.0
    splitter = Chunks()

    def __init__(self, pattern: str | None = None) -> None:
        if pattern is not None:
            if not isinstance(pattern, str):
                raise ValueError(f"Expected pattern to be a regular expression, got {pattern!r}")
            _regex(pattern)
        self.pattern = pattern

    def _pattern(self, example: Example) -> str:
        return str(given(self, self.pattern, example, "pattern"))

    def start(self, example: Example) -> tuple[str, Any]:
        """The pattern, and its state: None where nothing can match."""
        pattern = self._pattern(example)
        try:
            return pattern, _regex(pattern)[0].start
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata['pattern']: {error}", example, None) from error

    def read(self, memory: tuple[str, Any], unit: str) -> tuple[tuple[str, Any], tuple[float]]:
        """Some characters: by how much the way to a match grows."""
        pattern, state = memory
        regex, fewest = _regex(pattern)
        before = _remaining(regex, fewest, state)
        for byte in unit.encode():
            if state is not None:
                state = regex.step(state, byte)
        return (pattern, state), (_remaining(regex, fewest, state) - before,)

    def features(self, example: Example) -> tuple[float]:
        """The shortest way from nothing to a match, in bytes."""
        return (_regex(self._pattern(example))[1],)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        way = features[:, 0]
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - (way + sums[:, 0]) / np.maximum(way, 1.0))
        return phi


def _remaining(regex: Regex, fewest: float, state: Any) -> float:
    """The way from a state, at most so far that it scores 0."""
    return min(max(fewest, 1.0), math.inf if state is None else regex.remaining(state))
