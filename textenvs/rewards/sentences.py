"""The sentences of a text, for the scores that count them.

A sentence begins with a word that has a letter or digit, and ends with a word whose last character, closing quotes and
brackets left out, is one of . ! ? or an ellipsis; or anywhere at the signs of other scripts: full-width forms, the
danda of Devanagari, and what ends sentences in Arabic, Urdu, Armenian, Ethiopic, Khmer and Burmese.
"Mr.", "e.g." and other short forms of a small list, and initials ("J."), do not end a sentence. With this definition,
the number of sentences begun never falls while a text is written, and nothing changes when "3" becomes "3.5".
"""

from __future__ import annotations

import re

from textenvs.rewards.incremental.splitters import Splitter, Words

_ENDS = ".!?…"
_FULL_ENDS = "。！？｡।॥؟۔։።។။"  # noqa: RUF001 - they are what is meant
_CLOSERS = "\"')]}»”’›」』）"  # noqa: RUF001
_OPENERS = "\"'([{«“‘‹「『（"  # noqa: RUF001
_SHORT_FORMS = frozenset(
    ("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "sr.", "jr.", "vs.", "e.g.", "i.e.", "cf.", "capt.", "gen.", "mt.")
)
_PARTS = re.compile(f"[^{_FULL_ENDS}]*[{_FULL_ENDS}]|[^{_FULL_ENDS}]+")
STOPS = frozenset(".!?" + _FULL_ENDS)
"""The characters that end sentences. An ellipsis ends one for the scores that count them, but pays none."""

_LONGEST = max(map(len, _SHORT_FORMS))


def ends_sentence(word: str) -> bool:
    """Returns True if a word ends a sentence.

    Args:
        word: A piece of text between white space.
    """
    bare = word.rstrip(_CLOSERS)
    if not bare or bare[-1] not in _ENDS + _FULL_ENDS:
        return False
    bare = bare.lstrip(_OPENERS).lower()
    return bare not in _SHORT_FORMS and not (len(bare) == 2 and bare[0].isalpha() and bare[1] == ".")


def read_sentences(is_open: bool, word: str) -> tuple[bool, int]:
    """Reads one word.

    Args:
        is_open: True if a sentence has begun before the word and not ended.
        word: A unit of `SentenceWords`.

    Returns:
        `is_open` after the word, and the number of sentences that the word begins.
    """
    begun = 0
    for character in word:
        if character in _FULL_ENDS:
            is_open = False
        elif not is_open and character.isalnum():
            is_open, begun = True, begun + 1
    return is_open and not ends_sentence(word), begun


def count_sentences(text: str) -> int:
    """Counts the sentences that a text begins, the last one finished or not.

    Args:
        text: Any text.

    Example:
        >>> count_sentences('Mr. Fox ran 3.5 miles. "Why?" asked the owl')
        3
    """
    is_open, total = False, 0
    for word in _SPLITTER.split(text):
        is_open, begun = read_sentences(is_open, word)
        total += begun
    return total


class SentenceWords(Words):
    """Words, cut after full-width ends of sentences as well. Words that `read_sentences` reads alike are alike."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        words, rest = super().cut(text)
        units = [unit for word in words for unit in _PARTS.findall(word)]
        parts = _PARTS.findall(rest)
        if parts and parts[-1][-1] not in _FULL_ENDS:
            return [*units, *parts[:-1]], parts[-1]
        return [*units, *parts], ""

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return Splitter.split(self, text)  # not that of `Words`, which knows no full-width ends

    def shorten(self, rest: str) -> str:
        """Replaces the body of a word that is too long for a short form. Its last characters may still end it."""
        body = rest.rstrip(_ENDS + _CLOSERS)
        if len(body.lstrip(_OPENERS)) <= _LONGEST:
            return rest
        tail = rest[len(body) :]
        end = tail.rstrip(_CLOSERS)
        first = "x" if any(map(str.isalnum, body)) else "-"
        return first * (_LONGEST + 1) + end[-1:] + tail[len(end) :][:1]


_SPLITTER = SentenceWords()
