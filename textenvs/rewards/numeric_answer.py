r"""The score of a number that answers a question, with credit for the results on the way to it.

A text is read as a row of units: line ends, the marks "####" and "\boxed", and numbers. All else is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_number
from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import Machine, UnitReader, UnitScorer
from textenvs.tokenizer import Tokenizer

_MARKS = ("####", "\\boxed")
_GAP = " \u00a0\u202f"  # the spaces that may stand between thousands
_MINUS = "\u2212"  # the sign of typesetters
# A minus sign after a letter, digit or closing bracket is a hyphen or a subtraction.
_SIGN = rf"(?<![\w)\]}}])[-{_MINUS}]"
_DIGITS = (
    rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]{{1,3}}(?:[{_GAP}][0-9]{{3}})+(?![0-9])|[0-9]+)"
    r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
)
_IN_BRACES = r"[0-9][0-9,]{0,39}(?:\.[0-9]{1,39})?"
_UNIT = re.compile(
    r"\n|####|\\boxed"
    rf"|(?:{_SIGN})?\\[dt]?frac(?:\{{-?{_IN_BRACES}\}}\{{{_IN_BRACES}\}}|[0-9][0-9])"
    rf"|(?:{_SIGN}\$?)?{_DIGITS}(?: ?/ ?{_DIGITS})*"
    rf"|(?:{_SIGN}\$?|(?<![\w)\]}}]))\.[0-9]+"
)
# The end of a text that may become a unit, or a part of one: a command, something else, ...
_BEGUN_COMMAND = re.compile(
    rf"(?:{_SIGN})?\\(?:[a-z]{{0,5}}|[dt]?frac(?:[0-9]|\{{[-0-9,.]{{0,82}}(?:\}}(?:\{{[-0-9,.]{{0,82}})?)?))\Z"
)
_BEGUN = re.compile(rf"(?:#{{1,3}}|{_SIGN}\$?\.?|(?<![\w)\]}}])\.)\Z")
# ... and what may stand between a number and the rest of it.
_INSIDE = re.compile(rf"[,.{_GAP}]?|[eE][+-]?| ?/ ?")
_CONTEXT = re.compile(r"[\w)\]}]\Z")
_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# Signs that a number is a part of an expression: an operator between it and a variable or bracket, a function's name, a
# comparison, the "_" of an index, ...
_EXPRESSION_BEFORE = re.compile(
    rf"(?:(?:(?<![A-Za-z])[A-Za-z]|[)\]}}])\s*[-+*/^{_MINUS}×·]\s*[({{]?|[A-Za-z]\s*[+*/^×·]"
    r"|(?<![A-Za-z])(?:sin|cos|tan|log|ln|exp|sqrt|[a-z])\s*\(|(?<![A-Za-z])(?:sin|cos|tan|log|ln|exp|sqrt)"
    r"|(?:(?<![-=])[<>]|[≤≥≠±√])=?|!=|[A-Za-z]_\{?)\s*\Z"
)
# ... another operator, a variable, a constant, or a fraction that is one character.
_EXPRESSION_AFTER = re.compile(
    rf"\s*[-+*/^{_MINUS}×·]\s*(?:[A-Za-z](?![A-Za-z])|[(\\])|[a-z]?[xyzi](?![A-Za-z])"
    r"|\s*[π√±\u00bc-\u00be\u2150-\u215e²³]"
)
_FRACTION = re.compile(r"\\[dt]?frac")
_COMMAND = re.compile(r"\\(?!boxed|text|mathrm|mbox|left|right|quad|[dt]?frac[{0-9])[A-Za-z]+")


class _NumberUnits(Splitter):
    """Line ends, marks and numbers. A number may go on after a space, and two may become one."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into units. The rest begins with the first that may still change, or is what decides a sign."""
        matches = list(_UNIT.finditer(text))
        start = len(text)
        if matches and matches[-1].group() != "\n" and _INSIDE.fullmatch(text, matches[-1].end()):
            start = matches[-1].start()
            # "1" and "00" are two numbers, and one with another 0.
            if len(matches) > 1 and start - matches[-2].end() <= 1 and matches[-2].group() != "\n":
                start = matches[-2].start()
        after = matches[-1].end() if matches else 0
        for begun in (_BEGUN.search(text, after), _BEGUN_COMMAND.search(text)):
            start = start if begun is None else min(start, begun.start())
        units = [match.group() for match in matches if match.end() <= start]
        if start == len(text):
            return units, "x" if _CONTEXT.search(text) else ""
        return units, text[start:]

    def finish(self, rest: str) -> list[str]:
        """Returns the units of a rest."""
        return _UNIT.findall(rest)

    def closes(self, character: str) -> bool:
        """Returns False: a space may stand inside of a number."""
        return False

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into units."""
        return _UNIT.findall(text)


def _value(unit: str) -> float:
    """Returns the value of a unit that is a number. A division by zero is infinite, which equals no answer."""
    digits = unit.replace(_MINUS, "-").replace("$", "")
    for gap in (",", *_GAP):
        digits = digits.replace(gap, "")
    if "frac" in digits:
        sign, _, parts = digits.partition("\\")
        top, bottom = re.findall(r"-?[0-9.]+", parts) if "{" in parts else list(parts[-2:])
        digits = f"{sign}{top}/{bottom}".removeprefix("--")
    parts_of = digits.split("/")
    if len(parts_of) != 2:  # a date has more parts, and its last number counts
        return float(parts_of[-1])
    numerator, denominator = map(float, parts_of)
    return numerator / denominator if denominator else math.inf


def _numbers(text: str) -> list[float]:
    return [_value(unit) for unit in _UNIT.findall(text) if unit != "\n" and unit not in _MARKS]


class _NumberReader(UnitReader):
    """Reads what a unit is."""

    def read(self, memory: Hashable, unit: str) -> tuple[None, tuple[float, ...]]:
        """Returns three numbers: 1 if the unit ends a line; 1 if it is a mark; its value, NaN if it is no number."""
        if unit == "\n":
            return None, (1.0, 0.0, math.nan)
        return None, (0.0, 1.0, math.nan) if unit in _MARKS else (0.0, 0.0, _value(unit))


def _read_text(units: Iterable[str]) -> tuple[float, list[float]]:
    """Returns the answer of a text, NaN if it has none, and the result of each line with a number."""
    answer, last, line, is_marked, results = math.nan, math.nan, math.nan, False, []
    for unit in (*units, "\n"):
        if unit == "\n":
            if not math.isnan(line):
                results.append(line)
            line = math.nan
        elif unit in _MARKS:
            is_marked = True
        else:
            line = last = _value(unit)
            if is_marked and math.isnan(answer):
                answer = last
    return (last if math.isnan(answer) else answer), results


class NumericAnswer(Reward):
    r"""Credit for the right final number of a text, and for intermediate results on the way to it.

    One number of a text is its answer: the first after the first "####" (as GSM8K writes it) or "\boxed", and without
    such a mark, or a number after it, the last of the text. So it is of no use to give several.

    The result of a line is its last number. It earns its share of the credit for steps if it is one of the reference's
    results; each of those counts once. If a text has more results than the reference (the right answer, and one more
    for its own answer, left out), the credit is divided by their number instead, so that listing numbers earns no more
    than guessing one.

    Numbers are equal if they are the same float64. A number may have a sign ("-" or the typographic minus), thousands
    ("1,000" or "1 000"), decimals and an exponent ("1e3"), and be a fraction ("1/2", "\frac{1}{2}" is 0.5). Signs of
    currency, "%" and units count for nothing: "72%", "$72" and "72 km" are 72, and "1.2 million" is 1.2. Words are not
    read: "minus 5" is 5. Nor is algebra: "3x + 2y = 3" ends with 3, and is one.

    The reference is the example's first one. Its answer is behind a mark, after the last "=" of its last line with a
    number, or the only number in that line. An example that leaves a choice ("3 or 4") raises an error, and so does one
    that is an expression ("x+1", "2x", "sin 30", "x > 5", "1/0") or a mixed number ("1 1/2", "2½"). Its results are
    those of its calculations ("<<48/2=24>>", as GSM8K annotates them), or, without any, each line's last number; the
    answer itself is not among them. An example can name them in its metadata instead: `metadata["answer"]`, a number,
    and `metadata["steps"]`, a list of numbers.

    Args:
        steps: The part of the score that intermediate results earn, if the reference has any.

    Raises:
        ValueError: If `steps` is not in [0, 1].
        TypeError: If `steps` is not a number.

    Cost: a dictionary look-up a token, and array operations over the lanes. Source: Cobbe et al. (2021), Training
    verifiers to solve math word problems (the format); Uesato et al. (2022), Solving math word problems with process-
    and outcome-based feedback (credit for steps).
    """

    name = "numeric_answer"
    low, high = 0.0, 1.0
    splitter = _NumberUnits()

    def __init__(self, steps: float = 0.3) -> None:
        self.steps = check_number("steps", steps, low=0, high=1)

    def solution(self, example: Example) -> tuple[float, tuple[float, ...]]:
        """Returns the right answer and the intermediate results of an example.

        Raises:
            RewardError: If the example does not have exactly one number as its answer.
        """
        text = example.references[0] if example.references else ""
        answer, steps = example.metadata.get("answer"), example.metadata.get("steps")
        try:
            if answer is None or isinstance(answer, str):
                right = _reference_answer(text if answer is None else answer)
            else:
                right = check_number("answer", answer)
            results = _steps(text) if steps is None else tuple(check_number("each step", step) for step in steps)
        except (TypeError, ValueError) as error:
            raise RewardError(self.name, f"cannot read an example: {error}", example, None) from error
        if math.isnan(right):
            problem = "needs a number in the first reference of every example, or metadata['answer']"
            raise RewardError(self.name, problem, example, None)
        return right, tuple(dict.fromkeys(step for step in results if step != right))

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by its answer and the results of its lines."""
        right, steps = self.solution(example)
        answer, results = _read_text(self.splitter.split(response))
        correct = float(answer == right)
        if not steps:
            return correct
        earned = sum(step in results for step in steps)
        others = sum(result != right and result not in steps for result in results)
        return (1.0 - self.steps) * correct + self.steps * (earned / max(len(steps), earned + others - 1))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> UnitScorer:
        """Makes a scorer that keeps the answer and the results of each lane."""
        return _AnswerScorer(self, num_lanes, tokenizer)


