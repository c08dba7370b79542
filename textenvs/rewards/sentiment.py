"""Sentiment: the mood of a text, from sad to happy, by VADER's lexicon.

Source: Hutto & Gilbert (2014), VADER: a parsimonious rule-based model for sentiment analysis of social media text;
lexicon, boosters, negations and rules from the vaderSentiment package.

There are two scores of it. `sentiment` is a mean over words, so the effect of a token is known at once: train on it.
`vader` is the library's own compound score, in which one "but" rescales everything before it: hold it out, to evaluate.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from string import punctuation
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from vaderSentiment import vaderSentiment

from textenvs.arguments import check_choice, check_count
from textenvs.example import Example
from textenvs.rewards.base import Reward
from textenvs.rewards.english import straight_apostrophes
from textenvs.rewards.incremental.splitters import Words
from textenvs.rewards.incremental.units import UnitSums

Memory: TypeAlias = tuple[str, str, str, float | None]
"""The kinds of the last three words, and the valence that an "of" after them takes back, if it does anything."""

_MAX_VALENCE = 4.0  # the lexicon's scale is from -4 to 4
_DISTANCE_FACTORS = (1.0, 0.95, 0.9)  # of a booster one, two or three words back
_NEVER_SO = 1.25  # "never so good" is better than good
_NEGATED = float(vaderSentiment.N_SCALAR)

# The kind of a word, which decides its effect on the valence of the words after it. A word in no table is "plain", or
# "valent" if the lexicon has it; in VADER, a valent word has no such effect. "" stands for the words before the first.
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
_DAMPENED_BY_OF = frozenset(["kind", "sort"])  # "kind of" and "sort of" weaken, and "kind" is then no praise
_NO_BEGINNING = "xxxxx"  # begins no word of the lexicon, whatever follows


@lru_cache(maxsize=1)
def _analyzer() -> vaderSentiment.SentimentIntensityAnalyzer:
    return vaderSentiment.SentimentIntensityAnalyzer()


def mood_sign(example: Example) -> float:
    """Returns 1 if an example asks for a happy text or for no mood, and -1 if it asks for a sad one.

    Args:
        example: Its `metadata["mood"]` is read: "happy", "sad" or missing.

    Returns:
        The sign of the wanted valence.

    Raises:
        ValueError: If the mood is something else.
    """
    mood = check_choice("an example's metadata['mood']", example.metadata.get("mood", "happy"), ("happy", "sad"))
    return 1.0 if mood == "happy" else -1.0


class _LexiconWords(Words):
    """Words, every apostrophe a straight one. All unfinished ones that begin no word of the lexicon are alike.

    They are plain, whatever follows. Except that an "n't" in them makes a negation, so a beginning of it is kept.
    """

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        return super().cut(straight_apostrophes(text))

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return super().split(straight_apostrophes(text))

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        entries = [*_analyzer().lexicon, *_KINDS, *_DAMPENED_BY_OF, "of"]
        return frozenset(entry[:length] for entry in entries for length in range(1, len(entry) + 1))

    def shorten(self, rest: str) -> str:
        """Replaces a beginning that no word of the lexicon has."""
        lower = rest.lower()
        body = lower.strip(punctuation)
        if not body or lower in self._beginnings or body in self._beginnings:
            return rest
        ending = "n't" if "n't" in body else next((end for end in ("n'", "n") if lower.endswith(end)), "")
        return _NO_BEGINNING + ending


def _modified(valence: float, last: str, second: str, third: str) -> float:
    """Computes a word's valence from the kinds of the three words before it, as vaderSentiment does.

    Source: `SentimentIntensityAnalyzer.sentiment_valence` in vaderSentiment, in the order of its rules.
    """
    so_or_this = ("so", "this")
    for distance, kind in enumerate((last, second, third)):
        if kind in _VALENT or not kind:
            continue
        boost = _BOOSTS.get(kind, 0.0) * _DISTANCE_FACTORS[distance]
        valence += boost if valence >= 0 else -boost
        if distance == 1 and kind == "never" and last in so_or_this:
            valence *= _NEVER_SO
        elif distance == 2 and ((kind == "never" and second in so_or_this) or last in so_or_this):
            valence *= _NEVER_SO  # the library, too, does not ask for "never" in the second case
        elif kind == "without" and "doubt" in (last, second)[:distance]:
            pass  # "without a doubt" negates nothing
        elif kind in _NEGATIONS:
            valence *= _NEGATED
    if last == "least" and second not in ("at", "very"):
        valence *= _NEGATED
    return valence


class Sentiment(UnitSums):
    """The mean valence of the words so far, from -1 (the saddest words) to 1 (the happiest), incremental.

    A word's valence is VADER's, with the effect of the three words before it: VADER's rules for boosters, negations,
    "never so", "without doubt" and "least", in its order, and then a cut to the lexicon's scale. "kind of" and "sort
    of" weaken the words after them: an "of" takes back the valence of the "kind" before it. Other rules that depend on
    later words or the whole text are left out: "but", other idioms, capitals, exclamation marks, emojis; and "no"
    always negates and has no valence of its own. A typographic apostrophe is a straight one.

    An example that asks for a sad text (`metadata["mood"] == "sad"`) changes the sign. The mean is over at least
    `min_words` words, so that it does not pay to stop after one happy word.

    Args:
        min_words: The least number of words to divide by.

    Raises:
        ValueError: If `min_words` is less than 1.
        TypeError: If `min_words` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Words that the lexicon does not have count as 0.
    """

    name = "sentiment"
    low, high = -1.0, 1.0
    splitter = _LexiconWords()
    width = 2  # valence, words

    def __init__(self, min_words: int = 8) -> None:
        self.min_words = check_count("min_words", min_words)

    def start(self, example: Example) -> Memory:
        """Returns no kinds. The memory is the kinds of the last three words, the latest first, and what "of" does."""
        return ("", "", "", None)

    def read(self, memory: Memory, unit: str) -> tuple[Memory, tuple[float, float]]:
        """Returns the valence of a word, and 1 for its count."""
        bare = unit.strip(punctuation)
        bare = (bare if len(bare) > 2 else unit).lower()  # a shorter one may be an emoticon
        last, second, third, before_of = memory
        if bare == "of" and before_of is not None:
            return ("dampener", "plain", second, None), (-before_of, 1.0)
        lexicon = _analyzer().lexicon
        kind = _KINDS.get(bare, "negation" if "n't" in bare else "valent" if bare in lexicon else "plain")
        valence = _modified(lexicon[bare], last, second, third) if kind in _VALENT else 0.0
        valence = min(max(valence, -_MAX_VALENCE), _MAX_VALENCE)
        is_before_of = bare in _DAMPENED_BY_OF and unit[-1].isalpha()  # not "kind, of"
        return (kind, last, second, valence if is_before_of else None), (valence, 1.0)

    def features(self, example: Example) -> tuple[float, ...]:
        """Returns the sign of the wanted valence."""
        return (mood_sign(example),)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the valences by the number of words."""
        words = np.maximum(sums[:, 1], self.min_words)
        phi: NDArray[np.float64] = features[:, 0] * sums[:, 0] / (_MAX_VALENCE * words) + 0.0  # turns -0.0 into 0.0
        return phi


class Vader(Reward):
    """The vaderSentiment library's compound score of the whole text, from -1 to 1. A wanted sad mood changes the sign.

    Typographic apostrophes, which the library does not know, are made straight first.

    Cost: the whole text is read again at every token, since one "but" or one capital rescales every word before it.
    """

    name = "vader"
    low, high = -1.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response with the library."""
        return (
            float(mood_sign(example) * _analyzer().polarity_scores(straight_apostrophes(response))["compound"]) + 0.0
        )  # turns -0.0 into 0.0
