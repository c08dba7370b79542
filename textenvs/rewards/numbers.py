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

from textenvs.arguments import check_count, check_number
from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.incremental.splitters import Matches, Words
from textenvs.rewards.incremental.units import Machine, UnitReader, UnitScorer, UnitSums
from textenvs.tokenizer import Tokenizer

# A word that is one number, with punctuation around it.
_NUMBER_WORD = re.compile(r"[^\w+.-]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[^\w]*")
# A number anywhere in a text. A minus sign after a letter, digit or closing bracket is a hyphen or a subtraction.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w)\]])-?\.[0-9]+"
)
_ANSWER_MARK = "####"


class _NumberWords(Words):
    """Words. All with a letter are alike, since none of them is a number."""

    def shorten(self, rest: str) -> str:
        """Replaces a word with a letter by "x"."""
        return "x" if re.search(r"[^\W0-9]", rest) else rest


class IncreasingNumbers(UnitSums):
    """The share of words that are numbers, each larger than the one before, up to the first number that is not.

    The diagnostic of RL4LMs (`RewardIncreasingNumbers`): the number of numbers before the first that does not rise,
    divided by the number of words, or by `min_words` if there are fewer. Differs from RL4LMs in its definition of a
    number: digits with a sign and a decimal point, and punctuation around them ("1, 2, 3." are three numbers); "nan",
    "inf" and "1_0" are not numbers.

    Args:
        min_words: The least number of words to divide by (half of RL4LMs' `min_tokens`).

    Raises:
        ValueError: If `min_words` is less than 1.
        TypeError: If `min_words` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: Ramamurthy et al. (2023), Is reinforcement learning (not)
    for natural language processing: the code of RL4LMs, rl4lms/envs/text_generation/test_reward.py.
    """

    name = "increasing_numbers"
    low, high = 0.0, 1.0
    splitter = _NumberWords()
    width = 2  # the number of rising numbers, and of words

    def __init__(self, min_words: int = 10) -> None:
        self.min_words = check_count("min_words", min_words)

    def start(self, example: Example) -> float:
        """Returns minus infinity. The memory is the largest number so far, and infinity once a number did not rise."""
        return -math.inf

    def read(self, memory: float, unit: str) -> tuple[float, tuple[float, float]]:
        """Counts a word, and a number if it rises."""
        number = _NUMBER_WORD.fullmatch(unit)
        if number is None:
            return memory, (0.0, 1.0)
        value = float(number[1])
        return (value, (1.0, 1.0)) if value > memory else (math.inf, (0.0, 1.0))

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the rising numbers by the words."""
        phi: NDArray[np.float64] = sums[:, 0] / np.maximum(sums[:, 1], self.min_words)
        return phi


class _DateWords(Matches):
    """Runs of letters, digits and hyphens. All unfinished ones that do not begin a date are alike."""

    def __init__(self) -> None:
        super().__init__(r"[\w-]+")

    def shorten(self, rest: str) -> str:
        """Replaces a run that does not begin a date by "x"."""
        begins_date = re.match(r"[0-9]{0,4}$|[0-9]{4}-[0-9]{0,2}$|[0-9]{4}-[0-9]{2}-[0-9]{0,2}$", rest)
        return rest if not rest or begins_date else "x"


class Dates(UnitSums):
    """The number of different dates in a text, written year-month-day ("2024-02-29"), as a share of a wanted number.

    RL4LMs' diagnostic (`RewardSentencesWithDates`) is 1 if a text has four digits, two and two anywhere. Here, a date
    has to be in the calendar ("2023-02-29" is not) and on its own (not "12024-02-290"), and more than one can be
    wanted.

    An example can name its own number in `metadata["dates"]`.

    Args:
        dates: The wanted number. None takes the example's, and 1 without one.

    Raises:
        ValueError: If `dates` is less than 1.
        TypeError: If `dates` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: the code of RL4LMs, as `IncreasingNumbers`.
    """

    name = "dates"
    low, high = 0.0, 1.0
    splitter = _DateWords()

    def __init__(self, dates: int | None = None) -> None:
        self.dates = check_count("dates", dates, optional=True)

    def start(self, example: Example) -> frozenset[str]:
        """Returns an empty set. The memory is the dates so far."""
        return frozenset()

    def read(self, memory: frozenset[str], unit: str) -> tuple[frozenset[str], tuple[float]]:
        """Counts a date that has not been there before."""
        if unit in memory or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", unit):
            return memory, (0.0,)
        try:
            datetime.date.fromisoformat(unit)
        except ValueError:
            return memory, (0.0,)
        return memory | {unit}, (1.0,)

    def features(self, example: Example) -> tuple[float]:
        """Returns the wanted number."""
        wanted = example.metadata.get("dates", 1) if self.dates is None else self.dates
        try:
            return (float(check_count("dates", wanted)),)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read metadata['dates']: {error}", example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the dates by the wanted number."""
        phi: NDArray[np.float64] = np.minimum(sums[:, 0] / features[:, 0], 1.0)
        return phi


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


