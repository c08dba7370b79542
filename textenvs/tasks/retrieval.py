"""Needle: find one record in a long context."""

from __future__ import annotations

from typing import ClassVar

from textenvs.rewards.incremental.automaton import Match
from textenvs.tasks.base import Example
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.dice import Dice

_KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Needle(Diagnostic):
    """Write the two digits after a key that the prompt asks for: the answer to "B07...F31...A55...?F" is "31".

    Level 1 has 8 records and 3 dots after each, a prompt of 50 tokens (shifted: 12 records), level 2 has 16 and 8
    (178 tokens; shifted: 24 records) and level 3 has 24 and 16 (458 tokens; shifted: 24 and 32). No key comes twice.
    """

    name = "needle"
    tests = "long context: find one record among many"
    levels = 3
    default_reward = Match()
    default_max_new_tokens = 4
    symbols = _KEYS + "0123456789.?"
    _SIZES: ClassVar = (((8, 3), (12, 3)), ((16, 8), (24, 8)), ((24, 16), (24, 32)))

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws records and a key."""
        records, dots = self._SIZES[self.level - 1][shifted]
        keys = dice.sample(_KEYS, records)
        digits = "".join([f"{dice.below(10**16):016}" for _ in range(0, records, 8)])  # eight values at a time
        values = [digits[2 * record : 2 * record + 2] for record in range(records)]
        asked, gap = dice.below(records), "." * dots
        context = "".join([f"{key}{value}{gap}" for key, value in zip(keys, values, strict=True)])
        return Example(f"{context}?{keys[asked]}", (values[asked],))


__all__ = ["Needle"]
