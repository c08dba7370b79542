"""Splitters: from text that grows to the pieces that a score counts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod


class Splitter(ABC):
    """How a text is cut into units."""

    @abstractmethod
    def cut(self, text: str) -> tuple[list[str], str]:
        """Cut a text that may go on.

        Args:
            text: What `cut` left over before, and what came since.

        Returns:
            The units that stand, whatever follows, and the rest, from which cutting goes on.
        """

    @abstractmethod
    def finish(self, rest: str) -> list[str]:
        """The units of a rest, taken as the end of the text."""

    def closes(self, character: str) -> bool:
        """Whether this ASCII character ends any rest just as the end of the text would, and is no part of its units."""
        return character.isspace()

    def stands(self, rest: str) -> bool:
        """Whether a closing character leaves this rest as the end of the text would. Rarely not: see `closes`."""
        return True

    def shorten(self, rest: str) -> str:
        """A rest that stands for this one: whatever follows, units are cut that every reader reads alike.

        A score that knows which beginnings lead nowhere keeps the number of states small with it.
        """
        return rest

    def split(self, text: str) -> list[str]:
        """All units of a whole text."""
        units, rest = self.cut(text)
        return units + self.finish(rest)


class Words(Splitter):
    """Pieces of text between white space."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        words = text.split()
        if not words or text[-1].isspace():
            return words, ""
        return words[:-1], words[-1]

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return rest.split()

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return text.split()


class Characters(Splitter):
    """Single characters, white space left out (or not).

    Args:
        white_space: Whether white space counts as a character.
    """

    def __init__(self, white_space: bool = False) -> None:
        self.white_space = white_space

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        return list(text if self.white_space else "".join(text.split())), ""

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return []

    def closes(self, character: str) -> bool:
        """See `Splitter.closes`."""
        return not self.white_space and character.isspace()


class Matches(Splitter):
    """What a regular expression finds; what lies between is left out.

    Args:
        pattern: Finds single characters and runs of one kind of character, as `[0-9]+|[.!?]` does: what it finds at the
            end of a text can grow, and nothing before it depends on what follows. No white space, but as a character.
        casefold: Whether upper and lower case are alike (`str.casefold`).
        longest: Of a longer find, only this many characters count; None is all of them.
    """

    def __init__(self, pattern: str, casefold: bool = True, longest: int | None = 64) -> None:
        self._find = re.compile(pattern)
        self._casefold = casefold
        self._longest = longest

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        rest = ""
        found = list(self._find.finditer(text))
        if found and found[-1].end() == len(text):
            rest = found.pop().group()
        return [self._read(match.group()) for match in found], rest

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return [self._read(rest)] if rest else []

    def closes(self, character: str) -> bool:
        """See `Splitter.closes`. What is found twice as one find is part of a run, and could go on with a rest."""
        return self._find.fullmatch(2 * character) is None

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        return rest[: self._longest]

    def _read(self, found: str) -> str:
        return (found.casefold() if self._casefold else found)[: self._longest]


class Chunks(Splitter):
    """Whatever comes, as it comes: for a reader that goes character by character, to which all cuts are alike."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        return ([text] if text else []), ""

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return []

    def closes(self, character: str) -> bool:
        """See `Splitter.closes`."""
        return False

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return list(text)
