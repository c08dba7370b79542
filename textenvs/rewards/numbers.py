"""Scores of numbers in a text: increasing numbers, dates, and numeric answers."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.incremental.splitters import Matches, Words
from textenvs.rewards.incremental.units import Machine, UnitReader, UnitScorer, UnitSums
from textenvs.rewards.keywords import _ANSWER_MARK, _NUMBER, _WHOLE_NUMBER, _finite, _whole
from textenvs.tokenizer import Tokenizer


class _NumberWords(Words):
    """Words, of which all with a letter are alike: none is a number."""

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        return "x" if re.search(r"[^\W0-9]", rest) else rest


class IncreasingNumbers(UnitSums):
    """The share of words that are numbers, each larger than the one before, up to the first that is not.

    The diagnostic of RL4LMs (`RewardIncreasingNumbers`): the numbers of a text before the first that does not rise,
    divided by all of its words, or by `min_words` if there are fewer. Differs from it in what a number is: digits with
    a sign and a decimal point, and punctuation around them ("1, 2, 3." are three); "nan", "inf" and "1_0" are none.

    Args:
        min_words: The least number of words to divide by (half of RL4LMs' `min_tokens`).

    Raises:
        ValueError: If `min_words` is less than 1.

    Cost: two dictionary look-ups a token (amortised). Source: Ramamurthy et al. (2023), Is reinforcement learning (not)
    for natural language processing: the code of RL4LMs, rl4lms/envs/text_generation/test_reward.py.
    """

    name = "increasing_numbers"
    low, high = 0.0, 1.0
    splitter = _NumberWords()
    width = 2  # rising numbers, words

    def __init__(self, min_words: int = 10) -> None:
        self.min_words = _whole("min_words", min_words)

    def start(self, example: Example) -> float:
        """The largest number so far; infinity once one did not rise."""
        return -math.inf

    def read(self, memory: float, unit: str) -> tuple[float, tuple[float, float]]:
        """One word."""
        number = _WHOLE_NUMBER.fullmatch(unit)
        if number is None:
            return memory, (0.0, 1.0)
        value = float(number[1])
        return (value, (1.0, 1.0)) if value > memory else (math.inf, (0.0, 1.0))

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        phi: NDArray[np.float64] = sums[:, 0] / np.maximum(sums[:, 1], self.min_words)
        return phi


class _DateWords(Matches):
    """Letters, digits and hyphens, of which anything that is no beginning of a date is as good as any other."""

    def __init__(self) -> None:
        super().__init__(r"[\w-]+")

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        return (
            rest
            if not rest or re.match(r"[0-9]{0,4}$|[0-9]{4}-[0-9]{0,2}$|[0-9]{4}-[0-9]{2}-[0-9]{0,2}$", rest)
            else "x"
        )


class Dates(UnitSums):
    """The number of different dates in a text, written year-month-day ("2024-02-29"), as a share of a wanted number.

    RL4LMs' diagnostic (`RewardSentencesWithDates`) is 1 where four digits, two and two stand anywhere. Differs from it:
    a date has to be in the calendar ("2023-02-29" is not), to stand by itself (not "12024-02-290"), and more than one
    can be wanted.

    An example can name its own number in `metadata["dates"]`.

    Args:
        dates: How many are wanted. None takes the example's, and 1 where it has none.

    Raises:
        ValueError: If `dates` is less than 1.

    Cost: two dictionary look-ups a token (amortised). Source: the code of RL4LMs, as `IncreasingNumbers`.
    """

    name = "dates"
    low, high = 0.0, 1.0
    splitter = _DateWords()

    def __init__(self, dates: int | None = None) -> None:
        self.dates = None if dates is None else _whole("dates", dates)

    def start(self, example: Example) -> frozenset[str]:
        """The dates so far."""
        return frozenset()

    def read(self, memory: frozenset[str], unit: str) -> tuple[frozenset[str], tuple[float]]:
        """One word."""
        if unit in memory or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", unit):
            return memory, (0.0,)
        try:
            datetime.date.fromisoformat(unit)
        except ValueError:
            return memory, (0.0,)
        return memory | {unit}, (1.0,)

    def features(self, example: Example) -> tuple[float]:
        """How many are wanted."""
        wanted = example.metadata.get("dates", 1) if self.dates is None else self.dates
        try:
            return (float(_whole("dates", wanted)),)
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata['dates']: {error}", example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        phi: NDArray[np.float64] = np.minimum(sums[:, 0] / features[:, 0], 1.0)
        return phi


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


class _NumberReader(UnitReader):
    """The numbers of words, or whether one ends a line."""

    def read(self, memory: Hashable, unit: str) -> tuple[None, tuple[float, ...]]:
        """Whether it ends a line, or has a mark; its first and last number, its first behind the mark (NaN is none)."""
        _, mark, behind = unit.partition(_ANSWER_MARK)
        numbers, marked = _numbers(unit) or [math.nan], _numbers(behind) or [math.nan]
        return None, (float(unit == "\n"), float(bool(mark)), numbers[0], numbers[-1], marked[0])


class NumericAnswer(Reward):
    """Whether the final number of a text is right, with a part of the credit for intermediate results on the way.

    The answer is the first number behind "####", as GSM8K writes it, and without that mark the last number of the text.
    A line's result is its last number; it earns its share of the credit for steps if it is one of the reference's
    results, each of which counts once. Only results of lines count, so a line of many numbers earns no more than one.
    Numbers are equal when they are the same as float64; "$1,000" and "1000.0" are, "1/2" is a 1 and a 2.

    The reference is the example's first one. Its results are what its calculations come to ("<<48/2=24>>", as GSM8K
    annotates them), or, without any, each line's last number; the answer itself is not among them. An example can name
    them in its metadata instead: `metadata["answer"]`, a number, and `metadata["steps"]`, a list of numbers.

    Args:
        steps: The part of the score that intermediate results earn, where the reference has any.

    Raises:
        ValueError: If `steps` is not in [0, 1].

    Cost: a dictionary look-up a word, and array operations over the lanes. Source: Cobbe et al. (2021), Training
    verifiers to solve math word problems (the format); Uesato et al. (2022), Solving math word problems with process-
    and outcome-based feedback (credit for steps).
    """

    name = "numeric_answer"
    low, high = 0.0, 1.0
    splitter = Matches(r"\n|\S+", casefold=False, longest=None)

    def __init__(self, steps: float = 0.3) -> None:
        if isinstance(steps, bool) or not isinstance(steps, (int, float)) or not 0 <= steps <= 1:
            raise ValueError(f"Expected steps in [0, 1], got {steps!r}")
        self.steps = float(steps)

    def solution(self, example: Example) -> tuple[float, tuple[float, ...]]:
        """The right answer and the intermediate results of an example.

        Raises:
            RewardError: If there is no number to be right.
        """
        text = example.references[0] if example.references else ""
        answer, steps = example.metadata.get("answer"), example.metadata.get("steps")
        if isinstance(answer, str):
            answer = next(iter(_numbers(answer)), None)
        try:
            known = _solution(text)
            right = known[0] if answer is None else _finite("answer", answer)
            found = known[1] if steps is None else tuple(_finite("each step", step) for step in steps)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read an example: {error}", example, None) from error
        if math.isnan(right):
            problem = "needs a number in the first reference of every example, or metadata['answer']"
            raise RewardError(self.name, problem, example, None)
        return right, tuple(dict.fromkeys(step for step in found if step != right))

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        right, steps = self.solution(example)
        correct = float(_final_number(response) == right)
        if not steps:
            return correct
        found = {numbers[-1] for numbers in map(_numbers, response.split("\n")) if numbers}
        return (1.0 - self.steps) * correct + self.steps * (sum(step in found for step in steps) / len(steps))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> UnitScorer:
        """See `Reward.scorer`."""
        return _AnswerScorer(self, num_lanes, tokenizer)


def _final_number(text: str) -> float:
    """The number that a text answers with, NaN where there is none."""
    _, mark, behind = text.partition(_ANSWER_MARK)
    numbers = _numbers(behind) if mark else []
    if numbers:
        return numbers[0]
    numbers = _numbers(text)
    return numbers[-1] if numbers else math.nan


@lru_cache(maxsize=1 << 14)
def _solution(text: str) -> tuple[float, tuple[float, ...]]:
    results = re.findall(r"<<[^<>]*=([^<>=]*)>>", text)
    if results:
        steps = [numbers[-1] for numbers in map(_numbers, results) if numbers]
    else:
        lines = text.partition(_ANSWER_MARK)[0].split("\n")
        steps = [numbers[-1] for numbers in map(_numbers, lines) if numbers]
    return _final_number(text), tuple(steps)


class _AnswerScorer(UnitScorer):
    """Of each lane: the last number of its line and of its text, the answer behind a mark, and the results found."""

    def __init__(self, reward: NumericAnswer, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._score = reward
        self._machine = Machine(_NumberReader(), self.units, num_lanes, 5)
        self._right = np.zeros(num_lanes)
        self._steps = np.full((num_lanes, 1), np.nan)
        self._state: dict[str, NDArray[Any]] = {
            "line": np.full(num_lanes, np.nan),
            "last": np.full(num_lanes, np.nan),
            "marked": np.zeros(num_lanes, dtype=np.bool_),
            "answer": np.full(num_lanes, np.nan),
            "found": np.zeros((num_lanes, 1), dtype=np.bool_),
        }
        self._saved = {name: array.copy() for name, array in self._state.items()}

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._right[lane], steps = self._score.solution(example)
            more = len(steps) - self._steps.shape[1]
            if more > 0:
                self._steps = np.pad(self._steps, ((0, 0), (0, more)), constant_values=np.nan)
                for state in (self._state, self._saved):
                    state["found"] = np.pad(state["found"], ((0, 0), (0, more)))
            self._steps[lane] = np.nan
            self._steps[lane, : len(steps)] = steps
        for name, array in self._state.items():
            array[lanes] = False if array.dtype == np.bool_ else np.nan
            self._saved[name][lanes] = array[lanes]

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        ends, mark, first, last, marked = self._machine.read(lanes, units).T
        state = self._state
        ending = lanes[ends > 0]
        state["found"][ending] |= self._steps[ending] == state["line"][ending, None]
        state["line"][ending] = np.nan
        for name in ("line", "last"):
            array = state[name]
            array[lanes] = np.where(np.isnan(last), array[lanes], last)
        # The answer is the first number behind the first mark, in this word or a later one.
        behind = np.where(state["marked"][lanes], first, marked)
        answer = state["answer"][lanes]
        state["answer"][lanes] = np.where(np.isnan(answer), behind, answer)
        state["marked"][lanes] |= mark > 0

    def mark(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            self._saved[name][lanes] = array[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            array[lanes] = self._saved[name][lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        state, steps = self._state, self._steps[lanes]
        answer = np.where(np.isnan(state["answer"][lanes]), state["last"][lanes], state["answer"][lanes])
        correct = (answer == self._right[lanes]).astype(np.float64)
        found = (state["found"][lanes] | (steps == state["line"][lanes, None])).sum(axis=1)
        wanted = (~np.isnan(steps)).sum(axis=1)
        part = self._score.steps
        phi: NDArray[np.float64] = np.where(
            wanted == 0, correct, (1.0 - part) * correct + part * (found / np.maximum(wanted, 1))
        )
        return phi
