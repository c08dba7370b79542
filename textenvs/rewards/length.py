"""Length: does a response have the wanted number of words?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.units import UnitSums, Words


class _AnyWords(Words):
    """Words of which only the number matters: all beginnings are alike."""

    def shorten(self, rest: str) -> str:
        return "x" if rest else ""


class Length(UnitSums):
    """1 at the wanted number of words, falling in a straight line to 0 at no words and at twice as many.

    Args:
        target: The wanted number of words (pieces of text between white space).

    Raises:
        ValueError: If `target` is less than 1.

    Cost: one dictionary look-up a token (amortised).
    """

    name = "length"
    low, high = 0.0, 1.0
    splitter = _AnyWords()

    def __init__(self, target: int = 20) -> None:
        if isinstance(target, bool) or not isinstance(target, int) or target < 1:
            raise ValueError(f"Expected target to be at least 1 word, got {target!r}")
        self.target = target

    def read(self, memory: object, unit: str) -> tuple[None, tuple[float, ...]]:
        """One word more."""
        return None, (1.0,)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(sums[:, 0] - self.target) / self.target)
        return phi
