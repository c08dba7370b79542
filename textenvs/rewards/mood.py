"""Mood: a wanted mood, in English that reads well, does not repeat itself and goes on with its prompt.

The score is a product of four factors from 0 to 1. Each of them is full for ordinary text, so that there is nothing to
gain beyond it: no word is worth having twice, and no grammar is better than good.

    mood       valences of the words, negation, contrast and intensity, through a logistic curve with an end
    fluency    how much likelier each word is behind its left neighbour than anywhere (`textenvs.rewards.english_pairs`)
    variety    words and pairs of words that the response has had before, or copies from the prompt
    link       something of the prompt is taken up: a name, an animal, a thing

The valences are those of two lexicons, pattern.en's and the opinion lexicon, and of a regression onto further words
(`textenvs.data.make_english`). VADER's are not among them, so `vader` can be held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice
from textenvs.example import Example
from textenvs.rewards import english_pairs
from textenvs.rewards.base import Reward, Scorer
from textenvs.rewards.english import straight_apostrophes
from textenvs.rewards.incremental.growing import with_rows
from textenvs.rewards.incremental.splitters import Words
from textenvs.rewards.incremental.units import Machine, UnitReader, UnitScorer
from textenvs.rewards.sentiment import mood_sign
from textenvs.tokenizer import Tokenizer

FACTORS = ("mood", "fluency", "variety", "link")
"""The factors, of which a score may have fewer."""

Memory: TypeAlias = tuple[str, str, int, bool, bool]
"""The last token's entry in the table of pairs, the last word, the number of words that a negation still reaches, and
True behind an intensity word and behind a "but"."""

_VALENCES = Path(__file__).parents[1] / "data" / "mood_words.txt"

_NEGATIONS = frozenset(
    """not no never nothing none nobody nor without neither hardly barely scarcely lacks lack lacking cannot""".split()  # noqa: SIM905 - a list of so many strings is hard to read
)
_INTENSE = frozenset(
    """very so really truly most more too extremely incredibly utterly absolutely such""".split()  # noqa: SIM905 - a list of so many strings is hard to read
)
_CONTRASTS = frozenset(["but", "however"])
_ENDS = frozenset(".!?;")
# Words that say little by themselves: they have no valence, and may come as often as they like.
_FUNCTION = frozenset(
    """the a an of and to in is it that for with this was as on are be at by or from i you he she they we his her its
    their my your our them him me us who which what when where there here than then so if while because been being am
    were do does did have has had will would can could should may might up out about into over after one all some any
    just only also very not no but how these those more most other own each every before again down off too now said
    says say get got go went like""".split()  # noqa: SIM905 - a list of so many strings is hard to read
)

_NEGATED, _REACH = -0.6, 3
_BOOST = 1.25
_AFTER, _BEFORE = 1.6, 0.4  # the weights of words behind and before a contrast
_CURVE = 0.7  # the power of a valence: strong words are not worth much more than clear ones
_MIN_WORDS = 8
_MIDDLE, _WIDTH, _FULL_MOOD = 0.08, 0.095, 0.22  # of the logistic curve, in mean valences
_ORDINARY = 0.02  # the mean valence of ordinary text, which is a little happy
_UNFLUENT, _FLUENT = -0.82, -0.32  # mean log-ratios
_UNKNOWN = 0.5  # what a word costs that is none, in nats: some are names
_FUNCTION_SHARE = 0.33  # of the words of a text, those that hold the others together
_FREE_WORDS, _WORDS_SLOPE = 0.25, 2.5
_FREE_PAIRS, _PAIRS_SLOPE = 0.10, 3.0
_FREE_COPIES, _COPIES_SLOPE = 0.25, 1.5
_UNLINKED = 0.5
_MIN_PAIRS = 8

# The numbers that a unit gives. The first are added up; valences before a contrast are multiplied by `_SCALE` first;
# the last two tell a content word and a pair of neighbours apart from others, and are 0 where there is none.
_VALENCE, _WORDS, _FUNCTIONS, _RATIO, _RATIOS, _CONTENTS, _REPEATED, _PAIRS, _SCALE, _CONTENT_ID, _PAIR_ID = range(11)
_SUMS = 8
# What is counted beside the sums: repeated pairs, copied pairs, links.
_COUNTS = 3

_KEYS = 1 << 33  # more than there are numbers of words or pairs
_MAX_ROWS = 1 << 19
_MAX_FACTS = 1 << 15
_FILTER = 1 << 9
_ABOUT_BIT, _COPIED_BIT = 1, 2


@lru_cache(maxsize=1)
def valences() -> dict[str, float]:
    """Returns the valence of each word that has one, below 0 for sad ones, most of them between -1 and 1."""
    rows = (line.split("\t") for line in _VALENCES.read_text(encoding="utf-8").splitlines())
    return {
        word: math.copysign((abs(int(valence)) / 100) ** _CURVE, int(valence))
        for word, valence in rows
        if word not in _FUNCTION
    }


class _LowerWords(Words):
    """Words in lower case, every apostrophe a straight one."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        return super().cut((text if text.isascii() else straight_apostrophes(text)).lower())

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return (text if text.isascii() else straight_apostrophes(text)).lower().split()