@lru_cache(maxsize=1 << 14)
def _reference_answer(text: str) -> float:
    """Returns the one number that a reference gives as its answer, NaN if it has no number.

    Raises:
        ValueError: If there are several, or it is a part of an expression.
    """
    box = _BOX.search(text)
    before, mark, after = text.partition("####")
    if box is not None and (not mark or box.start() < len(before)):
        place = box[1]
    elif mark and _numbers(after):
        place = next(line for line in after.split("\n") if _numbers(line))
    else:
        place = next((line for line in reversed(text.split("\n")) if _numbers(line)), "")
        before, _, after = place.rpartition("=")
        place = after.removeprefix(">") if _numbers(after) and before[-1:] not in ("<", ">", "!") else place
    numbers = [match for match in _UNIT.finditer(place) if match.group() not in ("\n", *_MARKS)]
    if not numbers:
        return math.nan
    if len(numbers) > 1:
        raise ValueError(f"expected one number as the answer, got {place.strip()!r}: write it after '####'")
    number = numbers[0]
    before, after = place[: number.start()], place[number.end() :]
    is_factorial = not before.strip() and after.startswith("!")  # "It is 5!" is none
    is_part = is_factorial or _EXPRESSION_BEFORE.search(before) or _EXPRESSION_AFTER.match(after)
    if is_part or _COMMAND.search(place) or _FRACTION.search(before) or _FRACTION.search(after):
        raise ValueError(f"expected a number as the answer, got the expression {place.strip()!r}")
    value = _value(number.group())
    if math.isinf(value) or number.group().count("/") > 1:
        raise ValueError(f"expected a finite number as the answer, got {place.strip()!r}")
    return value


