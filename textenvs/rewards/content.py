"""What a text is to contain: keywords, concepts, points of a plot, a pattern, numbers, dates, an answer.

What a response is asked for comes from its example's metadata, so that every example can ask for something else, or
from an argument, which then holds for all. An example that says nothing, with no argument, is an error: a score that
cannot be reached by anything would look like an agent that does not learn.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.automata import Regex
from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.english import inflections, syllables
from textenvs.rewards.phrases import Phrase, PhraseReward, Wanted
from textenvs.rewards.sentences import read_sentences
from textenvs.rewards.units import Chunks, Machine, Matches, Splitter, UnitReader, UnitScorer, UnitSums, Words
from textenvs.tokenizer import Tokenizer

_WORDS = Matches(r"\w+")


def given(reward: Reward, argument: Any, example: Example, key: str) -> Any:
    """What a reward was given as an argument, or else what an example says.

    Args:
        reward: Whose argument it is.
        argument: None where there was none.
        example: Its `metadata[key]` is read.
        key: What both are called.

    Raises:
        RewardError: If there is neither.
    """
    if argument is not None:
        return argument
    if key not in example.metadata:
        name = reward.name
        problem = f"needs metadata[{key!r}] of every example, or an argument for all: {{{name!r}: {{{key!r}: ...}}}}"
        raise RewardError(name, problem, example, None)
    return example.metadata[key]


class _Letters(Splitter):
    """Single characters in lower case, each run of white space as one space."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        letters = self.finish(text)
        return (letters[:-1], " ") if letters[-1:] == [" "] else (letters, "")

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return list(re.sub(r"\s+", " ", rest.casefold()))

    def closes(self, character: str) -> bool:
        """See `Splitter.closes`."""
        return False


class Keywords(PhraseReward):
    """The share of the wanted keywords and phrases that a text has, each counted once. Upper and lower case are alike.

    An example names its own in `metadata["keywords"]`: a list of texts, or of lists of texts, any one of which will do.

    Args:
        keywords: The same for all examples. None takes each example's own.
        whole_words: Whether a keyword has to be whole words: "cat" is then not in "catch". What stands between the
            words of a phrase (white space, commas) does not matter. False finds it anywhere, as scripts without spaces
            need.
        inflections: Whether other forms of an English word count: "run" is in "they were running" and in "he ran".

    Raises:
        ValueError: If there is no keyword, one has no word in it, or inflections are asked for without whole words.

    Cost: a dictionary look-up a word, and array operations over the lanes; without whole words, a character. The number
    of keywords costs next to nothing. Source: Baeza-Yates & Gonnet (1992), see `textenvs.rewards.phrases`.
    """

    name = "keywords"
    key = "keywords"

    def __init__(
        self, keywords: Sequence[Any] | None = None, whole_words: bool = True, inflections: bool = False
    ) -> None:
        if inflections and not whole_words:
            raise ValueError("Expected whole_words with inflections: a part of a word has no inflections")
        self.whole_words = whole_words
        self.inflections = inflections
        self.splitter = _WORDS if whole_words else _Letters()
        self.keywords = None if keywords is None else _as_items(self.key, keywords)
        if self.keywords is not None:
            self._wanted_of(self.keywords)

    def wanted(self, example: Example) -> Wanted:
        """See `PhraseReward.wanted`."""
        if self.keywords is not None:
            return self._wanted_of(self.keywords)
        try:
            return self._wanted_of(_as_items(self.key, given(self, None, example, self.key)))
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata[{self.key!r}]: {error}", example, None) from error

    def _wanted_of(self, items: tuple[tuple[str, ...], ...]) -> Wanted:
        return _wanted(items, self.whole_words, self.inflections)


class Concepts(Keywords):
    """The share of the wanted concepts that a text has a form of, as CommonGen's coverage has it.

    An example names its own in `metadata["concepts"]`, a list of words. A tag as CommonGen writes it ("look_V",
    "field_N") leaves the forms of that kind alone. Differs from CommonGen's script, which compares the lemmas and parts
    of speech that spaCy finds: forms come from spelling rules and a table of irregular words, and "a run" is also the
    verb.

    Args:
        concepts: The same for all examples. None takes each example's own.

    Raises:
        ValueError: If there is no concept, or one has no word in it.

    Cost: as `Keywords`. Source: Lin et al. (2020), CommonGen: a constrained text generation challenge for generative
    commonsense reasoning, section 5.
    """

    name = "concepts"
    key = "concepts"

    def __init__(self, concepts: Sequence[Any] | None = None) -> None:
        super().__init__(concepts, inflections=True)


