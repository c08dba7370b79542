"""DelayedCue, Chain, Password: tasks of credit assignment and exploration.

Their scores are late by themselves: whatever the payout, a response scores 0 until it is long enough. In DelayedCue one
token decides and the rest is waiting; in Chain every token counts and all are paid together; in Password nothing is
paid until everything is right.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import ClassVar

from textenvs.rewards.incremental.automaton import AutomatonReward
from textenvs.tasks.base import Example
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.dice import Dice, text_key

_LETTERS = "abcdefgh"
_PROMPT_LETTERS = "uvwxyz"


class _CueScore(AutomatonReward):
    """1 if the first character is the reference's and the response is at least as long as the reference, else 0."""

    name = "cue"
    low, high = 0.0, 1.0

    def start(self, example: Example) -> Hashable:
        return example.references[0][0], len(example.references[0]), False

    def read(self, memory: tuple[str, int, bool], character: str) -> Hashable:
        """Keeps the wanted cue ("" after the first character), the characters to go, and True if the cue was right."""
        wanted, left, right = memory
        return "", max(left - 1, 0), right or character == wanted

    def value(self, memory: tuple[str, int, bool]) -> float:
        return float(memory[2] and memory[1] == 0)


class DelayedCue(Diagnostic):
    """Write the last letter of the prompt, and then any letters for a while: only then is the first token paid.

    The prompt is some noise and the cue, "wyzxb". A response scores 1 if it begins with the cue and goes on for 4 more
    symbols (level 2: 16, level 3: 64). The shifted split has twice the noise.
    """

    name = "delayed_cue"
    tests = "credit over time: one token decides, long before"
    levels = 3
    default_reward = _CueScore()
    symbols = "abcdwxyz."
    _WAITS: ClassVar = (4, 16, 64)

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._wait = self._WAITS[self.level - 1]
        self.default_max_new_tokens = self._wait + 2

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws a cue and the noise before it."""
        cue = dice.pick("abcd")
        return Example(dice.text("wxyz", 8 if shifted else 4) + cue, (cue + "." * self._wait,))


@lru_cache(maxsize=16)
def _arms(depth: int) -> tuple[dict[str, int], ...]:
    """Returns the worth of each letter at each step, from 0 to 7, in an order that no prompt tells."""
    # From the task's name and not from an example's dice: the arms are the same in every episode, so can be learned.
    orders = [Dice(text_key("chain"), step).sample(_LETTERS, len(_LETTERS)) for step in range(depth)]
    return tuple({letter: worth for worth, letter in enumerate(order)} for order in orders)


class _ChainScore(AutomatonReward):
    """The mean worth of the first `depth` letters, from 0 to 1; 0 if there are fewer."""

    name = "chain"
    low, high = 0.0, 1.0

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def start(self, example: Example) -> Hashable:
        return 0, 0

    def read(self, memory: tuple[int, int], character: str) -> Hashable:
        """Keeps the number of letters so far, and their total worth."""
        step, worth = memory
        if step == self.depth:
            return memory
        return step + 1, worth + _arms(self.depth)[step].get(character, 0)

    def value(self, memory: tuple[int, int]) -> float:
        step, worth = memory
        return worth / (self.depth * (len(_LETTERS) - 1)) if step == self.depth else 0.0


class Chain(Diagnostic):
    """Pull an arm at each of some steps, and get the mean of their worths at the last step.

    Eight letters are arms worth 0 to 7, in another order at each step. Levels 1 to 6 have 1, 2, 4, 8, 16 and 32 steps:
    level 1 is a bandit, and with more steps each arm is a smaller part of one late reward. The prompt, three letters
    (shifted: five), says nothing, and the policy has to learn that.
    """

    name = "chain"
    tests = "credit over actions: from a bandit to one late reward"
    levels = 6
    level = 3
    symbols = _LETTERS + _PROMPT_LETTERS

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._depth = 2 ** (self.level - 1)
        self.default_reward = _ChainScore(self._depth)
        self.default_max_new_tokens = self._depth + 1

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws a prompt. The best arms are always the same."""
        best = "".join([max(worth, key=worth.__getitem__) for worth in _arms(self._depth)])
        return Example(dice.text(_PROMPT_LETTERS, 5 if shifted else 3), (best,))


class _PasswordScore(AutomatonReward):
    """1 for the first reference, else 0."""

    name = "password"
    low, high = 0.0, 1.0

    def start(self, example: Example) -> Hashable:
        return example.references[0]

    def read(self, memory: str | None, character: str) -> Hashable:
        """Keeps the rest of the password, or None once a character was wrong."""
        return memory[1:] if memory and memory[0] == character else None

    def value(self, memory: str | None) -> float:
        return float(memory == "")


class Password(Diagnostic):
    """Find a secret word that no prompt tells, and stop after it: 1 for exactly that word, else 0.

    The word has 2 letters at level 1, 3 at level 2 and 4 at level 3, and is the same for every prompt (three letters;
    shifted: five). Random tokens hit it once in 15 to the power of its letters and EOS.
    """

    name = "password"
    tests = "exploration: no reward until everything is right"
    levels = 3
    default_reward = _PasswordScore()
    symbols = _LETTERS + _PROMPT_LETTERS

    def __init__(self, level: int | None = None, **sizes: int) -> None:
        super().__init__(level, **sizes)
        self._secret = Dice(text_key("password")).text(_LETTERS, self.level + 1)
        self.default_max_new_tokens = len(self._secret) + 1

    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws a prompt. The word is always the same."""
        return Example(dice.text(_PROMPT_LETTERS, 5 if shifted else 3), (self._secret,))


__all__ = ["Chain", "DelayedCue", "Password"]