def _number(text: str) -> float:
    """Returns a number for a text, never 0. Two texts with one number are as good as one."""
    return float(crc32(text.encode("utf-8", "replace")) + 1)


def _stem(word: str) -> str:
    """Takes away the ending of a possessive or a plural."""
    word = word.removesuffix("'s")
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def _is_content(token: str) -> bool:
    return token[0].isalpha() and len(token) > 2 and token not in _FUNCTION and token not in _NEGATIONS


def _pair_number(first: str, second: str) -> float:
    """Returns the number of a pair of words, 0 if both say little."""
    if not first or not (_is_content(first) or _is_content(second)):
        return 0.0
    return _number(f"{first} {second}")


class _Reader(UnitReader):
    """Reads words between white space, each with the marks around it."""

    def __init__(self) -> None:
        self._pairs = english_pairs.load()
        self._valences = valences()

    def start(self, example: Example) -> Memory:
        """Returns the memory behind a prompt: its last token is the neighbour of the first one of a response."""
        last = english_pairs.tokens(straight_apostrophes(example.prompt[-64:]))[-1:]
        return (self._pairs.key(last[0]) if last else english_pairs.START, "", 0, False, False)

    def read(self, memory: Memory, unit: str) -> tuple[Memory, tuple[float, ...]]:
        """Returns the numbers of one unit."""
        entry, word, reach, intense, behind = memory
        numbers = [0.0] * (_SUMS + 3)
        numbers[_SCALE] = 1.0
        contents: list[str] = []
        begins = True
        for token in english_pairs.tokens(unit):
            after = self._pairs.key(token)
            numbers[_RATIO] += self._pairs.log_ratio(entry, after) - _UNKNOWN * (after[0] == "<" and token[0].isalpha())
            numbers[_RATIOS] += 1.0
            entry = after
            if not token[0].isalnum():
                if token in _ENDS:
                    reach, intense, word = 0, False, ""
                continue
            if begins:
                numbers[_PAIR_ID], begins = _pair_number(word, token), False
                numbers[_PAIRS] = float(numbers[_PAIR_ID] != 0.0)
            numbers[_WORDS] += 1.0
            numbers[_FUNCTIONS] += float(token in _FUNCTION or token in _NEGATIONS)
            valence = self._valences.get(token, 0.0)
            if valence:
                valence *= _BOOST if intense else 1.0
                valence *= _NEGATED if reach else 1.0
                numbers[_VALENCE] += valence * (_AFTER if behind else 1.0)
            if token in _CONTRASTS:
                numbers[_VALENCE] *= _BEFORE
                numbers[_SCALE] *= _BEFORE
                behind, reach = True, 0
            elif token in _NEGATIONS or token.endswith("n't"):
                reach = _REACH
            else:
                reach = max(0, reach - 1)
            intense = token in _INTENSE
            word = token
            if _is_content(token):
                contents.append(_stem(token))
        if contents:
            numbers[_CONTENTS] = float(len(contents))
            numbers[_REPEATED] = float(len(contents) - len({*contents}))
            numbers[_CONTENT_ID] = _number("-".join(dict.fromkeys(contents)))
        return (entry, word, reach, intense, behind), tuple(numbers)


