"""Style and fluency: how formal the words are, and how likely an n-gram language model finds them."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import RewardError
from textenvs.rewards.incremental.splitters import Matches
from textenvs.rewards.incremental.units import UnitSums
from textenvs.rewards.ngram_model import SPLITTER, Ids, NgramModel, load_ngrams

_LEXICON = Path(__file__).parent.parent / "data" / "formality.json"
_APOSTROPHE = "'’‘ʼ"  # noqa: RUF001 - and what keyboards and typesetters make of it
_APOSTROPHES = str.maketrans(_APOSTROPHE, "'" * len(_APOSTROPHE))
_CONTRACTION = re.compile(r".+(?:n't|'ll|'re|'ve|'m|'d)")
_NO_BEGINNING = "xxxxx"  # of any word in the lexicon


@lru_cache(maxsize=1)
def _formality() -> dict[str, float]:
    """1 for each formal word of the lexicon, -1 for each informal one."""
    lexicon = json.loads(_LEXICON.read_text(encoding="utf-8"))
    return {word: sign for kind, sign in (("formal", 1.0), ("informal", -1.0)) for word in lexicon[kind]}


def formality_of(word: str) -> float:
    """1 for a formal word, -1 for an informal one or a contraction, 0 for any other.

    Args:
        word: A word in lower case, its apostrophes included.
    """
    word = word.translate(_APOSTROPHES).strip("'")
    return -1.0 if _CONTRACTION.fullmatch(word) else _formality().get(word, 0.0)


class _FormalWords(Matches):
    """Letters and apostrophes, of which a beginning of no word in the lexicon is as good as any other.

    What later letters can still make of it is a contraction, which its last letters begin.
    """

    def __init__(self) -> None:
        super().__init__(rf"[\w{_APOSTROPHE}]+", longest=None)

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`."""
        bare = rest.casefold().translate(_APOSTROPHES).strip("'")
        if len(bare) <= 3 or bare in _beginnings():
            return rest
        # Of the characters as they were written: a folded one need not be a letter, and would be cut anew.
        ends = rest.rstrip(_APOSTROPHE)
        return _NO_BEGINNING + ends[-3:] + rest[len(ends) :][:2]


@lru_cache(maxsize=1)
def _beginnings() -> frozenset[str]:
    return frozenset(word[:length] for word in _formality() for length in range(1, len(word) + 1))


class Formality(UnitSums):
    """The balance of formal and informal words, from -1 (all informal) to 1 (all formal).

    Of the words that the lexicon `textenvs/data/formality.json` marks, formal ones less informal ones, divided by their
    number, or by `min_marks` if there are fewer. Contractions ("don't", "we'll", not "it's") are informal. A text
    without any of them is neither, and scores 0. The lexicon is small and English; it says what words sound like, and
    nothing of how they are used.

    An example that wants an informal text (`metadata["formality"] == "informal"`) turns the sign.

    Args:
        min_marks: The least number of marked words to divide by, so that one "therefore" does not make a formal text.

    Raises:
        ValueError: If `min_marks` is less than 1.

    Cost: two dictionary look-ups a token (amortised). Source: a lexicon of ours, in the spirit of Heylighen & Dewaele
    (1999), Formality of language, whose own measure needs parts of speech.
    """

    name = "formality"
    low, high = -1.0, 1.0
    splitter = _FormalWords()
    width = 2  # formal less informal words, words with a mark

    def __init__(self, min_marks: int = 4) -> None:
        if isinstance(min_marks, bool) or not isinstance(min_marks, int) or min_marks < 1:
            raise ValueError(f"Expected min_marks to be at least 1, got {min_marks!r}")
        self.min_marks = min_marks

    def read(self, memory: object, unit: str) -> tuple[None, tuple[float, float]]:
        """One word."""
        mark = formality_of(unit)
        return None, (mark, abs(mark))

    def features(self, example: Example) -> tuple[float]:
        """1 where a formal text is wanted, -1 where an informal one is."""
        wanted = example.metadata.get("formality", "formal")
        if wanted not in ("formal", "informal"):
            problem = f"expects metadata['formality'] to be 'formal' or 'informal', got {wanted!r}"
            raise RewardError(self.name, problem, example, None)
        return (1.0 if wanted == "formal" else -1.0,)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        phi: NDArray[np.float64] = features[:, 0] * sums[:, 0] / np.maximum(sums[:, 1], self.min_marks) + 0.0  # no -0.0
        return phi


class NgramFluency(UnitSums):
    """How well an n-gram language model predicts the words of a text, from 0 to 1.

    The mean log-probability of a word (each given those before it, the prompt's too), on a scale where 0 is what a
    uniform guess over the vocabulary gives, or less, and 1 is certainty: the share of a uniform model's cross-entropy
    that is gone. The mean is over at least `min_words` words, of which missing ones count as guessed. A word that is
    not finished is taken as it stands, and is then rarely in the vocabulary: tokens that are whole words suit this
    score best.

    Args:
        model: "stories" (also None) or "reviews" (which knows the stories as well), the bundled models, which know the
            small worlds of these tasks and nothing else; or a file that `python -m textenvs.data.train_ngrams
            texts.jsonl` wrote.
        raw: Whether to give the mean log-probability of a word itself, in nats (0 for no word): at most 0.
        min_words: The least number of words to divide by; not for raw ones.

    Raises:
        ValueError: If there is no such file, it holds no model, or `min_words` is less than 1.

    Cost: two dictionary look-ups a token, once the model has been asked. Source: see `textenvs.rewards.ngrams`.
    """

    name = "ngram_lm"
    width = 2  # log-probabilities in nats, words

    def __init__(self, model: str | None = None, raw: bool = False, min_words: int = 8) -> None:
        if isinstance(min_words, bool) or not isinstance(min_words, int) or min_words < 1:
            raise ValueError(f"Expected min_words to be at least 1, got {min_words!r}")
        self.model, self.raw, self.min_words = model, raw, min_words
        self.low, self.high = (-math.inf, 0.0) if raw else (0.0, 1.0)
        self._read_model()

    def _read_model(self) -> None:
        self._ngrams: NgramModel = load_ngrams(self.model)
        self.splitter = self._ngrams.splitter

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which the copy reads again."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_ngrams", "splitter")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the model again."""
        self.__dict__.update(state)
        self._read_model()

    def start(self, example: Example) -> Ids:
        """The numbers of the prompt's last words."""
        return _context(self._ngrams, example.prompt)

    def read(self, memory: Ids, unit: str) -> tuple[Ids, tuple[float, float]]:
        """One word."""
        word = self._ngrams.number(unit)
        after = self._ngrams.settled((*memory, word)[1:])
        return after, (math.log(self._ngrams.probability(memory, word)), 1.0)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `UnitSums.phi`."""
        log_probs, words = sums.T
        if self.raw:
            mean: NDArray[np.float64] = log_probs / np.maximum(words, 1.0)
            return mean
        uniform = math.log(self._ngrams.num_outcomes)
        phi: NDArray[np.float64] = np.maximum(0.0, (words + log_probs / uniform) / np.maximum(words, self.min_words))
        return phi


@lru_cache(maxsize=1 << 14)
def _context(model: NgramModel, prompt: str) -> Ids:
    return model.settled(model.context(SPLITTER.split(prompt)))