class PlotPoints(Keywords):
    """The share of wanted points that a text has, one after another in their order.

    Each point is looked for behind the end of the one before, and counts once it is there: a text that begins with the
    second point has none. The score never falls, but for a last word that is not finished.

    An example names its own in `metadata["plot_points"]`: a list of phrases, or of lists of phrases, any of which will
    do ("found a ball" or "saw a ball").

    Args:
        plot_points: The same for all examples. None takes each example's own.
        inflections: Whether other forms of English words count.

    Raises:
        ValueError: If there is no point, or one has no word in it.

    Cost: as `Keywords`.
    """

    name = "plot_points"
    key = "plot_points"
    ordered = True

    def __init__(self, plot_points: Sequence[Any] | None = None, inflections: bool = False) -> None:
        super().__init__(plot_points, inflections=inflections)


def _as_items(key: str, wanted: Any) -> tuple[tuple[str, ...], ...]:
    """Lists of texts, or of lists of texts, as tuples."""
    items = [] if isinstance(wanted, (str, Mapping)) or not isinstance(wanted, Sequence) else list(wanted)
    items = [(item,) if isinstance(item, str) else item for item in items]
    lists = all(isinstance(item, Sequence) and item for item in items)
    if not items or not lists or not all(isinstance(text, str) for item in items for text in item):
        raise ValueError(f"Expected {key} to be a list of at least one text (or list of texts), got {wanted!r}")
    return tuple(tuple(item) for item in items)


@lru_cache(maxsize=1 << 14)
def _wanted(items: tuple[tuple[str, ...], ...], whole_words: bool, inflected: bool) -> Wanted:
    return Wanted(tuple(tuple(_phrase(text, whole_words, inflected) for text in item) for item in items))


def _phrase(text: str, whole_words: bool, inflected: bool) -> Phrase:
    tag = re.search("_([NVA])$", text) if inflected else None
    bare = text[: tag.start()] if tag else text
    units = _WORDS.split(bare) if whole_words else _Letters().split(bare.strip())
    if not units:
        raise ValueError(f"Expected keywords with a letter or digit in each, got {text!r}")
    return tuple(inflections(unit, tag[1] if tag else "") if inflected else (unit,) for unit in units)


@lru_cache(maxsize=1 << 10)
def _regex(pattern: str) -> tuple[Regex, float]:
    regex = Regex(pattern)
    fewest = regex.remaining(regex.start)
    if math.isinf(fewest):
        raise ValueError(f"Expected a regular expression that matches something, got {pattern!r}")
    return regex, fewest


class RegexProgress(UnitSums):
    """How far a text has come on the way to a text that a regular expression matches as a whole.

    With d the number of bytes that the shortest way from here to a matching text still takes, and D what it takes from
    nothing, the score is 1 - d / D, and not below 0. So it is 1 exactly at a match, and 0 where no text that begins so
    can match. A detour that the expression allows costs nothing but the way back.

    An example names its own in `metadata["pattern"]`.

    Args:
        pattern: The same for all examples, as `textenvs.automata.Regex` reads it (no look-around, no back-references).
            None takes each example's own.

    Raises:
        ValueError: If it is no such expression, or nothing matches it.

    Cost: two dictionary look-ups a token, once a state has seen it.
    """

    name = "regex"
    low, high = 0.0, 1.0
    splitter = Chunks()

    def __init__(self, pattern: str | None = None) -> None:
        if pattern is not None:
            if not isinstance(pattern, str):
                raise ValueError(f"Expected pattern to be a regular expression, got {pattern!r}")
            _regex(pattern)
        self.pattern = pattern

    def _pattern(self, example: Example) -> str:
        return str(given(self, self.pattern, example, "pattern"))

    def start(self, example: Example) -> tuple[str, Any]:
        """The pattern, and its state: None where nothing can match."""
        pattern = self._pattern(example)
        try:
            return pattern, _regex(pattern)[0].start
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata['pattern']: {error}", example, None) from error

    def read(self, memory: tuple[str, Any], unit: str) -> tuple[tuple[str, Any], tuple[float]]:
        """Some characters: by how much the way to a match grows."""
        pattern, state = memory
        regex, fewest = _regex(pattern)
        before = _remaining(regex, fewest, state)
        for byte in unit.encode():
            if state is not None:
                state = regex.step(state, byte)
        return (pattern, state), (_remaining(regex, fewest, state) - before,)

    def features(self, example: Example) -> tuple[float]:
        """The shortest way from nothing to a match, in bytes."""
        return (_regex(self._pattern(example))[1],)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        way = features[:, 0]
        phi: NDArray[np.float64] = np.maximum(0.0, 1.0 - (way + sums[:, 0]) / np.maximum(way, 1.0))
        return phi


