"""chrF and chrF++: character n-grams, which give credit for parts of words, as sacrebleu counts them.

Source: Popović (2015), chrF: character n-gram F-score for automatic MT evaluation; Popović (2017), chrF++: words
helping character n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import punctuation

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count, check_number
from textenvs.rewards.bleu import LowerCharacters
from textenvs.rewards.incremental.ngram_overlap import Grams, NgramMatches, NgramReward, num_grams
from textenvs.rewards.incremental.splitters import Characters, Words


class _BareWords(Words):
    """Words, of which one mark of punctuation at the end, or else at the beginning, is a word of its own."""

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def _parts(self, words: list[str]) -> list[str]:
        parts: list[str] = []
        for word in words:
            if len(word) > 1 and word[-1] in punctuation:
                parts += [word[:-1], word[-1]]
            elif len(word) > 1 and word[0] in punctuation:
                parts += [word[0], word[1:]]
            else:
                parts.append(word)
        return parts

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        words, rest = super().cut(text)
        return self._parts([word.lower() for word in words] if self.lowercase else words), rest

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return self._parts((rest.lower() if self.lowercase else rest).split())

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return self.finish(text)


class Chrf(NgramReward):
    """chrF, equal to sacrebleu's divided by 100: from 0 to 1, a reference itself.

    Precision and recall of character n-grams (white space left out), and with `word_order` of word n-grams too, each
    averaged over the orders that both texts have, in an F-score. With several references, the best counts.

    Args:
        char_order: The longest character n-grams.
        word_order: The longest word n-grams; 0 is chrF, 2 is chrF++.
        beta: How much more recall counts than precision.
        lowercase: Whether upper and lower case are the same.

    Raises:
        ValueError: If an order or `beta` is out of range.

    Cost: two dictionary look-ups a character (amortised), whatever the lengths; with `lowercase`, a word's characters
    are read again at each of its tokens.
    """

    name = "chrf"

    def __init__(self, char_order: int = 6, word_order: int = 0, beta: float = 2, lowercase: bool = False) -> None:
        self.char_order = check_count("char_order", char_order)
        self.word_order = check_count("word_order", word_order, least=0)
        self.beta = check_number("beta", beta, low=0)
        characters = Grams(LowerCharacters() if lowercase else Characters(), 1, char_order)
        words = (Grams(_BareWords(lowercase), 1, word_order),) if word_order else ()
        self.grams = (characters, *words)

    def phi(self, matches: Sequence[NgramMatches]) -> NDArray[np.float64]:
        """See `NgramReward.phi`. Popović (2015), equation 1, over the orders that both texts have."""
        precision, recall, orders = 0.0, 0.0, 0
        for gram, found in zip(self.grams, matches, strict=True):
            written = num_grams(found.lengths, gram.low, gram.high)[:, :, None]
            wanted = num_grams(found.wanted, gram.low, gram.high).transpose(0, 2, 1)
            both = (written > 0) & (wanted > 0)
            precision = precision + (found.matched / np.maximum(written, 1) * both).sum(axis=1)
            recall = recall + (found.matched / np.maximum(wanted, 1) * both).sum(axis=1)
            orders = orders + both.sum(axis=1)
        precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
        factor = self.beta**2
        below = factor * precision + recall
        scores = (1 + factor) * precision * recall / np.where(below > 0, below, 1.0)
        best: NDArray[np.float64] = scores.max(axis=1)
        return best


class ChrfPlusPlus(Chrf):
    """chrF++: chrF with words and word pairs. See `Chrf`."""

    name = "chrfpp"

    def __init__(self, char_order: int = 6, word_order: int = 2, beta: float = 2, lowercase: bool = False) -> None:
        super().__init__(char_order, word_order, beta, lowercase)
