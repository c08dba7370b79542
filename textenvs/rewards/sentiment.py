"""Sentiment: how happy (or sad) a text sounds, by VADER's lexicon.

Source: Hutto & Gilbert (2014), VADER: a parsimonious rule-based model for sentiment analysis of social media text;
lexicon, boosters, negations and rules from the vaderSentiment package.

Two scores of the same quality. `sentiment` is a mean over words, so what a token adds is known at once: train on it.
`vader` is the library's own compound score, in which one "but" rescales everything before it: hold it out.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from string import punctuation

import numpy as np
from numpy.typing import NDArray
from vaderSentiment import vaderSentiment

from textenvs.example import Example
from textenvs.rewards.base import Reward
from textenvs.rewards.incremental.splitters import Words
from textenvs.rewards.incremental.units import UnitSums

_MOST_VALENCE = 4.0  # the lexicon's scale runs from -4 to 4
_DISTANCE_FACTORS = (1.0, 0.95, 0.9)  # how much a booster one, two or three words back still counts
_NEVER_SO = 1.25  # "never so good" is better than good
_NEGATED = float(vaderSentiment.N_SCALAR)

# What a word does to the valence of the words after it. A word that no table holds is "plain", or "valent" when the
# lexicon has it; VADER lets a valent word modify nothing. "" stands for the words before the first.
_KINDS = {
    **dict.fromkeys([*vaderSentiment.NEGATE, "no"], "negation"),
    **{word: "booster" if boost > 0 else "dampener" for word, boost in vaderSentiment.BOOSTER_DICT.items()},
    **{word: word for word in ("never", "without", "doubt", "so", "very", "this", "least", "at")},
}
_BOOSTS = {
    "booster": vaderSentiment.B_INCR,
    "so": vaderSentiment.B_INCR,
    "very": vaderSentiment.B_INCR,
    "dampener": vaderSentiment.B_DECR,
}
_NEGATIONS = frozenset(["negation", "never", "without"])
_VALENT = frozenset(["valent", "doubt"])
_NO_BEGINNING = "xxxxx"  # of any word in the lexicon, nor is what follows it


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


class _LexiconWords(Words):
    """Words, of which a beginning that no word of the lexicon has is cut short: it is plain, whatever follows.

    What later letters can still make of it is a negation, by an "n't".
    """

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        entries = [*_analyzer().lexicon, *_KINDS]
        return frozenset(entry[:length] for entry in entries for length in range(1, len(entry) + 1))

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        lower = rest.lower()
        body = lower.strip(punctuation)
        if not body or lower in self._beginnings or body in self._beginnings:
            return rest
        ending = "n't" if "n't" in body else next((end for end in ("n'", "n") if lower.endswith(end)), "")
        return _NO_BEGINNING + ending


def _modified(valence: float, last: str, second: str, third: str) -> float:
    """A word's valence after the kinds of the three words before it: `sentiment_valence` in vaderSentiment."""
    so_or_this = ("so", "this")
    for place, kind in enumerate((last, second, third)):
        if kind in _VALENT or not kind:
            continue
        boost = _BOOSTS.get(kind, 0.0) * _DISTANCE_FACTORS[place]
        valence += boost if valence >= 0 else -boost
        if place == 1 and kind == "never" and last in so_or_this:
            valence *= _NEVER_SO
        elif place == 2 and ((kind == "never" and second in so_or_this) or last in so_or_this):
            valence *= _NEVER_SO  # the second half, without "never", is the library's as well
        elif kind == "without" and "doubt" in (last, second)[:place]:
            pass
        elif kind in _NEGATIONS:
            valence *= _NEGATED
    if last == "least" and second not in ("at", "very"):
        valence *= _NEGATED
    return valence


class Sentiment(UnitSums):
    """Mean valence of the words so far, from -1 (the saddest words) to 1 (the happiest), incremental.

    A word's valence is VADER's, as the three words before it modify it: its rules for boosters, negations, "never so",
    "without doubt" and "least", in VADER's order, and then a cut to the lexicon's scale. Left out is what later words
    or the whole text decide: "but", "kind of" and other idioms, capitals, exclamation marks, emojis; and "no" always
    negates and has no valence of its own.

    An example that wants a sad text (`metadata["mood"] == "sad"`) turns the sign. The mean is over at least
    `min_words` words, so that a response cannot stop at one happy word and be done.

    Args:
        min_words: The least number of words to divide by.

    Raises:
        ValueError: If `min_words` is less than 1.

    Cost: two dictionary look-ups a token (amortised). Words that no lexicon holds count as 0.
    """

    name = "sentiment"
    low, high = -1.0, 1.0
    splitter = _LexiconWords()
    width = 2  # valence, words

    def __init__(self, min_words: int = 8) -> None:
        if isinstance(min_words, bool) or not isinstance(min_words, int) or min_words < 1:
            raise ValueError(f"Expected min_words to be at least 1, got {min_words!r}")
        self.min_words = min_words

    def start(self, example: Example) -> tuple[str, str, str]:
        """What kinds of words the last three were, the latest first."""
        return ("", "", "")

    def read(self, memory: tuple[str, str, str], unit: str) -> tuple[tuple[str, str, str], tuple[float, float]]:
        """One word: its valence, and 1."""
        bare = unit.strip(punctuation)
        bare = (bare if len(bare) > 2 else unit).lower()  # what is shorter may be an emoticon
        lexicon = _analyzer().lexicon
        kind = _KINDS.get(bare, "negation" if "n't" in bare else "valent" if bare in lexicon else "plain")
        valence = _modified(lexicon[bare], *memory) if kind in _VALENT else 0.0
        return (kind, memory[0], memory[1]), (min(max(valence, -_MOST_VALENCE), _MOST_VALENCE), 1.0)

    def features(self, example: Example) -> tuple[float, ...]:
        """The sign that the wanted mood gives a valence."""
        return (mood_sign(example),)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        words = np.maximum(sums[:, 1], self.min_words)
        phi: NDArray[np.float64] = features[:, 0] * sums[:, 0] / (_MOST_VALENCE * words) + 0.0  # no -0.0
        return phi


class Vader(Reward):
    """The vaderSentiment library's compound score of the whole text, from -1 to 1; a wanted sad mood turns the sign.

    Cost: the whole text is read again at every token, since one "but" or one capital rescales every word before it.
    """

    name = "vader"
    low, high = -1.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return float(mood_sign(example) * _analyzer().polarity_scores(response)["compound"]) + 0.0  # no -0.0
