"""ROUGE: the n-grams, or the words in order, that a response shares with its references, as rouge-score counts them.

Source: Lin (2004), ROUGE: a package for automatic evaluation of summaries; the rouge-score package. The row of the
longest common subsequence: Hyyrö (2004), Bit-parallel LCS-length computation revisited, after Crochemore et al. (2001).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice, check_count
from textenvs.example import Example
from textenvs.rewards.base import RewardError, Scorer, TextScorer
from textenvs.rewards.incremental.alignment import Bits, RowScorer, add_words, bit_at
from textenvs.rewards.incremental.ngram_overlap import Grams, NgramMatches, NgramReward, num_grams
from textenvs.rewards.incremental.references import MEASURES, ReferenceReward, References, overlap
from textenvs.rewards.incremental.scripts import words_of_scripts
from textenvs.rewards.incremental.splitters import Splitter
from textenvs.tokenizer import Tokenizer

TOKENIZERS = ("ascii", "unicode")
"""The names of the ways to cut a text into words."""

_WORD = re.compile("[a-z0-9]+")
_LEAST_STEMMED = 4  # letters


@lru_cache(maxsize=1)
def _porter() -> Callable[[str], str]:
    """Returns NLTK's Porter stemmer, which rouge-score uses. NLTK loads slowly, and is imported only if needed."""
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise ImportError("stemmer=True takes NLTK's Porter stemmer: pip install 'textenvs[stem]'") from error
    stem: Callable[[str], str] = lru_cache(maxsize=1 << 16)(PorterStemmer().stem)
    return stem


