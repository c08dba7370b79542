"""Style and fluency: the formality of words, and their probability by an n-gram language model."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.rewards.base import RewardError
from textenvs.rewards.english import APOSTROPHES, straight_apostrophes
from textenvs.rewards.incremental.splitters import Matches
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.ngram_model import SPLITTER, Ids, NgramModel, load_ngrams

_LEXICON = Path(__file__).parent.parent / "data" / "formality.json"
_CONTRACTION = re.compile(r".+(?:n't|'ll|'re|'ve|'m|'d)")
_NO_BEGINNING = "xxxxx"  # begins no word of the lexicon


@lru_cache(maxsize=1)
def _formality() -> dict[str, float]:
    """Reads the lexicon: 1 for each formal word, -1 for each informal one."""
    lexicon = json.loads(_LEXICON.read_text(encoding="utf-8"))
    return {word: sign for kind, sign in (("formal", 1.0), ("informal", -1.0)) for word in lexicon[kind]}


def formality_of(word: str) -> float:
    """Returns 1 for a formal word, -1 for an informal one or a contraction, 0 for any other.

    Args:
        word: A word in lower case, its apostrophes included.
    """
    word = straight_apostrophes(word).strip("'")
    return -1.0 if _CONTRACTION.fullmatch(word) else _formality().get(word, 0.0)


class _FormalWords(Matches):
    """Runs of letters and apostrophes. All unfinished ones that begin no word of the lexicon are alike.

    Except that they may become a contraction, so their last characters are kept.
    """

    def __init__(self) -> None:
        super().__init__(rf"[\w{APOSTROPHES}]+", longest=None)

    def shorten(self, rest: str) -> str:
        """Replaces a beginning that no word of the lexicon has."""
        bare = straight_apostrophes(rest.casefold()).strip("'")
        if len(bare) <= 3 or bare in _beginnings():
            return rest
        # The last characters as they were written: a folded one may not be a letter, and would be cut differently.
        ends = rest.rstrip(APOSTROPHES)
        return _NO_BEGINNING + ends[-3:] + rest[len(ends) :][:2]


@lru_cache(maxsize=1)
def _beginnings() -> frozenset[str]:
    return frozenset(word[:length] for word in _formality() for length in range(1, len(word) + 1))


class Formality(UnitSums):
    """The balance of formal and informal words, from -1 (all informal) to 1 (all formal).

    The number of formal words less the number of informal ones, by the lexicon `textenvs/data/formality.json`, divided
    by the sum of both, or by `min_marks` if that is larger. Contractions ("don't", "we'll", not "it's") are informal. A
    text without any such word scores 0. The lexicon is small and English, and takes no account of how a word is used.

    An example that asks for an informal text (`metadata["formality"] == "informal"`) changes the sign.

    Args:
        min_marks: The least number of marked words to divide by, so that one "therefore" does not make a formal text.

    Raises:
        ValueError: If `min_marks` is less than 1.
        TypeError: If `min_marks` is not a whole number.

    Cost: two dictionary look-ups a token (amortised). Source: a lexicon of ours, in the spirit of Heylighen & Dewaele
    (1999), Formality of language, whose own measure needs parts of speech.
    """

    name = "formality"
    low, high = -1.0, 1.0
    splitter = _FormalWords()
    width = 2  # formal less informal words, and marked words: formal or informal ones

    def __init__(self, min_marks: int = 4) -> None:
        self.min_marks = check_count("min_marks", min_marks)

    def read(self, memory: object, unit: str) -> tuple[None, tuple[float, float]]:
        """Returns the mark of a word, and 1 if it has one."""
        mark = formality_of(unit)
        return None, (mark, abs(mark))

    def features(self, example: Example) -> tuple[float]:
        """Returns 1 if a formal text is wanted, and -1 if an informal one is."""
        wanted = example.metadata.get("formality", "formal")
        if wanted not in ("formal", "informal"):
            problem = f"expects metadata['formality'] to be 'formal' or 'informal', got {wanted!r}"
            raise RewardError(self.name, problem, example, None)
        return (1.0 if wanted == "formal" else -1.0,)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the marks by their number."""
        balance = sums[:, 0] / np.maximum(sums[:, 1], self.min_marks)
        phi: NDArray[np.float64] = features[:, 0] * balance + 0.0  # turns -0.0 into 0.0
        return phi


class NgramFluency(UnitSums):
    """The fluency of a text by an n-gram language model, from 0 to 1.

    The mean log-probability of a word (given the words before it, the prompt's included), on a scale where 0 is that of
    a uniform guess over the vocabulary, or less, and 1 is certainty: the share by which the cross-entropy of a uniform
    model is reduced. The mean is over at least `min_words` words; missing words count as guesses. A word that is not
    finished is scored as it is, and is then rarely in the vocabulary, so tokens that are whole words suit this score
    best.

    Args:
        model: A bundled model, which knows the small worlds of these tasks and nothing else: "stories" (also None) or
            "reviews" (stories and reviews). Or a file that `python -m textenvs.data.train_ngrams texts.jsonl` wrote.
        raw: If True, the score is the mean log-probability of a word itself, in nats, at most 0 (and 0 for no word).
        min_words: The least number of words to divide by. Not used if `raw` is True.

    Raises:
        ValueError: If there is no such file, it holds no model, or `min_words` is less than 1.
        TypeError: If `min_words` is not a whole number.

    Cost: two dictionary look-ups a token, once the model has worked out a word. Source: Kneser & Ney (1995), as in
    `textenvs.rewards.ngram_model`.
    """

    name = "ngram_lm"
    width = 2  # log-probabilities in nats, words

    def __init__(self, model: str | None = None, raw: bool = False, min_words: int = 8) -> None:
        self.model, self.raw, self.min_words = model, raw, check_count("min_words", min_words)
        self.low, self.high = (-math.inf, 0.0) if raw else (0.0, 1.0)
        self._read_model()

    def _read_model(self) -> None:
        self._ngrams: NgramModel = load_ngrams(self.model)
        self.splitter = self._ngrams.splitter

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the model, which the copy reads again."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_ngrams", "splitter")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state, and reads the model again."""
        self.__dict__.update(state)
        self._read_model()

    def start(self, example: Example) -> Ids:
        """Returns the numbers of the prompt's last words."""
        return _context(self._ngrams, example.prompt)

    def read(self, memory: Ids, unit: str) -> tuple[Ids, tuple[float, float]]:
        """Returns the log-probability of a word, and 1 for its count."""
        word = self._ngrams.number(unit)
        after = self._ngrams.simplified((*memory, word)[1:])
        return after, (math.log(self._ngrams.probability(memory, word)), 1.0)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scales the mean log-probability."""
        log_probs, words = sums.T
        if self.raw:
            mean: NDArray[np.float64] = log_probs / np.maximum(words, 1.0)
            return mean
        uniform = math.log(self._ngrams.num_outcomes)
        phi: NDArray[np.float64] = np.maximum(0.0, (words + log_probs / uniform) / np.maximum(words, self.min_words))
        return phi


@lru_cache(maxsize=1 << 14)
def _context(model: NgramModel, prompt: str) -> Ids:
    return model.simplified(model.context(SPLITTER.split(prompt)))
