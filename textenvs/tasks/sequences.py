"""Copy, Reverse, Sort: write a sequence that follows from the prompt, one right token after another.

Each token is right or wrong by itself. So the immediate payout is a reward per token, and with the sparse one the
policy has to find out which of its tokens were right: the plainest case of the difference between payouts.
"""

from __future__ import annotations

from typing import ClassVar

from textenvs.rewards.incremental.automaton import Match
from textenvs.tasks.base import Example
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.dice import Dice


class _Sequence(Diagnostic):
    """A task with a sequence in the prompt, and one of the same length in the response.

    Level 1 has sequences of 3 to 5 symbols (shifted: 6 to 7), level 2 of 6 to 9 (10 to 12) and level 3 of 12 to 16 (18
    to 24).
    """

    levels = 3
    default_reward = Match()
    alphabet: ClassVar[str]
    _LENGTHS: ClassVar = (((3, 5), (6, 7)), ((6, 9), (10, 12)), ((12, 16), (18, 24)))

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._lengths = self._LENGTHS[self.level - 1]
        self.default_max_new_tokens = self._lengths[1][1] + 1

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws a sequence."""
        sequence = dice.text(self.alphabet, dice.between(*self._lengths[shifted]))
        return Example(f"{sequence}=", (self.answer(sequence),))

    def answer(self, sequence: str) -> str:
        """Returns the sequence of the response."""
        raise NotImplementedError


class Copy(_Sequence):
    """Write the sequence of the prompt again: the answer to "cab=" is "cab".

    Example:
        >>> Copy().example("test", 0).prompt
        'adadf='
    """

    name = "copy"
    tests = "memory: attend to the place that comes next"
    alphabet = "abcdefgh"
    symbols = "abcdefgh="

    def answer(self, sequence: str) -> str:
        """Returns the sequence itself."""
        return sequence


class Reverse(_Sequence):
    """Write the sequence of the prompt backwards: the answer to "cab=" is "bac"."""

    name = "reverse"
    tests = "memory: attend to the mirrored place"
    alphabet = "abcdefgh"
    symbols = "abcdefgh="

    def answer(self, sequence: str) -> str:
        """Returns the sequence backwards."""
        return sequence[::-1]


class Sort(_Sequence):
    """Write the digits of the prompt in order: the answer to "3142=" is "1234". Digits may repeat."""

    name = "sort"
    tests = "an algorithm: each token depends on all of the prompt"
    alphabet = "0123456789"
    symbols = "0123456789="

    def answer(self, sequence: str) -> str:
        """Returns the digits in order."""
        return "".join(sorted(sequence))


__all__ = ["Copy", "Reverse", "Sort"]