class RougeWords(Splitter):
    """Words as ROUGE counts them, stemmed or not.

    Args:
        stemmer: If True, words of more than three letters are stemmed.
        tokenizer: "ascii" are runs of a-z and 0-9 in lower case, and other letters separate, as in rouge-score.
            "unicode" are the words of every script, their case folded; for ASCII texts they are the same.

    Raises:
        ValueError: If there is no such tokenizer.
        ImportError: If `stemmer` is True and NLTK is not installed.
    """

    def __init__(self, stemmer: bool = False, tokenizer: str = "ascii") -> None:
        self.stemmer = stemmer
        self.tokenizer = check_choice("tokenizer", tokenizer, TOKENIZERS)
        if stemmer:
            _porter()

    def _stemmed(self, words: list[str]) -> list[str]:
        return [_porter()(word) if len(word) >= _LEAST_STEMMED else word for word in words] if self.stemmer else words

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text) if self.tokenizer == "ascii" else words_of_scripts(text)

    def _folded(self, text: str) -> str:
        return text.lower() if self.tokenizer == "ascii" else text.casefold()

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        folded = self._folded(text)
        words = self._words(folded)
        rest = words.pop() if words and folded.endswith(words[-1]) else ""
        return self._stemmed(words), rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last word."""
        return self._stemmed([rest]) if rest else []

    def closes(self, character: str) -> bool:
        """Returns True for all that is neither a letter nor a digit."""
        return not character.isalnum()

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return self._stemmed(self._words(self._folded(text)))

    def check_references(self, reward: str, example: Example) -> None:
        """Checks that every reference of an example has a word.

        Raises:
            RewardError: If one has none.
        """
        for text in example.references:
            if not self.split(text):
                problem = f"finds no word in the reference {text!r}: its tokenizer {self.tokenizer!r} reads "
                if self.tokenizer == "ascii":
                    problem += "a-z and 0-9 alone. For other scripts, pass tokenizer='unicode'"
                else:
                    problem += "letters and digits. Give the example another reference"
                raise RewardError(reward, problem, example, None)


class RougeN(NgramReward):
    """ROUGE-N, equal to rouge-score's: the overlap in n-grams, from 0 to 1.

    `measure="f"`, the default, falls at a word that no reference has. `"recall"` never falls at a finished word: train
    on it from scratch, together with a penalty on length. `"precision"` rewards short responses.

    With several references, the best value of the measure counts. For F that is rouge-score's `score_multi`. For recall
    and precision, `score_multi` takes the values of the reference with the best F, so that they jump where one more
    word makes another reference the best.

    ROUGE-1 cannot see the order of words: a shuffled reference scores 1. A text of fewer than n words has no n-gram, so
    a reference of one word scores 0 in ROUGE-2, as in rouge-score.

    Args:
        n: The length of the n-grams.
        measure: "f", "precision" or "recall".
        stemmer: If True, words are stemmed (Porter, by NLTK: `pip install "textenvs[stem]"`).
        tokenizer: "ascii" reads a-z and 0-9, as rouge-score does, and raises a RewardError for a reference without
            them. "unicode" reads every script, and equals "ascii" for ASCII texts: in scripts without spaces (Chinese,
            Thai), each character is a word.

    Raises:
        ValueError: If a setting is none of these.
        ImportError: If `stemmer` is True and NLTK is not installed.

    Cost: two dictionary look-ups a word (amortised), whatever the lengths.
    """

    name = "rouge_n"

    def __init__(self, n: int = 3, measure: str = "f", stemmer: bool = False, tokenizer: str = "ascii") -> None:
        self.n = check_count("n", n)
        self.measure = check_choice("measure", measure, MEASURES)
        self.splitter = RougeWords(stemmer, tokenizer)
        self.grams = (Grams(self.splitter, n, n),)

    def check_references(self, example: Example) -> None:
        """Checks that there are references, and that each has a word."""
        super().check_references(example)
        self.splitter.check_references(self.name, example)

    def phi(self, matches: Sequence[NgramMatches]) -> NDArray[np.float64]:
        """Computes the measure for each reference and takes the best: Lin (2004), equation 1."""
        (of_order,) = matches
        written, wanted = (num_grams(size, self.n, self.n)[..., 0] for size in (of_order.lengths, of_order.wanted))
        best: NDArray[np.float64] = overlap(of_order.matched[:, 0], written[:, None], wanted, self.measure).max(axis=1)
        return best


class Rouge1(RougeN):
    """ROUGE-1: the overlap in words. Its arguments are those of `RougeN`."""

    name = "rouge_1"

    def __init__(self, measure: str = "f", stemmer: bool = False, tokenizer: str = "ascii") -> None:
        super().__init__(1, measure, stemmer, tokenizer)


class Rouge2(RougeN):
    """ROUGE-2: the overlap in pairs of words, 0 for a reference of one word. Its arguments are those of `RougeN`."""

    name = "rouge_2"

    def __init__(self, measure: str = "f", stemmer: bool = False, tokenizer: str = "ascii") -> None:
        super().__init__(2, measure, stemmer, tokenizer)


class RougeL(ReferenceReward[list[list[str]]]):
    """ROUGE-L, equal to rouge-score's: the longest common subsequence of words, from 0 to 1.

    Measures and several references are as in `RougeN`.

    Args:
        measure: "f", "precision" or "recall".
        stemmer: If True, words are stemmed (Porter, by NLTK: `pip install "textenvs[stem]"`).
        tokenizer: "ascii" or "unicode", as in `RougeN`.

    Raises:
        ValueError: If a setting is none of these.
        ImportError: If `stemmer` is True and NLTK is not installed.

    Cost: one dictionary look-up a word (amortised), and a few array operations a word for each 64 words of the
    references, all together; the response's length does not matter.
    """

    name = "rouge_l"

    def __init__(self, measure: str = "f", stemmer: bool = False, tokenizer: str = "ascii") -> None:
        self.measure = check_choice("measure", measure, MEASURES)
        self.splitter = RougeWords(stemmer, tokenizer)

    def check_references(self, example: Example) -> None:
        """Checks that there are references, and that each has a word."""
        super().check_references(example)
        self.splitter.check_references(self.name, example)

    def prepare(self, references: References) -> list[list[str]]:
        """Cuts each reference into words."""
        return [self.splitter.split(text) for text in references]

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response."""
        words, texts = self.splitter.split(response), self.prepared(example)
        lengths = np.array([_common(text, words) for text in texts])
        wanted = np.array([len(text) for text in texts])
        return float(overlap(lengths, np.array(len(words)), wanted, self.measure).max())

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that keeps a row of the table of common subsequences."""
        return _CommonScorer(self, num_lanes, tokenizer)


def _common(text: list[str], words: list[str]) -> int:
    """Computes the length of the longest common subsequence: the zeros of a row of bits, as long as `text`."""
    mask_of: dict[str, int] = {}
    for position, word in enumerate(text):
        mask_of[word] = mask_of.get(word, 0) | 1 << position
    inside = row = (1 << len(text)) - 1
    for word in words:
        matches = row & mask_of.get(word, 0)
        row = ((row + matches) | (row - matches)) & inside  # every 0 in the row is a unit of the subsequence
    return len(text) - row.bit_count()


class _CommonScorer(RowScorer):
    reads_every_unit = False

    def __init__(self, reward: RougeL, num_lanes: int, tokenizer: Tokenizer) -> None:
        self._measure = reward.measure
        super().__init__(reward, reward.splitter, 1, num_lanes, tokenizer)

    def _initial(
        self, inside: NDArray[np.uint64], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        return inside[None], np.zeros_like(wanted)

    def _read_row(self, rows: NDArray[np.uint64], bits: Bits) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        (row,) = rows
        matches = row & bits.masks
        total = add_words(row, matches)
        # A carry out of a reference makes its subsequence one longer, and ends in the gap behind the reference.
        return ((total | (row ^ matches)) & bits.inside)[None], bit_at(total, *bits.gaps)

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        written, wanted = self._length[lanes][:, None], self._lengths.array[self._slot[lanes]]
        best: NDArray[np.float64] = overlap(self._last_cells[lanes], written, wanted, self._measure).max(axis=1)
        return best


class RougeLsum(RougeL):
    """ROUGE-Lsum, equal to rouge-score's: ROUGE-L of summaries whose sentences are lines, from 0 to 1.

    For each sentence of a reference, the words that are in its longest common subsequence with any sentence of the
    response count, each word at most as often as both texts have it. Its arguments are those of `RougeL`.

    Cost: the whole text is read again at every token, and compared with all of the references.
    """

    name = "rouge_lsum"

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response: Lin (2004), equations 6 to 8, words clipped as rouge-score does."""
        sentences = self._sentences(response)
        written = sum(map(len, sentences))
        best = 0.0
        for text in self.references(example):
            wanted = self._sentences(text)
            hits = np.array(_union_hits(wanted, sentences))
            best = max(best, float(overlap(hits, np.array(written), np.array(sum(map(len, wanted))), self.measure)))
        return best

    def _sentences(self, text: str) -> list[list[str]]:
        return [self.splitter.split(line) for line in text.split("\n")]

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that scores whole texts."""
        return _SummaryScorer(self, num_lanes, tokenizer)


class _SummaryScorer(TextScorer):
    """A scorer of whole texts that refuses an example at once if its references cannot be read."""

    def __init__(self, reward: RougeLsum, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, num_lanes, tokenizer)
        self._check = reward.references

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for example in examples:
            self._check(example)
        super().reset(lanes, examples)


def _union_hits(wanted: list[list[str]], written: list[list[str]]) -> int:
    left = [Counter(word for sentence in sentences for word in sentence) for sentences in (wanted, written)]
    hits = 0
    for sentence in wanted:
        for position in sorted(set().union(*(_common_positions(sentence, other) for other in written))):
            word = sentence[position]
            if all(counts[word] > 0 for counts in left):
                hits += 1
                for counts in left:
                    counts[word] -= 1
    return hits


def _common_positions(text: list[str], words: list[str]) -> set[int]:
    """Returns the positions of `text` in a longest common subsequence: of several, the one that rouge-score takes."""
    table = [[0] * (len(words) + 1)]
    for unit in text:
        above, row = table[-1], [0]
        for column, word in enumerate(words):
            row.append(above[column] + 1 if unit == word else max(above[column + 1], row[column]))
        table.append(row)
    positions, row_index, column = set(), len(text), len(words)
    while row_index and column:
        if text[row_index - 1] == words[column - 1]:
            row_index, column = row_index - 1, column - 1
            positions.add(row_index)
        elif table[row_index][column - 1] > table[row_index - 1][column]:
            column -= 1
        else:
            row_index -= 1
    return positions
