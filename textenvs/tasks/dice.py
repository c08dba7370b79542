"""Counter-based choices: what lets an example be a pure function of its place."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

_T = TypeVar("_T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of SplitMix64: Steele, Lea & Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def text_key(text: str) -> int:
    """64 bits that depend on a text alone, the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class Dice:
    """A counter-based source of choices: SplitMix64 from a key. A generator object would cost more than an example.

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
        """Return an integer from 0 to `bound - 1`. The bias of the remainder, below 1e-16, does not matter here."""
        value = self._state = (self._state + _GOLDEN) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK  # `_mix`, without a call
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return (value ^ (value >> 31)) % bound

    def between(self, least: int, most: int) -> int:
        """Return an integer from `least` to `most`, both included."""
        return least + self.below(most - least + 1)

    def pick(self, options: Sequence[_T]) -> _T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def text(self, symbols: str, length: int) -> str:
        """Return `length` symbols, drawn one by one."""
        return "".join([symbols[self.below(len(symbols))] for _ in range(length)])

    def sample(self, options: Sequence[_T], count: int) -> list[_T]:
        """Return `count` different options, in random order."""
        left = list(options)
        for place in range(count):
            other = place + self.below(len(left) - place)
            left[place], left[other] = left[other], left[place]
        return left[:count]
