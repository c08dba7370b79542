"""What a text is to contain: keywords, concepts, points of a plot, a pattern, numbers, dates, an answer.

What a response is asked for comes from its example's metadata, so that every example can ask for something else, or
from an argument, which then holds for all. An example that says nothing, with no argument, is an error: a score that
cannot be reached by anything would look like an agent that does not learn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from textenvs.example import Example
from textenvs.rewards.base import Reward, RewardError
from textenvs.rewards.english import inflections
from textenvs.rewards.incremental.phrases import Phrase, PhraseReward, Wanted
from textenvs.rewards.incremental.splitters import Matches, Splitter

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


_WHOLE_NUMBER = re.compile(r"[^\w+.-]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[^\w]*")


_NUMBER = re.compile(
    r"(?:(?<![\w)\]])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w)\]])-?\.[0-9]+"
)


_ANSWER_MARK = "####"


def _whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected {name} to be at least {least}, got {value!r}")
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number, got {value!r}")
    return float(value)
