"""What a sentence is, for the scores that count sentences.

A sentence begins with the first word that has a letter or digit, and ends with a word whose last character, closing
quotes and brackets left out, is one of . ! ? or an ellipsis; or anywhere at their full-width forms, which no space
follows. "Mr.", "e.g." and other short forms of a small list, and initials ("J."), end none. So the number of sentences
begun never falls while a text is written, and "3" that becomes "3.5" changes nothing.
"""

from __future__ import annotations

import re

from textenvs.rewards.incremental.splitters import Splitter, Words

_ENDS = ".!?…"
_FULL_ENDS = "。！？｡"  # noqa: RUF001 - they are what is meant
_CLOSERS = "\"')]}»”’›」』）"  # noqa: RUF001
_OPENERS = "\"'([{«“‘‹「『（"  # noqa: RUF001
_SHORT_FORMS = frozenset(
    ("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "sr.", "jr.", "vs.", "e.g.", "i.e.", "cf.", "capt.", "gen.", "mt.")
)
_PARTS = re.compile(f"[^{_FULL_ENDS}]*[{_FULL_ENDS}]|[^{_FULL_ENDS}]+")
_LONGEST = max(map(len, _SHORT_FORMS))


def ends_sentence(word: str) -> bool:
    """Whether a sentence ends with a word.

    Args:
        word: A piece of text between white space.
    """
    bare = word.rstrip(_CLOSERS)
    if not bare or bare[-1] not in _ENDS + _FULL_ENDS:
        return False
    bare = bare.lstrip(_OPENERS).lower()
    return bare not in _SHORT_FORMS and not (len(bare) == 2 and bare[0].isalpha() and bare[1] == ".")


def read_sentences(open_: bool, word: str) -> tuple[bool, int]:
    """Read one word.

    Args:
        open_: Whether a sentence had begun before it, and not ended.
        word: A unit of `SentenceWords`.

    Returns:
        Whether one has begun and not ended after it, and how many it begins.
    """
    begun = 0
    for character in word:
        if character in _FULL_ENDS:
            open_ = False
        elif not open_ and character.isalnum():
            open_, begun = True, begun + 1
    return open_ and not ends_sentence(word), begun


def count_sentences(text: str) -> int:
    """How many sentences a text begins, the last one finished or not.

    Args:
        text: Any text.

    Example:
        >>> count_sentences('Mr. Fox ran 3.5 miles. "Why?" asked the owl')
        3
    """
    open_, total = False, 0
    for word in _SPLITTER.split(text):
        open_, begun = read_sentences(open_, word)
        total += begun
    return total


class SentenceWords(Words):
    """Words, cut behind full-width ends as well, of which only that matters which `read_sentences` reads."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        words, rest = super().cut(text)
        units = [unit for word in words for unit in _PARTS.findall(word)]
        parts = _PARTS.findall(rest)
        if parts and parts[-1][-1] not in _FULL_ENDS:
            return [*units, *parts[:-1]], parts[-1]
        return [*units, *parts], ""

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return Splitter.split(self, text)

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        body = rest.rstrip(_ENDS + _CLOSERS)
        if len(body.lstrip(_OPENERS)) <= _LONGEST:
            return rest
        tail = rest[len(body) :]
        end = tail.rstrip(_CLOSERS)
        first = "x" if any(map(str.isalnum, body)) else "-"
        return first * (_LONGEST + 1) + end[-1:] + tail[len(end) :][:1]


_SPLITTER = SentenceWords()
