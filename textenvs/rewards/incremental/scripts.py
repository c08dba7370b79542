"""Words of every script: runs of letters and digits, and single characters in scripts that write no spaces.

The words of Unicode's rules (UAX 29, without a dictionary), save that an apostrophe or a point separates: in Han,
Hiragana, Thai, Lao, Khmer and Burmese each character is a word, with the marks on it; a run of Katakana is one, and so
is a run of the letters, marks and digits of all other scripts.
"""

from __future__ import annotations

import regex

_ALONE = r"\p{Han}\p{Hiragana}\p{Line_Break=SA}"
_ALONE_PATTERN = regex.compile(rf"[[{_ALONE}]--\p{{M}}]", regex.V1)

WORD_PATTERN = (
    rf"[[{_ALONE}]--\p{{M}}]\p{{M}}*"
    r"|\p{Word_Break=Katakana}[\p{Word_Break=Katakana}\p{M}]*"
    rf"|[[\p{{L}}\p{{N}}\p{{M}}]--[[{_ALONE}]--\p{{M}}]--\p{{Word_Break=Katakana}}]+"
)
"""A pattern of one word, for the `regex` package with its flag V1."""

_WORDS = regex.compile(WORD_PATTERN, regex.V1)


def has_lone_character(text: str) -> bool:
    """Returns True if a text has a character that is a word by itself, in a script without spaces."""
    return not text.isascii() and _ALONE_PATTERN.search(text) is not None


def last_lone_character(text: str) -> int:
    """Returns the index of the last character that is a word by itself, or -1 if there is none."""
    if text.isascii():
        return -1
    return max((match.start() for match in _ALONE_PATTERN.finditer(text)), default=-1)


def words_of_scripts(text: str) -> list[str]:
    """Cuts a text into words.

    Args:
        text: Any text.

    Example:
        >>> words_of_scripts("3 Café-Häuser, 漢字")
        ['3', 'Café', 'Häuser', '漢', '字']
    """
    words: list[str] = _WORDS.findall(text)
    return words