@lru_cache(maxsize=1 << 14)
def _steps(text: str) -> tuple[float, ...]:
    results = re.findall(r"<<[^<>]*=([^<>=]*)>>", text)
    lines = results or text.partition(_MARKS[0])[0].split("\n")
    return tuple(numbers[-1] for numbers in map(_numbers, lines) if numbers)


class _AnswerScorer(UnitScorer):
    """Keeps the numbers of each lane that can still change its score. NaN is no number."""

    def __init__(self, reward: NumericAnswer, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._reward = reward
        self._machine = Machine(_NumberReader(), self.units, num_lanes, 3)
        self._right = np.zeros(num_lanes)
        self._steps = np.full((num_lanes, 1), np.nan)
        self._state: dict[str, NDArray[Any]] = {
            "line": np.full(num_lanes, np.nan),  # the last number of the line
            "last": np.full(num_lanes, np.nan),  # the last number of the text
            "has_mark": np.zeros(num_lanes, dtype=np.bool_),
            "answer": np.full(num_lanes, np.nan),  # the first number after the mark
            "earned": np.zeros((num_lanes, 1), dtype=np.bool_),  # the steps that were the result of a line
            "others": np.zeros(num_lanes, dtype=np.int64),  # lines with another result, the right answer left out
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
            array[lanes] = np.nan if array.dtype == np.float64 else 0
            self._marked[name][lanes] = array[lanes]

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        ends, mark, value = self._machine.read(lanes, units).T
        state = self._state
        ending = lanes[ends > 0]
        if len(ending):
            earned, is_other = self._result_of(ending)
            state["earned"][ending] |= earned
            state["others"][ending] += is_other
            state["line"][ending] = np.nan
        is_number = ~np.isnan(value)
        with_number, value = lanes[is_number], value[is_number]
        state["line"][with_number] = state["last"][with_number] = value
        answer = state["answer"][with_number]
        is_answer = state["has_mark"][with_number] & np.isnan(answer)
        state["answer"][with_number] = np.where(is_answer, value, answer)
        state["has_mark"][lanes] |= mark > 0

    def _result_of(self, lanes: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns `(k, steps)` the steps that the line is the result of, and `(k,)` True for another result."""
        line = self._state["line"][lanes]
        earned: NDArray[np.bool_] = self._steps[lanes] == line[:, None]
        is_other: NDArray[np.bool_] = ~(np.isnan(line) | (line == self._right[lanes]) | earned.any(axis=1))
        return earned, is_other

    def mark(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            self._marked[name][lanes] = array[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        for name, array in self._state.items():
            array[lanes] = self._marked[name][lanes]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        state = self._state
        answer = np.where(np.isnan(state["answer"][lanes]), state["last"][lanes], state["answer"][lanes])
        correct = (answer == self._right[lanes]).astype(np.float64)
        of_line, is_other = self._result_of(lanes)
        earned = (state["earned"][lanes] | of_line).sum(axis=1)
        wanted = (~np.isnan(self._steps[lanes])).sum(axis=1)
        results = np.maximum(wanted, earned + state["others"][lanes] + is_other - 1)  # one may be the answer
        part = self._reward.steps
        phi: NDArray[np.float64] = np.where(
            wanted == 0, correct, (1.0 - part) * correct + part * (earned / np.maximum(results, 1))
        )
        return phi