def _remaining(regex: Regex, fewest: float, state: Any) -> float:
    """The way from a state, at most so far that it scores 0."""
    return min(max(fewest, 1.0), math.inf if state is None else regex.remaining(state))


class Readability(UnitSums):
    """How easy a text is to read, by the lengths of its sentences and words.

    Without a wanted grade, Flesch's reading ease (206.835 - 1.015 words / sentence - 84.6 syllables / word), from 0 at
    0 (very hard) to 1 at 100 (very easy). With one, 1 where the Flesch-Kincaid grade (0.39 words / sentence + 11.8
    syllables / word - 15.59) is the wanted one, falling to 0 at ten grades off. Words and syllables are counted by
    `textenvs.rewards.english.syllables`, sentences by `textenvs.rewards.sentences`. A text of fewer than `min_words`
    words has only its share of the score, so that one short word is not the best text.

    Args:
        grade: The wanted grade in US school years. None takes `metadata["grade"]`, and reading ease without one.
        min_words: From how many words on a score counts in full.

    Raises:
        ValueError: If the grade is no finite number, or `min_words` is less than 1.

    Cost: two dictionary look-ups a token (amortised). Source: Flesch (1948), A new readability yardstick; Kincaid et
    al. (1975), Derivation of new readability formulas for Navy enlisted personnel.
    """

    name = "readability"
    low, high = 0.0, 1.0
    width = 3  # words, sentences, syllables

    def __init__(self, grade: float | None = None, min_words: int = 8) -> None:
        self.grade = None if grade is None else _finite("grade", grade)
        self.min_words = _whole("min_words", min_words)

    def start(self, example: Example) -> bool:
        """Whether a sentence has begun."""
        return False

    def read(self, memory: bool, unit: str) -> tuple[bool, tuple[float, float, float]]:
        """One word."""
        memory, begun = read_sentences(memory, unit)
        number = syllables(unit)
        return memory, (float(number > 0), float(begun), float(number))

    def features(self, example: Example) -> tuple[float]:
        """The wanted grade, NaN for none."""
        grade = example.metadata.get("grade") if self.grade is None else self.grade
        try:
            return (math.nan if grade is None else _finite("grade", grade),)
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata['grade']: {error}", example, None) from error

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        words, sentences, spoken = sums.T
        grade = features[:, 0]
        per_sentence, per_word = words / np.maximum(sentences, 1.0), spoken / np.maximum(words, 1.0)
        ease = (206.835 - 1.015 * per_sentence - 84.6 * per_word) / 100.0
        off = np.abs(0.39 * per_sentence + 11.8 * per_word - 15.59 - grade) / 10.0
        share = np.clip(np.where(np.isnan(grade), ease, 1.0 - off), 0.0, 1.0)
        phi: NDArray[np.float64] = share * np.minimum(words / self.min_words, 1.0)
        return phi


class _NumberWords(Words):
    """Words, of which all with a letter are alike: none is a number."""

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        return "x" if re.search(r"[^\W0-9]", rest) else rest


_WHOLE_NUMBER = re.compile(r"[^\w+.-]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[^\w]*")


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


_NUMBER = re.compile(
    r"(?:(?<![\w)\]])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w)\]])-?\.[0-9]+"
)
_ANSWER_MARK = "####"


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


def _whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected {name} to be at least {least}, got {value!r}")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number, got {value!r}")
    return float(value)
