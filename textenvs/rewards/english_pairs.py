"""Pairs of English words: how much likelier a word is behind another one than anywhere.

A table of pairs from WordNet's glosses and example sentences (`textenvs.data.make_english`), with words outside the
vocabulary by their classes, so that no subject matter counts as unlikely: what counts is the grammar between
neighbours.

A pair that is rare falls back on the pair of their classes: frequent words are classes of their own, and the others are
sorted by part of speech and ending, so that two adjectives in a row are unlikely, whichever they are.

Source: absolute discounting (Ney, Essen & Kneser 1994) of pointwise mutual information, P(second | first) / P(second).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

_TABLE = Path(__file__).parents[1] / "data" / "english_pairs.txt"
_TOKENS = re.compile(r"[a-z]+(?:'[a-z]+)*|[0-9]+|[^\W\d_]+|[^\w\s]+?|_+")
_ENDINGS = ("ness", "ment", "tion", "ing", "est", "ous", "ful", "ive", "ble", "ed", "ly", "er", "al", "s", "y")
_DISCOUNT = 0.75
_PRIOR = 0.02  # of a pair of classes that never occurs
_LEAST, _MOST = -2.0, 1.0  # log-ratios beyond them say no more, so that no pair makes up for several bad ones
START = "<s>"
"""The left neighbour of a sentence's first word."""
ENDS = frozenset(".!?")
"""The marks that end a sentence."""


def tokens(text: str) -> list[str]:
    """Cuts a text into words, numbers and marks, in lower case.

    Args:
        text: The text, its apostrophes straight.

    Returns:
        The tokens.
    """
    return _TOKENS.findall(text.lower())


def key(token: str, vocabulary: Collection[str]) -> str:
    """Returns a token's entry in the table: itself, or for a rare one its kind.

    Args:
        token: The token.
        vocabulary: The tokens that have an entry of their own.

    Returns:
        The entry: "<ing>" for a rare word that ends so, "<>" for one without a known ending, "<0>" for a number and
        "<.>" for a mark.
    """
    if token in vocabulary:
        return token
    if token[0].isdigit():
        return "<0>"
    if not token[0].isalpha():
        return "<.>"
    return f"<{next((ending for ending in _ENDINGS if token.endswith(ending)), '')}>"


class EnglishPairs:
    """The table of pairs. `load` gives the bundled one.

    Args:
        text: The table, as `textenvs.data.make_english` writes it.
    """

    def __init__(self, text: str) -> None:
        words, classes, others = (part.splitlines() for part in text.split("\n\n"))
        rows = [line.split("\t") for line in words]
        names = [name for name, _, _, _ in rows]
        self._class = {name: kind or name for name, kind, _, _ in rows}
        self._counts = {name: tuple(map(int, counts.split())) for name, _, counts, _ in rows}
        self._pairs: dict[tuple[str, str], int] = {}
        for name, _, _, followers in rows:
            for follower in followers.split():
                number, _, count = follower.partition(":")
                self._pairs[name, names[int(number)]] = int(count or 2)
        self._class_pairs: dict[tuple[str, str], int] = {}
        self._class_left: Counter[str] = Counter()
        self._class_right: Counter[str] = Counter()
        for line in classes:
            first, *followers_of_class = line.split("\t")
            for cell in followers_of_class:
                second, _, count = cell.rpartition(" ")
                self._class_pairs[first, second] = int(count)
                self._class_left[first] += int(count)
                self._class_right[second] += int(count)
        self._others = {
            word: kind for kind, _, listed in (line.partition("\t") for line in others) for word in listed.split()
        }
        self._total = sum(counts[1] for counts in self._counts.values())

    def key(self, token: str) -> str:
        """Returns a token's entry."""
        return self._others.get(token) or key(token, self._counts)

    def log_ratio(self, first: str, second: str) -> float:
        """Computes log(P(second | first) / P(second)) of two entries, cut to [-2, 1].

        Args:
            first: The entry of the left neighbour.
            second: The entry of the right one.

        Returns:
            The log-ratio in nats; -2 if either is unknown even by its kind.
        """
        first = START if first in ENDS else first
        left, _, after = self._counts.get(first, (0, 0, 0))
        _, right, _ = self._counts.get(second, (0, 0, 0))
        if not left or not right:
            return _LEAST
        count = self._pairs.get((first, second), 0)
        kinds = self._class[first], self._class[second]
        expected = self._class_left[kinds[0]] * self._class_right[kinds[1]] / self._total
        by_class = (self._class_pairs.get(kinds, 0) + _PRIOR * expected) / ((1 + _PRIOR) * expected)
        seen = max(count - _DISCOUNT, 0.0) / left * self._total / right
        ratio = seen + _DISCOUNT * after / left * by_class
        return min(max(math.log(ratio), _LEAST), _MOST)


@lru_cache(maxsize=1)
def load() -> EnglishPairs:
    """Returns the bundled table."""
    return EnglishPairs(_TABLE.read_text(encoding="utf-8"))
