"""Words and phrases that a text is to contain: keywords, concepts, points of a plot.

They come from the example's metadata, so that every example can ask for other ones, or from an argument, which holds
for all examples. Neither is an error: a score that no response can reach would look like an agent that does not learn.
"""

from __future__ import annotations

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


def argument_or_metadata(reward: Reward, argument: Any, example: Example, key: str) -> Any:
    """Returns a reward's argument, or else the example's metadata of the same name.

    Args:
        reward: The reward, for the error.
        argument: Its argument; None if it was not given.
        example: The example whose `metadata[key]` is read.
        key: The name of both.

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
        """Cuts a text into characters. A space at the end is the rest, since more white space may follow."""
        letters = self.finish(text)
        return (letters[:-1], " ") if letters[-1:] == [" "] else (letters, "")

    def finish(self, rest: str) -> list[str]:
        """Returns the characters of a rest."""
        return list(re.sub(r"\s+", " ", rest.casefold()))

    def closes(self, character: str) -> bool:
        """Returns False: white space is a unit."""
        return False


class Keywords(PhraseReward):
    """The share of the wanted keywords and phrases that a text has, each counted once. Upper and lower case are alike.

    An example names its own in `metadata["keywords"]`: a list of texts, or of lists of texts, any one of which counts.

    Args:
        keywords: The keywords of all examples. None takes each example's own.
        whole_words: If True, a keyword has to be whole words: "cat" is not in "catch". The characters between the words
            of a phrase (white space, commas) do not matter. If False, it may be anywhere, as scripts without spaces
            need.
        inflections: If True, other forms of an English word count: "run" is in "they were running" and in "he ran".

    Raises:
        ValueError: If there is no keyword, one has no word in it, or inflections are asked for without whole words.

    Cost: a dictionary look-up a word (without whole words, a character), and array operations over the lanes. More
    keywords cost hardly more. Source: Baeza-Yates & Gonnet (1992), see `textenvs.rewards.incremental.phrases`.
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
        """Returns the keywords of an example."""
        if self.keywords is not None:
            return self._wanted_of(self.keywords)
        try:
            return self._wanted_of(_as_items(self.key, argument_or_metadata(self, None, example, self.key)))
        except ValueError as error:
            raise RewardError(self.name, f"cannot read metadata[{self.key!r}]: {error}", example, None) from error

    def _wanted_of(self, items: tuple[tuple[str, ...], ...]) -> Wanted:
        return _wanted(items, self.whole_words, self.inflections)


class Concepts(Keywords):
    """The share of the wanted concepts that a text has a form of, after CommonGen's coverage.

    An example names its own in `metadata["concepts"]`, a list of words. With a tag as CommonGen writes it ("look_V",
    "field_N"), only the forms of that part of speech count. Differs from CommonGen's script, which compares the lemmas
    and parts of speech that spaCy finds: here, forms come from spelling rules and a table of irregular words, and "a
    run" counts for the verb.

    Args:
        concepts: The concepts of all examples. None takes each example's own.

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
    """The share of the wanted points of a plot that a text has, in their order.

    Each point is searched for after the end of the one before: a text that has only the second point scores 0. The
    score never falls, except at a last word that is not finished.

    An example names its own in `metadata["plot_points"]`: a list of phrases, or of lists of phrases, any one of which
    counts ("found a ball" or "saw a ball").

    Args:
        plot_points: The points of all examples. None takes each example's own.
        inflections: If True, other forms of English words count.

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
    """Turns a list of texts, or of lists of texts, into tuples."""
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