class _NumberReader(UnitReader):
    """Reads the numbers of words, and the ends of lines."""

    def read(self, memory: Hashable, unit: str) -> tuple[None, tuple[float, ...]]:
        """Returns five numbers of one unit.

        They are: 1 if it ends a line; 1 if it has the mark of an answer; and, each NaN if there is none, its first
        number, its last number, and its first number after the mark.
        """
        _, mark, after_mark = unit.partition(_ANSWER_MARK)
        numbers, marked = _numbers(unit) or [math.nan], _numbers(after_mark) or [math.nan]
        return None, (float(unit == "\n"), float(bool(mark)), numbers[0], numbers[-1], marked[0])


class NumericAnswer(Reward):
    """Credit for the right final number of a text, and for intermediate results on the way to it.

    The answer is the first number after "####", as GSM8K writes it, and without that mark the last number of the text.
    The result of a line is its last number. It earns its share of the credit for steps if it is one of the reference's
    results; each of those counts once. Since a line has one result, a line of many numbers earns no more than one.
    Numbers are equal if they are the same float64: "$1,000" equals "1000.0", and "1/2" is a 1 and a 2.

    The reference is the example's first one. Its results are those of its calculations ("<<48/2=24>>", as GSM8K
    annotates them), or, without any, each line's last number; the answer itself is not among them. An example can name
    them in its metadata instead: `metadata["answer"]`, a number, and `metadata["steps"]`, a list of numbers.

    Args:
        steps: The part of the score that intermediate results earn, if the reference has any.

    Raises:
        ValueError: If `steps` is not in [0, 1].
        TypeError: If `steps` is not a number.

    Cost: a dictionary look-up a word, and array operations over the lanes. Source: Cobbe et al. (2021), Training
    verifiers to solve math word problems (the format); Uesato et al. (2022), Solving math word problems with process-
    and outcome-based feedback (credit for steps).
    """

    name = "numeric_answer"
    low, high = 0.0, 1.0
    splitter = Matches(r"\n|\S+", casefold=False, longest=None)

    def __init__(self, steps: float = 0.3) -> None:
        self.steps = check_number("steps", steps, low=0, high=1)

    def solution(self, example: Example) -> tuple[float, tuple[float, ...]]:
        """Returns the right answer and the intermediate results of an example.

        Raises:
            RewardError: If the example has no number as its answer.
        """
        text = example.references[0] if example.references else ""
        answer, steps = example.metadata.get("answer"), example.metadata.get("steps")
        if isinstance(answer, str):
            answer = next(iter(_numbers(answer)), None)
        try:
            known_answer, known_steps = _solution(text)
            right = known_answer if answer is None else check_number("answer", answer)
            results = known_steps if steps is None else tuple(check_number("each step", step) for step in steps)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read an example: {error}", example, None) from error
        if math.isnan(right):
            problem = "needs a number in the first reference of every example, or metadata['answer']"
            raise RewardError(self.name, problem, example, None)
        return right, tuple(dict.fromkeys(step for step in results if step != right))

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by its final number and the results of its lines."""
        right, steps = self.solution(example)
        correct = float(_final_number(response) == right)
        if not steps:
            return correct
        results = {numbers[-1] for numbers in map(_numbers, response.split("\n")) if numbers}
        return (1.0 - self.steps) * correct + self.steps * (sum(step in results for step in steps) / len(steps))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> UnitScorer:
        """Makes a scorer that keeps the answer and the results of each lane."""
        return _AnswerScorer(self, num_lanes, tokenizer)


def _final_number(text: str) -> float:
    """Returns the number that a text gives as its answer, NaN if there is none."""
    _, mark, after_mark = text.partition(_ANSWER_MARK)
    numbers = _numbers(after_mark) if mark else []
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
    """Keeps the numbers of each lane that can still change its score. NaN is no number."""

    def __init__(self, reward: NumericAnswer, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._reward = reward
        self._machine = Machine(_NumberReader(), self.units, num_lanes, 5)
        self._right = np.zeros(num_lanes)
        self._steps = np.full((num_lanes, 1), np.nan)
        self._state: dict[str, NDArray[Any]] = {
            "line": np.full(num_lanes, np.nan),  # the last number of the line
            "last": np.full(num_lanes, np.nan),  # the last number of the text
            "has_mark": np.zeros(num_lanes, dtype=np.bool_),
            "answer": np.full(num_lanes, np.nan),  # the first number after the mark
            "earned": np.zeros((num_lanes, 1), dtype=np.bool_),  # the steps that were the result of a line
        }
        self._marked = {name: array.copy() for name, array in self._state.items()}

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._right[lane], steps = self._reward.solution(example)
            missing = len(steps) - self._steps.shape[1]
            if missing > 0:
                self._steps = np.pad(self._steps, ((0, 0), (0, missing)), constant_values=np.nan)
                for state in (self._state, self._marked):
                    state["earned"] = np.pad(state["earned"], ((0, 0), (0, missing)))
            self._steps[lane] = np.nan
            self._steps[lane, : len(steps)] = steps
        for name, array in self._state.items():
            array[lanes] = False if array.dtype == np.bool_ else np.nan
            self._marked[name][lanes] = array[lanes]

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        ends, mark, first, last, first_marked = self._machine.read(lanes, units).T
        state = self._state
        ending = lanes[ends > 0]
        state["earned"][ending] |= self._steps[ending] == state["line"][ending, None]
        state["line"][ending] = np.nan
        for name in ("line", "last"):
            array = state[name]
            array[lanes] = np.where(np.isnan(last), array[lanes], last)
        # The answer is the first number after the first mark, in this word or a later one.
        candidate = np.where(state["has_mark"][lanes], first, first_marked)
        answer = state["answer"][lanes]
        state["answer"][lanes] = np.where(np.isnan(answer), candidate, answer)
        state["has_mark"][lanes] |= mark > 0

    def mark(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            self._marked[name][lanes] = array[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            array[lanes] = self._marked[name][lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        state, steps = self._state, self._steps[lanes]
        answer = np.where(np.isnan(state["answer"][lanes]), state["last"][lanes], state["answer"][lanes])
        correct = (answer == self._right[lanes]).astype(np.float64)
        earned = (state["earned"][lanes] | (steps == state["line"][lanes, None])).sum(axis=1)
        wanted = (~np.isnan(steps)).sum(axis=1)
        part = self._reward.steps
        phi: NDArray[np.float64] = np.where(
            wanted == 0, correct, (1.0 - part) * correct + part * (earned / np.maximum(wanted, 1))
        )
        return phi
