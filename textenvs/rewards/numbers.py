"""Scores of numbers in a text: increasing numbers, and dates."""

from __future__ import annotations

import datetime
import math
import re

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.rewards.base import RewardError
from textenvs.rewards.incremental.splitters import Matches, Words
from textenvs.rewards.incremental.units import UnitSums

# A word that is one number, with punctuation around it.
_NUMBER_WORD = re.compile(r"[^\w+.-]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[^\w]*")


class _NumberWords(Words):
    """Words. All with a letter are alike, since none of them is a number."""

    def shorten(self, rest: str) -> str:
        """Replaces a word with a letter by "x"."""
        return "x" if re.search(r"[^\W0-9]", rest) else rest


class IncreasingNumbers(UnitSums):
    """The share of words that are numbers, each larger than the one before, up to the first number that is not.

    The diagnostic of RL4LMs (`RewardIncreasingNumbers`): the number of numbers before the first that does not rise,
    divided by the number of words, or by `min_words` if there are fewer. Differs from RL4LMs in its definition of a
    number: digits with a sign and a decimal point, and punctuation around them ("1, 2, 3." are three numbers); "nan",
    "inf" and "1_0" are not numbers.

    Args:
        min_words: The least number of words to divide by (half of RL4LMs' `min_tokens`).

    Raises:
        ValueError: If `min_words` is less than 1.
        TypeError: If `min_words` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: Ramamurthy et al. (2023), Is reinforcement learning (not)
    for natural language processing: the code of RL4LMs, rl4lms/envs/text_generation/test_reward.py.
    """

    name = "increasing_numbers"
    low, high = 0.0, 1.0
    splitter = _NumberWords()
    width = 2  # the number of rising numbers, and of words

    def __init__(self, min_words: int = 10) -> None:
        self.min_words = check_count("min_words", min_words)

    def start(self, example: Example) -> float:
        """Returns minus infinity. The memory is the largest number so far, and infinity once a number did not rise."""
        return -math.inf

    def read(self, memory: float, unit: str) -> tuple[float, tuple[float, float]]:
        """Counts a word, and a number if it rises."""
        number = _NUMBER_WORD.fullmatch(unit)
        if number is None:
            return memory, (0.0, 1.0)
        value = float(number[1])
        return (value, (1.0, 1.0)) if value > memory else (math.inf, (0.0, 1.0))

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the rising numbers by the words."""
        phi: NDArray[np.float64] = sums[:, 0] / np.maximum(sums[:, 1], self.min_words)
        return phi


class _DateWords(Matches):
    """Runs of letters, digits and hyphens. All unfinished ones that do not begin a date are alike."""

    def __init__(self) -> None:
        super().__init__(r"[\w-]+")

    def shorten(self, rest: str) -> str:
        """Replaces a run that does not begin a date by "x"."""
        begins_date = re.match(r"[0-9]{0,4}$|[0-9]{4}-[0-9]{0,2}$|[0-9]{4}-[0-9]{2}-[0-9]{0,2}$", rest)
        return rest if not rest or begins_date else "x"


class Dates(UnitSums):
    """The number of different dates in a text, written year-month-day ("2024-02-29"), as a share of a wanted number.

    RL4LMs' diagnostic (`RewardSentencesWithDates`) is 1 if a text has four digits, two and two anywhere. Here, a date
    has to be in the calendar ("2023-02-29" is not) and on its own (not "12024-02-290"), and more than one can be
    wanted.

    An example can name its own number in `metadata["dates"]`.

    Args:
        dates: The wanted number. None takes the example's, and 1 without one.

    Raises:
        ValueError: If `dates` is less than 1.
        TypeError: If `dates` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: the code of RL4LMs, as `IncreasingNumbers`.
    """

    name = "dates"
    low, high = 0.0, 1.0
    splitter = _DateWords()

    def __init__(self, dates: int | None = None) -> None:
        self.dates = check_count("dates", dates, optional=True)

    def start(self, example: Example) -> frozenset[str]:
        """Returns an empty set. The memory is the dates so far."""
        return frozenset()

    def read(self, memory: frozenset[str], unit: str) -> tuple[frozenset[str], tuple[float]]:
        """Counts a date that has not been there before."""
        if unit in memory or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", unit):
            return memory, (0.0,)
        try:
            datetime.date.fromisoformat(unit)
        except ValueError:
            return memory, (0.0,)
        return memory | {unit}, (1.0,)

    def features(self, example: Example) -> tuple[float]:
        """Returns the wanted number."""
        wanted = example.metadata.get("dates", 1) if self.dates is None else self.dates
        try:
            return (float(check_count("dates", wanted)),)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read metadata['dates']: {error}", example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the dates by the wanted number."""
        phi: NDArray[np.float64] = np.minimum(sums[:, 0] / features[:, 0], 1.0)
        return phi
