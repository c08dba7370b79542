"""`readability`: the Flesch reading ease."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count, check_number
from textenvs.example import Example
from textenvs.rewards.base import RewardError
from textenvs.rewards.english import syllables
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.sentences import read_sentences


class Readability(UnitSums):
    """The ease of reading a text, by the lengths of its sentences and words.

    Without a wanted grade, Flesch's reading ease (206.835 - 1.015 words / sentence - 84.6 syllables / word), from 0 at
    0 (very hard) to 1 at 100 (very easy). With one, the score is 1 where the Flesch-Kincaid grade (0.39 words /
    sentence + 11.8 syllables / word - 15.59) is the wanted one, and falls to 0 at ten grades off. Words and syllables
    are counted by `textenvs.rewards.english.syllables`, sentences by `textenvs.rewards.sentences`. A text of n words,
    fewer than `min_words`, gets n / `min_words` of the score, so that one short word is not the best text.

    Args:
        grade: The wanted grade in US school years. None takes `metadata["grade"]`, and reading ease without one.
        min_words: The number of words from which the score counts in full.

    Raises:
        ValueError: If the grade is not finite, or `min_words` is less than 1.
        TypeError: If the grade is not a number, or `min_words` not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: Flesch (1948), A new readability yardstick; Kincaid et
    al. (1975), Derivation of new readability formulas for Navy enlisted personnel.
    """

    name = "readability"
    low, high = 0.0, 1.0
    width = 3  # words, sentences, syllables

    def __init__(self, grade: float | None = None, min_words: int = 8) -> None:
        self.grade = check_number("grade", grade, optional=True)
        self.min_words = check_count("min_words", min_words)

    def start(self, example: Example) -> bool:
        """Returns False: no sentence has begun."""
        return False

    def read(self, memory: bool, unit: str) -> tuple[bool, tuple[float, float, float]]:
        """Counts a word, the sentences that it begins, and its syllables."""
        memory, begun = read_sentences(memory, unit)
        count = syllables(unit)
        return memory, (float(count > 0), float(begun), float(count))

    def features(self, example: Example) -> tuple[float]:
        """Returns the wanted grade, NaN for none."""
        grade = example.metadata.get("grade") if self.grade is None else self.grade
        try:
            return (math.nan if grade is None else check_number("grade", grade),)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read metadata['grade']: {error}", example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the reading ease, or the distance to the wanted grade."""
        words, sentences, syllable_count = sums.T
        grade = features[:, 0]
        per_sentence, per_word = words / np.maximum(sentences, 1.0), syllable_count / np.maximum(words, 1.0)
        ease = (206.835 - 1.015 * per_sentence - 84.6 * per_word) / 100.0
        distance = np.abs(0.39 * per_sentence + 11.8 * per_word - 15.59 - grade) / 10.0
        score = np.clip(np.where(np.isnan(grade), ease, 1.0 - distance), 0.0, 1.0)
        phi: NDArray[np.float64] = score * np.minimum(words / self.min_words, 1.0)
        return phi
