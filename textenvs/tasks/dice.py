"""Counter-based random choices, by which an example is a pure function of its split and index."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

_T = TypeVar("_T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    """Scrambles 64 bits (the finaliser of SplitMix64: Steele, Lea & Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def text_key(text: str) -> int:
    """Returns 64 bits that depend on a text alone, the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class Dice:
    """A counter-based source of random choices: SplitMix64 from a key.

    To make one costs little. A generator of Python or NumPy would cost more than the rest of an example.

    Args:
        *key: Whole numbers. The same key gives the same choices.

    Example:
        >>> Dice(7, 1).pick("abc") == Dice(7, 1).pick("abc")
        True
    """

    __slots__ = ("_state",)

    def __init__(self, *key: int) -> None:
        state = 0
        for part in key:
            state = _mix(((state ^ part) + _GOLDEN) & _MASK)
        self._state = state

    def below(self, bound: int) -> int:
        """Returns an integer from 0 to `bound - 1`. The bias of the remainder, below 1e-16, does not matter here."""
        value = self._state = (self._state + _GOLDEN) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK  # `_mix`, written out to save a call
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return (value ^ (value >> 31)) % bound

    def between(self, least: int, most: int) -> int:
        """Returns an integer from `least` to `most`, both included."""
        return least + self.below(most - least + 1)

    def pick(self, options: Sequence[_T]) -> _T:
        """Returns one of the options."""
        return options[self.below(len(options))]

    def text(self, symbols: str, length: int) -> str:
        """Returns `length` symbols, drawn one by one."""
        return "".join([symbols[self.below(len(symbols))] for _ in range(length)])

    def sample(self, options: Sequence[_T], count: int) -> list[_T]:
        """Returns `count` different options, in random order (Fisher & Yates)."""
        shuffled = list(options)
        for index in range(count):
            other = index + self.below(len(shuffled) - index)
            shuffled[index], shuffled[other] = shuffled[other], shuffled[index]
        return shuffled[:count]