class _Place(dict[str, "tuple[int, _Place]"]):
    """A memory, from which each unit leads to another: a text is read by one look-up a unit."""

    def __init__(self, reward: Mood, memory: Memory) -> None:
        super().__init__()
        self._reward, self._memory = reward, memory

    def __missing__(self, unit: str) -> tuple[int, _Place]:
        edge = self[unit] = self._reward.edge(self._memory, unit)
        return edge


class _Facts(NamedTuple):
    """What an example tells the score.

    Attributes:
        example: The example.
        memory: The memory behind its prompt.
        sign: The sign of the wanted mood.
        about: The words that a response may take up, as numbers.
        copied: The pairs of words in the prompt, as numbers.
        about_numbers: The numbers of `about` as an array,
        copied_numbers: and those of `copied`.
        filters: `(_FILTER,)` uint8, bits of the lowest bits of these numbers.
    """

    example: Example
    memory: Memory
    sign: float
    about: frozenset[float]
    copied: frozenset[float]
    about_numbers: NDArray[np.float64]
    copied_numbers: NDArray[np.float64]
    filters: NDArray[np.uint8]


class Mood(Reward):
    """How well a response has the wanted mood, in fluent English that is not repetitive and takes the prompt up.

    It is a product of four factors from 0 to 1. **mood** grows with the mean valence of the words, by a logistic curve;
    a negation turns the next three words around, and what stands behind a "but" counts more than what stands before
    it. **fluency** is the mean log-ratio of neighbours: how much likelier a word is behind the one before it than
    anywhere, in a table of general English. **variety** falls where content words or pairs of words come again, and
    where pairs are copied from the prompt. **link** is a half until the response has a word of `metadata["about"]`, or,
    if the example has none, a content word of the prompt. Each factor is full for ordinary text, and none of it for a
    text of fewer than eight words: the score grows with their number up to then.

    An example that asks for a sad text (`metadata["mood"] == "sad"`) changes the sign of the valences.

    Args:
        factors: The factors to multiply, from "mood", "fluency", "variety" and "link".

    Raises:
        ValueError: If there is no factor, or an unknown one.

    Cost: some dictionary look-ups a token, and comparisons with the words so far, as arrays over lanes.
    """

    name = "mood"
    low, high = 0.0, 1.0
    splitter = _LowerWords()

    def __init__(self, factors: Sequence[str] = FACTORS) -> None:
        if not factors or isinstance(factors, str):
            raise ValueError(f"Expected factors from {list(FACTORS)}, got {factors!r}")
        self.factors = tuple(check_choice("factors", factor, FACTORS) for factor in factors)
        if self.factors != FACTORS:
            self.name = f"mood ({', '.join(self.factors)})"
        self._reader = _Reader()
        self._forget()

    def _forget(self) -> None:
        self._places: dict[Memory, _Place] = {}
        self._rows = np.zeros((1 << 10, _SUMS + 3))
        self._num_rows = 0
        self._facts: dict[int, _Facts] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what can be worked out again."""
        left_out = {"_reader", "_places", "_rows", "_num_rows", "_facts"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins without what can be worked out again."""
        self.__dict__.update(state)
        self._reader = _Reader()
        self._forget()

    def facts(self, example: Example) -> _Facts:
        """Returns what an example tells the score. Examples are kept, since the same ones come again and again."""
        known = self._facts.get(id(example))
        if known is None or known.example is not example:
            if len(self._facts) > _MAX_FACTS:
                self._facts.clear()
            about, copied = _prompt_numbers(example.prompt, tuple(map(str, example.metadata.get("about", ()))))
            filters = np.zeros(_FILTER, dtype=np.uint8)
            for numbers, bit in ((about, _ABOUT_BIT), (copied, _COPIED_BIT)):
                filters[[int(number) % _FILTER for number in numbers]] |= bit
            arrays = (np.array(sorted(about), dtype=np.float64), np.array(sorted(copied), dtype=np.float64))
            known = _Facts(example, self._reader.start(example), mood_sign(example), about, copied, *arrays, filters)
            self._facts[id(example)] = known
        return known

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        return float(self.scores([example], [response])[0])

    def scores(self, examples: Sequence[Example], responses: Sequence[str]) -> NDArray[np.float64]:
        """Scores whole responses.

        Args:
            examples: The example of each.
            responses: The responses.

        Returns:
            `(k,)` Phi.
        """
        if self._num_rows > _MAX_ROWS:
            self._forget()
        facts = [self.facts(example) for example in examples]
        edges: list[int] = []
        sizes: list[int] = []
        for fact, response in zip(facts, responses, strict=True):
            place, before = self._place(fact.memory), len(edges)
            for unit in self.splitter.split(response):
                edge, place = place[unit]
                edges.append(edge)
            sizes.append(len(edges) - before)
        numbers = self._rows[edges] if edges else np.zeros((0, _SUMS + 3))
        sums = self._sums(numbers, np.array(sizes), facts)
        return self.phi(sums, np.array([fact.sign for fact in facts]))

    def _sums(
        self, numbers: NDArray[np.float64], sizes: NDArray[np.int64], facts: Sequence[_Facts]
    ) -> NDArray[np.float64]:
        """Adds up the numbers `(units, 11)` of all units of k texts, `sizes` of them each, as `phi` takes them."""
        texts = np.repeat(np.arange(len(sizes)), sizes)
        sums = np.zeros((len(sizes), _SUMS + _COUNTS))
        ends = np.cumsum(sizes)
        written = np.flatnonzero(sizes)
        if len(written):
            sums[written, :_SUMS] = np.add.reduceat(numbers[:, :_SUMS], (ends - sizes)[written], axis=0)
        for text in np.unique(texts[numbers[:, _SCALE] != 1.0]):  # a contrast makes what is before it count less
            valence = 0.0
            for added, scale in numbers[ends[text] - sizes[text] : ends[text], [_VALENCE, _SCALE]].tolist():
                valence = valence * scale + added
            sums[text, _VALENCE] = valence
        for column, repeated in ((_CONTENT_ID, _REPEATED), (_PAIR_ID, _SUMS)):
            present = numbers[:, column] != 0.0
            keys = np.sort(texts[present] * _KEYS + numbers[present, column].astype(np.int64))
            again = keys[1:][keys[1:] == keys[:-1]] // _KEYS
            sums[:, repeated] += np.bincount(again, minlength=len(sizes))
        contents, pairs = numbers[:, _CONTENT_ID].tolist(), numbers[:, _PAIR_ID].tolist()
        for text, (fact, end, size) in enumerate(zip(facts, ends.tolist(), sizes.tolist(), strict=True)):
            sums[text, _SUMS + 1] = sum(map(fact.copied.__contains__, pairs[end - size : end]))
            sums[text, _SUMS + 2] = not fact.about or not fact.about.isdisjoint(contents[end - size : end])
        return sums

    def _place(self, memory: Memory) -> _Place:
        place = self._places.get(memory)
        if place is None:
            place = self._places[memory] = _Place(self, memory)
        return place

    def edge(self, memory: Memory, unit: str) -> tuple[int, _Place]:
        """Works out what a unit does after others, and keeps it.

        Args:
            memory: The memory of the units before.
            unit: The unit.

        Returns:
            The row of its numbers, and the place after it.
        """
        after, numbers = self._reader.read(memory, unit)
        if self._num_rows == len(self._rows):
            self._rows = with_rows(self._rows, 2 * len(self._rows))
        self._rows[self._num_rows] = numbers
        self._num_rows += 1
        return self._num_rows - 1, self._place(after)

    def phi(self, sums: NDArray[np.float64], signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the scores that sums give.

        Args:
            sums: `(k, 11)` the sums over its units, and behind them its repeated pairs, its copied pairs and its links.
            signs: `(k,)` the sign of the wanted mood.

        Returns:
            `(k,)` Phi, which grows with the number of words up to `_MIN_WORDS`, from 0.
        """
        phi = np.minimum(sums[:, _WORDS] / _MIN_WORDS, 1.0)
        if "mood" in self.factors:
            valence = sums[:, _VALENCE] - _ORDINARY * sums[:, _WORDS]
            mean = signs * valence / np.maximum(sums[:, _WORDS], _MIN_WORDS)
            phi *= np.minimum(_logistic(mean) / _logistic(np.array(_FULL_MOOD)), 1.0)
        if "fluency" in self.factors:
            ratio = sums[:, _RATIO] / np.maximum(sums[:, _RATIOS], 1.0)
            phi *= np.clip((ratio - _UNFLUENT) / (_FLUENT - _UNFLUENT), 0.0, 1.0)
            phi *= np.minimum((sums[:, _FUNCTIONS] + 1.0) / (_FUNCTION_SHARE * np.maximum(sums[:, _WORDS], 1.0)), 1.0)
        if "variety" in self.factors:
            pairs = np.maximum(sums[:, _PAIRS], _MIN_PAIRS)
            shares = (
                (sums[:, _REPEATED] / np.maximum(sums[:, _CONTENTS], _MIN_PAIRS // 2), _FREE_WORDS, _WORDS_SLOPE),
                (sums[:, _SUMS] / pairs, _FREE_PAIRS, _PAIRS_SLOPE),
                (sums[:, _SUMS + 1] / pairs, _FREE_COPIES, _COPIES_SLOPE),
            )
            for share, free, slope in shares:
                phi *= np.clip(1.0 - slope * (share - free), 0.0, 1.0)
        if "link" in self.factors:
            phi *= np.where(sums[:, _SUMS + 2] > 0, 1.0, _UNLINKED)
        return phi

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that keeps the sums of each lane, and its words and pairs."""
        return _MoodScorer(self, self._reader, num_lanes, tokenizer)


def _logistic(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = 1.0 / (1.0 + np.exp((_MIDDLE - mean) / _WIDTH))
    return curve


@lru_cache(maxsize=1 << 14)
def _prompt_numbers(prompt: str, about: tuple[str, ...]) -> tuple[frozenset[float], frozenset[float]]:
    words = [token for token in english_pairs.tokens(straight_apostrophes(prompt)) if token[0].isalnum()]
    taken_up = [token for text in about for token in english_pairs.tokens(straight_apostrophes(text))] or words
    numbers = frozenset(_number(_stem(token)) for token in taken_up if _is_content(token))
    pairs = (_pair_number(first, second) for first, second in pairwise(words))
    return numbers, frozenset(number for number in pairs if number)


class _Numbers:
    """Numbers of N lanes that only grow in number, until they are taken back to a mark.

    Args:
        num_lanes: N.
    """

    def __init__(self, num_lanes: int) -> None:
        self._array = np.zeros((num_lanes, 16))
        self._count = np.zeros(num_lanes, dtype=np.int64)
        self._marked = np.zeros(num_lanes, dtype=np.int64)

    def clear(self, lanes: NDArray[np.intp]) -> None:
        self._array[lanes] = 0.0
        self._count[lanes] = self._marked[lanes] = 0

    def add(self, lanes: NDArray[np.intp], numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Adds a number, never 0, to each of some lanes; returns True where it has been there before."""
        place = self._count[lanes]
        most = int(place.max(initial=0)) + 1
        if most > self._array.shape[1]:
            self._array = np.concatenate([self._array, np.zeros_like(self._array)], axis=1)
        present: NDArray[np.bool_] = (self._array[lanes, :most] == numbers[:, None]).any(axis=1)
        self._array[lanes, place] = numbers
        self._count[lanes] = place + 1
        return present

    def mark(self, lanes: NDArray[np.intp]) -> None:
        self._marked[lanes] = self._count[lanes]

    def undo(self, lanes: NDArray[np.intp]) -> None:
        for column in range(int((self._count[lanes] - self._marked[lanes]).max(initial=0))):
            place = self._marked[lanes] + column
            behind = place < self._count[lanes]
            self._array[lanes[behind], place[behind]] = 0.0
        self._count[lanes] = self._marked[lanes]


class _MoodScorer(UnitScorer):
    def __init__(self, reward: Mood, reader: _Reader, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._mood = reward
        self._machine = Machine(reader, self.units, num_lanes, _SUMS + 3)
        self._sums = np.zeros((num_lanes, _SUMS + _COUNTS))
        self._marked = np.zeros((num_lanes, _SUMS + _COUNTS))
        self._signs = np.ones(num_lanes)
        self._contents, self._pairs = _Numbers(num_lanes), _Numbers(num_lanes)
        self._given = {bit: np.zeros((num_lanes, 8)) for bit in (_ABOUT_BIT, _COPIED_BIT)}
        # Most words and pairs are not in the prompt: a table of their lowest bits says so at once.
        self._filters = np.zeros((num_lanes, _FILTER), dtype=np.uint8)

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        facts = [self._mood.facts(example) for example in examples]
        self._machine.start(lanes, [fact.memory for fact in facts])
        self._sums[lanes] = 0.0
        self._signs[lanes] = [fact.sign for fact in facts]
        self._sums[lanes, _SUMS + 2] = [not fact.about for fact in facts]
        if facts:
            self._filters[lanes] = [fact.filters for fact in facts]
            self._keep(_ABOUT_BIT, lanes, [fact.about_numbers for fact in facts])
            self._keep(_COPIED_BIT, lanes, [fact.copied_numbers for fact in facts])
        self._marked[lanes] = self._sums[lanes]
        self._contents.clear(lanes)
        self._pairs.clear(lanes)

    def _keep(self, bit: int, lanes: NDArray[np.intp], given: Sequence[NDArray[np.float64]]) -> None:
        """Keeps the numbers of each lane's prompt, in rows as wide as the longest of them."""
        sizes = np.array([len(numbers) for numbers in given])
        width = self._given[bit].shape[1]
        if sizes.max() > width:
            more = np.zeros((len(self._given[bit]), 2 * int(sizes.max()) - width))
            self._given[bit] = np.concatenate([self._given[bit], more], axis=1)
        self._given[bit][lanes] = 0.0
        starts = np.cumsum(sizes) - sizes
        columns = np.arange(sizes.sum()) - np.repeat(starts, sizes)
        self._given[bit][np.repeat(lanes, sizes), columns] = np.concatenate(given)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        numbers = self._machine.read(lanes, units)
        sums = self._sums[lanes]
        sums[:, _VALENCE] *= numbers[:, _SCALE]
        sums[:, :_SUMS] += numbers[:, :_SUMS]
        for column, before, repeated, of_prompt, bit in (
            (_CONTENT_ID, self._contents, _REPEATED, _SUMS + 2, _ABOUT_BIT),
            (_PAIR_ID, self._pairs, _SUMS, _SUMS + 1, _COPIED_BIT),
        ):
            rows = np.flatnonzero(numbers[:, column])
            if not len(rows):
                continue
            present, of_rows = numbers[rows, column], lanes[rows]
            sums[rows, repeated] += before.add(of_rows, present)
            maybe = self._filters[of_rows, present.astype(np.int64) & (_FILTER - 1)] & bit
            rows = rows[maybe != 0]
            given = self._given[bit][lanes[rows]] == numbers[rows, column, None]
            sums[rows, of_prompt] += given.any(axis=1)
        self._sums[lanes] = sums

    def mark(self, lanes: NDArray[np.intp]) -> None:
        self._machine.mark(lanes)
        self._marked[lanes] = self._sums[lanes]
        self._contents.mark(lanes)
        self._pairs.mark(lanes)

    def undo(self, lanes: NDArray[np.intp]) -> None:
        self._machine.undo(lanes)
        self._sums[lanes] = self._marked[lanes]
        self._contents.undo(lanes)
        self._pairs.undo(lanes)

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        return self._mood.phi(self._sums[lanes], self._signs[lanes])

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Scores whole responses by one call of `phi`."""
        if not len(examples):
            return np.zeros(0)
        return self._mood.scores(examples, responses)
