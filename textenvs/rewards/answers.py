"""Scores of short answers, as in question answering: exact match, token F1, edit similarity, correct prefix.

Source: Rajpurkar et al. (2016), SQuAD: 100,000+ questions for machine comprehension of text, and its evaluation script
(version 2.0). The row of the edit distance: Myers (1999), A fast bit-vector algorithm for approximate string matching
based on dynamic programming, as in Hyyrö (2003), A bit-vector algorithm for computing Levenshtein and Damerau edit
distances.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import punctuation

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice
from textenvs.example import Example
from textenvs.rewards.base import Scorer
from textenvs.rewards.incremental.alignment import Bits, PathScorer, RowScorer, add_words, bit_at, shift_words
from textenvs.rewards.incremental.ngram_overlap import Grams, NgramMatches, NgramReward
from textenvs.rewards.incremental.references import MEASURES, ReferenceReward, References, overlap
from textenvs.rewards.incremental.scripts import has_lone_character, last_lone_character, words_of_scripts
from textenvs.rewards.incremental.splitters import Splitter, Words
from textenvs.tokenizer import Tokenizer

_NO_PUNCTUATION = str.maketrans("", "", punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_BEGUN = "\ud800"  # a lone surrogate, which no decoded text holds


class AnswerWords(Words):
    """Words in lower case, without ASCII punctuation and without "a", "an" and "the": SQuAD's normalisation.

    SQuAD knows words between white space alone. A word with characters of a script without spaces is cut further: each
    of those characters is a word, and punctuation of any script separates.
    """

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        words, rest = super().cut(text)
        units = self.split(" ".join(words))
        start = last_lone_character(rest)
        if start > 0:
            # What stands before the last such character is final. It is cut together with it, since "a" is no article
            # in front of it.
            tail = rest[start:]
            units += self.split(rest)[: -len(self.split(tail))]
            rest = tail
        return units, rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last word, if it is one."""
        return self.split(rest)

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into normalised words."""
        words = _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
        if not has_lone_character(text):
            return words
        return [unit for word in words for unit in (words_of_scripts(word) if has_lone_character(word) else [word])]


class SpacedCharacters(Splitter):
    """Characters, with white space as one space between words and none around them."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into characters. The rest tells if a word has come yet, and if a space is due before the next."""
        begun, text = text.startswith(_BEGUN), text.removeprefix(_BEGUN)
        words = text.split()
        if not words:
            return [], (_BEGUN if begun else "") + (" " if begun and text else "")
        before = " " if begun and text[0].isspace() else ""
        return list(before + " ".join(words)), _BEGUN + (" " if text[-1].isspace() else "")

    def finish(self, rest: str) -> list[str]:
        """Returns nothing: white space at the end does not count."""
        return []

    def closes(self, character: str) -> bool:
        """Returns False: white space changes the rest."""
        return False

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into characters."""
        return list(" ".join(text.split()))


def _splitter_of(unit: str) -> Splitter:
    return SpacedCharacters() if check_choice("unit", unit, ("character", "word")) == "character" else Words()


class TokenF1(NgramReward):
    """SQuAD's F1: the overlap in words, in any order, from 0 to 1.

    Words are as in SQuAD: lower case, no punctuation, no articles; in scripts without spaces (Chinese, Japanese, Thai),
    where SQuAD's would be whole sentences, each character is a word. With several references the best one counts. If no
    word of a reference is left, the score is 1 for a response that has none either and 0 for any other, as in version
    2.0 (for `measure="recall"` it is always 1).

    Args:
        measure: "f", "precision" or "recall". Recall never falls at a finished word.

    Raises:
        ValueError: If the measure is none of these.

    Cost: two dictionary look-ups a word (amortised), whatever the lengths.
    """

    name = "token_f1"

    def __init__(self, measure: str = "f") -> None:
        self.measure = check_choice("measure", measure, MEASURES)
        self.grams = (Grams(AnswerWords(), 1, 1),)

    def phi(self, matches: Sequence[NgramMatches]) -> NDArray[np.float64]:
        """Computes the measure for each reference and takes the best."""
        (words,) = matches
        written = words.lengths[:, None]
        scores = overlap(words.matched[:, 0], written, words.wanted, self.measure)
        empty = words.wanted == 0
        scores = np.where(empty, 1.0 if self.measure == "recall" else written == 0, scores)
        best: NDArray[np.float64] = scores.max(axis=1)
        return best


class ExactMatch(ReferenceReward[list[list[str]]]):
    """1 if a response equals a reference (after SQuAD's normalisation), else 0.

    It gives no signal on the way to the answer: combine it with a score that does.

    Args:
        normalize: If True, case, punctuation and articles are ignored. The kind and amount of white space always are.

    Cost: one dictionary look-up a word, until the response leaves the references.
    """

    name = "exact_match"

    def __init__(self, normalize: bool = True) -> None:
        self.splitter = AnswerWords() if normalize else Words()

    def prepare(self, references: References) -> list[list[str]]:
        """Cuts each reference into words."""
        return [self.splitter.split(text) for text in references]

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        return float(self.splitter.split(response) in self.prepared(example))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that follows the tree of references."""
        return _ExactScorer(self, self.splitter, num_lanes, tokenizer)


class _ExactScorer(PathScorer):
    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.is_reference(lanes).astype(np.float64)


class CorrectPrefix(ReferenceReward[list[list[str]]]):
    """The share of a reference that a response begins with, from 0 to 1; the best reference counts.

    In characters it never falls: the text after the first mistake changes nothing.

    Args:
        unit: "character" (white space as one space between words, none around them) or "word" (between white space).

    Raises:
        ValueError: If the unit is neither.

    Cost: one dictionary look-up a unit, until the response leaves the references.
    """

    name = "correct_prefix"

    def __init__(self, unit: str = "character") -> None:
        self.splitter = _splitter_of(unit)

    def prepare(self, references: References) -> list[list[str]]:
        """Cuts each reference into units."""
        return [self.splitter.split(text) for text in references]

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        units = self.splitter.split(response)
        return max(_common_prefix(text, units) / len(text) if text else 1.0 for text in self.prepared(example))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that follows the tree of references."""
        return _PrefixScorer(self, self.splitter, num_lanes, tokenizer)


def _common_prefix(text: list[str], units: list[str]) -> int:
    pairs = enumerate(zip(text, units, strict=False))
    return next((position for position, (left, right) in pairs if left != right), min(len(text), len(units)))


class _PrefixScorer(PathScorer):
    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.share(lanes)


class EditSimilarity(ReferenceReward[list[list[str]]]):
    """1 - the Levenshtein distance to a reference / the length of the longer text, from 0 to 1; the best one counts.

    Args:
        unit: "character" (white space as one space between words, none around them) or "word" (between white space).

    Raises:
        ValueError: If the unit is neither.

    Cost: some array operations a unit for each 64 units of the references, all together; the response's length does not
    matter.
    """

    name = "edit_similarity"

    def __init__(self, unit: str = "character") -> None:
        self.splitter = _splitter_of(unit)

    def prepare(self, references: References) -> list[list[str]]:
        """Cuts each reference into units."""
        return [self.splitter.split(text) for text in references]

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        units, texts = self.splitter.split(response), self.prepared(example)
        distances = np.array([_distance(text, units) for text in texts])
        return float(_similarity(distances, np.array(len(units)), np.array([len(text) for text in texts])).max())

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that keeps a row of the table of edit distances."""
        return _EditScorer(self, num_lanes, tokenizer)


def _similarity(
    distance: NDArray[np.int64], written: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    similarity: NDArray[np.float64] = 1 - distance / np.maximum(np.maximum(written, wanted), 1)
    return similarity


def _distance(text: list[str], units: list[str]) -> int:
    """Computes the Levenshtein distance by Myers' (1999) bit-vectors.

    A row of the table of distances is kept as its differences, one bit for each unit of `text`: the cells that are one
    more than the cell before them (`up`), and those that are one less (`down`).
    """
    if not text:
        return len(units)
    mask_of: dict[str, int] = {}
    for position, unit in enumerate(text):
        mask_of[unit] = mask_of.get(unit, 0) | 1 << position
    inside, last, distance = (1 << len(text)) - 1, 1 << (len(text) - 1), len(text)
    up, down = inside, 0
    for unit in units:
        same = mask_of.get(unit, 0)
        zero = (((same & up) + up) ^ up) | same | down  # cells that equal the one diagonally before them
        right_up, right_down = (down | ~(zero | up)) & inside, up & zero
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(zero | right_up)) & inside, right_up & zero & inside
    return distance


class _EditScorer(RowScorer):
    def __init__(self, reward: EditSimilarity, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, 2, num_lanes, tokenizer)

    def _initial(
        self, inside: NDArray[np.uint64], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        return np.stack([inside, np.zeros_like(inside)]), wanted

    def _read_row(self, rows: NDArray[np.uint64], bits: Bits) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        up, down = rows
        inside, (word, bit) = bits.inside, bits.ends
        zero = ((add_words(bits.masks & up, up) ^ up) | bits.masks | down) & inside
        right_up, right_down = (down | ~(zero | up)) & inside, up & zero
        ends = [bit_at(right, word, bit).astype(np.int64) for right in (right_up, right_down)]
        # Above the first position of a reference, the distance is the response's length, which goes up.
        right_up, right_down = shift_words(right_up) | bits.starts, shift_words(right_down)
        up, down = (right_down | ~(zero | right_up)) & inside, right_up & zero
        return np.stack([up, down]), ends[0] - ends[1]

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        written, wanted = self._length[lanes][:, None], self._lengths.array[self._slot[lanes]]
        distance = np.where(wanted > 0, self._last_cells[lanes], written)
        best: NDArray[np.float64] = _similarity(distance, written, wanted).max(axis=1)
        return best
