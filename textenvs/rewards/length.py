"""Length: the number of words, characters or sentences of a response, compared with a wanted number.

Tokens cannot be counted: a score is a function of the text, and one text can be many sequences of tokens. An
environment's `max_new_tokens` limits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.rewards.base import RewardError
from textenvs.rewards.incremental.splitters import Chunks, Splitter, Words
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.sentences import SentenceWords, read_sentences


class _AnyWords(Words):
    """Words of which only the number counts, so that all unfinished words are alike."""

    def shorten(self, rest: str) -> str:
        return "x" if rest else ""


_SPLITTERS: dict[str, Splitter] = {"words": _AnyWords(), "characters": Chunks(), "sentences": SentenceWords()}


class Length(UnitSums):
    """1 at the wanted length, and 0 at no text and at twice the length, with straight lines between them.

    An example can name its own length in `metadata["length"]`, a number or `[low, high]`.

    Args:
        target: The wanted number, or a range `(low, high)`: the score is 1 in the range, and 0 at no text and at twice
            the high end. None takes the example's, and 20 without one.
        unit: "words" (pieces of text between white space), "characters" (of Unicode, white space included) or
            "sentences" (defined in `textenvs.rewards.sentences`).

    Raises:
        ValueError: If `target` or a high end is less than 1, a range is empty, or the unit is unknown.
        TypeError: If a number is not whole.

    Cost: two dictionary look-ups a token (amortised).
    """

    name = "length"
    low, high = 0.0, 1.0
    key = "length"
    default_target = 20

    def __init__(self, target: int | Sequence[int] | None = None, unit: str = "words") -> None:
        if unit not in _SPLITTERS:
            raise ValueError(
                f"Expected unit to be one of {list(_SPLITTERS)}, got {unit!r}"
                + (": a text has no tokens, an environment's max_new_tokens limits them" if unit == "tokens" else "")
            )
        self.unit = unit
        self.splitter = _SPLITTERS[unit]
        if target is not None:
            _range(target, unit)
        self.target = target

    def start(self, example: Example) -> bool:
        """Returns False: no sentence has begun."""
        return False

    def read(self, memory: bool, unit: str) -> tuple[bool, tuple[float, ...]]:
        """Counts a word, its characters, or the sentences that it begins."""
        if self.unit == "sentences":
            memory, begun = read_sentences(memory, unit)
            return memory, (float(begun),)
        return False, (float(len(unit)) if self.unit == "characters" else 1.0,)

    def read_text(self, example: Example, response: str) -> NDArray[np.float64]:
        """Counts words and characters of a whole text without a look at each of them."""
        if self.unit == "sentences":
            return super().read_text(example, response)
        units = self.splitter.split(response)
        return np.array([float(len(units) if self.unit == "words" else sum(map(len, units)))])

    def features(self, example: Example) -> tuple[float, float]:
        """Returns the ends of the wanted range."""
        if self.target is not None:
            return _range(self.target, self.unit)
        try:
            return _range(example.metadata.get(self.key, self.default_target), self.unit)
        except (TypeError, ValueError) as error:
            problem = f"cannot read metadata[{self.key!r}]: {error}"
            raise RewardError(self.name, problem, example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compares the counts with the wanted ranges."""
        number, low, high = sums[:, 0], features[:, 0], features[:, 1]
        missing = np.maximum(low - number, 0.0) / np.maximum(low, 1.0)
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - missing - np.maximum(number - high, 0.0) / high)
        return phi


class Sentences(Length):
    """`Length` in sentences. An example can name its own number in `metadata["sentences"]`.

    Args:
        target: The wanted number, or a range `(low, high)`. None takes the example's, and 3 without one.

    Raises:
        ValueError: If `target` or a high end is less than 1, or a range is empty.
        TypeError: If a number is not whole.

    Cost: two dictionary look-ups a token (amortised).
    """

    name = "sentences"
    key = "sentences"
    default_target = 3

    def __init__(self, target: int | Sequence[int] | None = None) -> None:
        super().__init__(target, "sentences")


def _range(target: Any, unit: str) -> tuple[float, float]:
    """Returns the ends of a wanted range, given as a number or a pair.

    Raises:
        ValueError: If a number is out of range, or the pair is not one.
        TypeError: If a number is not whole.
    """
    if isinstance(target, Sequence) and not isinstance(target, str):
        if len(target) != 2:
            raise ValueError(f"Expected target as a number of {unit} or as (low, high), got {target!r}")
        low = check_count(f"the low end of target (in {unit})", target[0], least=0)
        return float(low), float(check_count(f"the high end of target (in {unit})", target[1], least=max(low, 1)))
    count = float(check_count(f"target (in {unit})", target))
    return count, count
