"""Brackets, Arithmetic, Length: responses that follow from a rule, by a stack, by carries, by a counter."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from textenvs.rewards.incremental.automaton import AutomatonReward, Match
from textenvs.tasks.base import Example
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.dice import Dice

_OPENING = "([{"
_CLOSING = dict(zip(_OPENING, ")]}", strict=True))


class _BracketsScore(AutomatonReward):
    """The share of the prompt's open brackets that are closed. An end with no open bracket counts as one more.

    A response may also open brackets, and then has to close them before the others. After a character that does not
    fit, nothing counts any more; a bracket that is opened deeper than `most` does not fit.

    Args:
        most: The largest depth of nested brackets.
    """

    name = "brackets"
    low, high = 0.0, 1.0

    def __init__(self, most: int) -> None:
        self.most = most

    def start(self, example: Example) -> Hashable:
        needed = example.references[0]
        return needed, len(needed), len(needed)

    def read(self, memory: tuple[str | None, int, int], character: str) -> Hashable:
        """Keeps the needed closing brackets, the next one first; their smallest number so far; and their first number.

        Nothing is needed ("") at the right end. None says that a character did not fit.
        """
        needed, fewest, first = memory
        if needed and needed[0] == character:
            return needed[1:], min(fewest, len(needed) - 1), first
        # The number of needed brackets is bounded, and with it the number of memories.
        if needed is not None and character in _CLOSING and len(needed) < self.most:
            return _CLOSING[character] + needed, fewest, first
        return None, fewest, first

    def value(self, memory: tuple[str | None, int, int]) -> float:
        needed, fewest, first = memory
        return (first - fewest + (needed == "")) / (first + 1)


class Brackets(Diagnostic):
    """Close the open brackets of a Dyck-3 word, in the right order: the answer to "([]{" is "})".

    Level 1 has 1 to 3 open brackets (shifted: 4 to 5), level 2 has 2 to 5 (6 to 7) and level 3 has 4 to 6 (7 to 8);
    between them are up to 3 pairs that are closed already.
    """

    name = "brackets"
    tests = "structure: keep a stack"
    levels = 3
    symbols = "()[]{}"
    _DEPTHS: ClassVar = (((1, 3), (4, 5)), ((2, 5), (6, 7)), ((4, 6), (7, 8)))

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._depths = self._DEPTHS[self.level - 1]
        most = self._depths[1][1]
        self.default_reward = _BracketsScore(most)
        self.default_max_new_tokens = most + 3

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws open brackets, and pairs between them."""
        opened = dice.text(_OPENING, dice.between(*self._depths[shifted]))
        prompt = opened
        for _ in range(dice.below(4)):
            position, bracket = dice.below(len(prompt) + 1), dice.pick(_OPENING)
            prompt = f"{prompt[:position]}{bracket}{_CLOSING[bracket]}{prompt[position:]}"
        return Example(prompt, ("".join([_CLOSING[bracket] for bracket in reversed(opened)]),))


class Arithmetic(Diagnostic):
    """Work out a sum, a difference or a product: the answer to "37+58=" is "95".

    Level 1 adds a number of one digit to one of one or two digits (shifted: two to three). Level 2 adds and subtracts
    numbers of two digits (shifted: three), and level 3 also multiplies. No result is negative.
    """

    name = "arithmetic"
    tests = "computation: digits with carries, the largest first"
    levels = 3
    default_reward = Match()
    symbols = "0123456789+-*="
    _RANGES: ClassVar = (
        ("+", ((0, 99), (0, 9)), ((100, 999), (10, 99))),
        ("+-", ((10, 99), (10, 99)), ((100, 999), (100, 999))),
        ("+-*", ((10, 99), (10, 99)), ((100, 999), (100, 999))),
    )

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self.default_max_new_tokens = 5 if self.level < 3 else 7

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws two numbers and a sign."""
        signs, *ranges = self._RANGES[self.level - 1]
        first, second = (dice.between(*bounds) for bounds in ranges[shifted])
        sign = dice.pick(signs)
        if sign == "-" and first < second:  # no negative results
            first, second = second, first
        result = first + second if sign == "+" else first - second if sign == "-" else first * second
        return Example(f"{first}{sign}{second}=", (str(result),))


class _LengthScore(AutomatonReward):
    """1 at the reference's number of characters, and 0 at none and at twice as many, with straight lines between."""

    name = "exact_length"
    low, high = 0.0, 1.0

    def start(self, example: Example) -> Hashable:
        return len(example.references[0]), 0

    def read(self, memory: tuple[int, int], character: str) -> Hashable:
        """Keeps the wanted number, and the number of characters so far."""
        number, written = memory
        return number, min(written + 1, 2 * number)  # beyond twice the number, the score is 0 for any length

    def value(self, memory: tuple[int, int]) -> float:
        number, written = memory
        return 1.0 - abs(number - written) / number


class Length(Diagnostic):
    """Write as many symbols as the prompt says, any ones, and stop: the answer to "3b" is "bbb", or just as well "abc".

    Level 1 asks for 2 to 8 symbols (shifted: 9 to 12), level 2 for 4 to 20 (21 to 30), level 3 for 8 to 32 (33 to 48).
    """

    name = "length"
    tests = "stopping: count, and write EOS at the right time"
    levels = 3
    default_reward = _LengthScore()
    symbols = "abcdefghijklmnop0123456789"
    _NUMBERS: ClassVar = (((2, 8), (9, 12)), ((4, 20), (21, 30)), ((8, 32), (33, 48)))

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._numbers = self._NUMBERS[self.level - 1]
        self.default_max_new_tokens = self._numbers[1][1] + 4

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws a number and a letter."""
        number, letter = dice.between(*self._numbers[shifted]), dice.pick(self.symbols[:16])
        return Example(f"{number}{letter}", (letter * number,))


__all__ = ["Arithmetic", "Brackets", "Length"]
