"""Splitters cut a growing text into the units that a score reads: words, characters, matches of a pattern.

`units.Units` runs a splitter over the tokens of many lanes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod


class Splitter(ABC):
    """Cuts a text into units."""

    @abstractmethod
    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text that may go on.

        Args:
            text: The rest of the last call, and the text since.

        Returns:
            The units that are final, whatever follows, and the rest, with which the next call begins.
        """

    @abstractmethod
    def finish(self, rest: str) -> list[str]:
        """Returns the units of a rest, taken as the end of the text."""

    def closes(self, character: str) -> bool:
        """Returns True if an ASCII character ends every rest as the end of the text would, and is in no unit of it."""
        return character.isspace()

    def stands(self, rest: str) -> bool:
        """Returns False for the rare rest that a character does not end although `closes` is True for it."""
        return True

    def shorten(self, rest: str) -> str:
        """Returns a rest that may stand for this one: whatever follows, the reader reads the units of both alike.

        Fewer different rests are fewer states to work out. A score that knows which beginnings lead to no unit that it
        counts can replace them all by one.
        """
        return rest

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into units."""
        units, rest = self.cut(text)
        return units + self.finish(rest)


class Words(Splitter):
    """Pieces of text between white space."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        words = text.split()
        if not words or text[-1].isspace():
            return words, ""
        return words[:-1], words[-1]

    def finish(self, rest: str) -> list[str]:
        """Returns the last word."""
        return rest.split()

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return text.split()


class Characters(Splitter):
    """Single characters, by default without white space.

    Args:
        white_space: If True, white space counts as a character.
    """

    def __init__(self, white_space: bool = False) -> None:
        self.white_space = white_space

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into characters, without a rest."""
        return list(text if self.white_space else "".join(text.split())), ""

    def finish(self, rest: str) -> list[str]:
        """Returns nothing, since there is no rest."""
        return []

    def closes(self, character: str) -> bool:
        """Returns True for white space, if it does not count."""
        return not self.white_space and character.isspace()


class Matches(Splitter):
    """The matches of a regular expression. The text between them is left out.

    Args:
        pattern: Matches single characters and runs of one kind of character, as `[0-9]+|[.!?]` does: a match at the end
            of a text can grow, and no match before it depends on the text that follows. White space may be matched as
            a single character only.
        casefold: If True, upper and lower case are alike (`str.casefold`).
        longest: The number of characters of a longer match that count; None counts all of them.
    """

    def __init__(self, pattern: str, casefold: bool = True, longest: int | None = 64) -> None:
        self._pattern = re.compile(pattern)
        self._casefold = casefold
        self._longest = longest

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into matches. One that reaches its end is the rest, since it may grow."""
        rest = ""
        matches = list(self._pattern.finditer(text))
        if matches and matches[-1].end() == len(text):
            rest = matches.pop().group()
        return [self._unit(match.group()) for match in matches], rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last match."""
        return [self._unit(rest)] if rest else []

    def closes(self, character: str) -> bool:
        """Returns False for a character that is matched twice as one match: it may be in a run, and prolong a rest."""
        return self._pattern.fullmatch(2 * character) is None

    def shorten(self, rest: str) -> str:
        """Cuts off the characters that do not count."""
        return rest[: self._longest]

    def _unit(self, match: str) -> str:
        return (match.casefold() if self._casefold else match)[: self._longest]


class Chunks(Splitter):
    """Pieces of text as they come, for a reader that goes through them character by character and minds no cut."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Returns the whole text as one unit."""
        return ([text] if text else []), ""

    def finish(self, rest: str) -> list[str]:
        """Returns nothing, since there is no rest."""
        return []

    def closes(self, character: str) -> bool:
        """Returns False: every character is part of a unit."""
        return False

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into characters."""
        return list(text)
