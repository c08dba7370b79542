"""Sentiment: how happy (or sad) a text sounds, by VADER's lexicon.

Source: Hutto & Gilbert (2014), VADER: a parsimonious rule-based model for sentiment analysis of social media text;
lexicon, boosters and negations from the vaderSentiment package.

Two scores of the same quality. `sentiment` is a mean over words, so what a token adds is known at once: train on it.
`vader` is the library's own compound score, in which one "but" rescales everything before it: hold it out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from string import punctuation

import numpy as np
from numpy.typing import NDArray
from vaderSentiment import vaderSentiment

from textenvs.rewards.base import Reward, Scorer
from textenvs.rewards.words import TokenAutomaton, WordReader
from textenvs.tasks.base import Example
from textenvs.tokenizer import Tokenizer

_NEGATIONS = frozenset([*vaderSentiment.NEGATE, "no"])
_DISTANCE_FACTORS = (1.0, 0.95, 0.9)  # how much a booster one, two or three words back still counts
_MOST_VALENCE = 4.0  # the lexicon's scale runs from -4 to 4


@lru_cache(maxsize=1)
def _analyzer() -> vaderSentiment.SentimentIntensityAnalyzer:
    return vaderSentiment.SentimentIntensityAnalyzer()


def mood_sign(example: Example) -> float:
    """1 where the example wants a happy text (or says nothing), -1 where it wants a sad one.

    Args:
        example: Its `metadata["mood"]` is read: "happy", "sad" or missing.

    Returns:
        The sign of a valence that is wanted.

    Raises:
        ValueError: If the mood is something else.
    """
    mood = example.metadata.get("mood", "happy")
    if mood not in ("happy", "sad"):
        raise ValueError(f"Expected an example's metadata['mood'] to be 'happy' or 'sad', got {mood!r}")
    return 1.0 if mood == "happy" else -1.0


class ValenceReader(WordReader):
    """The valence of each word, after the boosters and negations among the three words before it.

    VADER's rules for those, in VADER's order. Left out, since a later word or the whole text decides them: "but",
    "least", idioms, capitals, exclamation marks; and "no" always negates and has no valence of its own.
    """

    start: Hashable = ((0.0, False), (0.0, False), (0.0, False))
    width = 2  # valence, words

    def __init__(self) -> None:
        self._lexicon = _analyzer().lexicon
        self._boosters = vaderSentiment.BOOSTER_DICT

    def read(self, memory: Hashable, word: str) -> tuple[Hashable, tuple[float, ...]]:
        """Read one word; the memory is (booster, negates) of the last three, the latest first."""
        assert isinstance(memory, tuple)
        bare = word.strip(punctuation)
        bare = (bare if len(bare) > 2 else word).lower()  # what is shorter may be an emoticon
        valence, modifier = 0.0, (0.0, False)
        if bare in _NEGATIONS or "n't" in bare:
            modifier = (0.0, True)
        elif bare in self._boosters:
            modifier = (self._boosters[bare], False)
        elif bare in self._lexicon:
            valence = self._lexicon[bare]
            for (boost, negates), factor in zip(memory, _DISTANCE_FACTORS, strict=True):
                valence += (boost if valence >= 0 else -boost) * factor
                if negates:
                    valence *= vaderSentiment.N_SCALAR
            valence = min(max(valence, -_MOST_VALENCE), _MOST_VALENCE)
        return (modifier, *memory[:2]), (valence, 1.0)


class Sentiment(Reward):
    """Mean valence of the words so far, from -1 (the saddest words) to 1 (the happiest), incremental.

    An example that wants a sad text (`metadata["mood"] == "sad"`) turns the sign. The mean is over at least
    `min_words` words, so that a response cannot stop at one happy word and be done.

    Args:
        min_words: The least number of words to divide by.

    Raises:
        ValueError: If `min_words` is less than 1.

    Cost: one dictionary look-up a token (amortised). Words that no lexicon holds count as 0.
    """

    name = "sentiment"
    low, high = -1.0, 1.0

    def __init__(self, min_words: int = 8) -> None:
        if isinstance(min_words, bool) or not isinstance(min_words, int) or min_words < 1:
            raise ValueError(f"Expected min_words to be at least 1, got {min_words!r}")
        self.min_words = min_words
        self._reader = ValenceReader()

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        valence, words = self._reader.read_text(response)
        return float(mood_sign(example) * valence / (_MOST_VALENCE * max(words, self.min_words)))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _SentimentScorer(self, num_lanes, tokenizer)


class _SentimentScorer(Scorer):
    def __init__(self, reward: Sentiment, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._sign = np.ones(num_lanes)
        self._min_words = reward.min_words
        self._automaton = TokenAutomaton(reward._reader, num_lanes, tokenizer)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._sign[lanes] = [mood_sign(example) for example in examples]
        self._automaton.reset(lanes)

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = self._automaton.push(lanes, tokens)
        words = np.maximum(sums[:, 1], self._min_words)
        phi: NDArray[np.float64] = self._sign[lanes] * sums[:, 0] / (_MOST_VALENCE * words)
        return phi


class Vader(Reward):
    """The vaderSentiment library's compound score of the whole text, from -1 to 1; a wanted sad mood turns the sign.

    Cost: the whole text is read again at every token, since one "but" or one capital rescales every word before it.
    """

    name = "vader"
    low, high = -1.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return float(mood_sign(example) * _analyzer().polarity_scores(response)["compound"])
