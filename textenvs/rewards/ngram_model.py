"""An n-gram language model of words: interpolated Kneser-Ney, in a file of JSON.

Source: Kneser & Ney (1995), Improved backing-off for m-gram language modeling; in the interpolated form of Chen &
Goodman (1999), An empirical study of smoothing techniques for language modeling, section 3.1, equation 24, with one
discount an order.

The highest order has the counts of n-grams. A lower order counts in how many different ways an n-gram goes on to the
left, not how often it is there. Each order gives away a discount D of each of its counts to the order below:

    P_k(w | c) = max(count_k(c w) - D_k, 0) / count_k(c .) + D_k types_k(c .) / count_k(c .) P_{k-1}(w | c')

where c' is c without its first word, and P_0 is the same for each word of the vocabulary. Words outside of it are one
word of it, so that the probabilities of all words after any context add up to 1. Nothing is said of where texts end.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from textenvs.rewards.incremental.splitters import Matches

_DATA = Path(__file__).parent.parent / "data"


BUNDLED = {name: _DATA / f"{name}_ngrams.json" for name in ("stories", "reviews")}
"""The models that are there without training: name to file."""


_WORDS = r"\w+|[^\w\s]"


SPLITTER = Matches(_WORDS)
"""A model's words: runs of letters, digits and underscores, and single other characters, in lower case."""


_START, _UNKNOWN = 0, 1  # the numbers of what stands before a text, and of all words outside the vocabulary


_NOWHERE = -1  # stands in a context for a word that no n-gram has there


_FIRST_WORD = 2


_LEAST_DISCOUNT, _MOST_DISCOUNT = 0.1, 0.9


Ids = tuple[int, ...]


class _KnownWords(Matches):
    """`SPLITTER`, but a beginning that no word of a vocabulary has is as good as any other such beginning.

    Args:
        words: The vocabulary.
    """

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__(_WORDS)
        self._beginnings = frozenset(word[:length] for word in words for length in range(1, len(word) + 1))
        self._no_beginning = "x"
        while self._no_beginning in self._beginnings:
            self._no_beginning += "x"

    def shorten(self, rest: str) -> str:
        """See `Splitter.shorten`. A mark is a word already, whatever follows."""
        rest = super().shorten(rest)
        is_word = rest[:1].isalnum() or rest[:1] == "_"
        return self._no_beginning if is_word and self._unit(rest) not in self._beginnings else rest


class NgramModel:
    """Probabilities of words after the words before them.

    Args:
        words: The vocabulary.
        counts: How often each n-gram is in the training texts, by the numbers of its words: 0 stands for what is before
            a text, 1 for any word outside the vocabulary, 2 for `words[0]` and so on. All are of one length, the order.

    Raises:
        ValueError: If there are no counts, their lengths differ, or a number is none of these.
    """

    def __init__(self, words: Sequence[str], counts: dict[Ids, int]) -> None:
        self.order = len(next(iter(counts), ()))
        size = _FIRST_WORD + len(words)
        if not self.order or any(len(gram) != self.order or not all(0 <= i < size for i in gram) for gram in counts):
            raise ValueError(f"Expected n-grams of one length, of numbers below {size}")
        if min(counts.values()) < 1 or any(gram[-1] == _START for gram in counts):
            raise ValueError("Expected counts of at least 1, of n-grams that end with a word")
        self.words = tuple(words)
        self.counts = dict(counts)
        self._ids = {word: number for number, word in enumerate(words, _FIRST_WORD)}
        self._orders: list[tuple[dict[Ids, int], dict[Ids, tuple[int, int]], float]] = []
        level = dict(counts)
        for _ in range(self.order):
            contexts: dict[Ids, tuple[int, int]] = {}
            for gram, count in level.items():
                total, types = contexts.get(gram[:-1], (0, 0))
                contexts[gram[:-1]] = (total + count, types + 1)
            self._orders.append((level, contexts, _discount(level.values())))
            level = Counter(gram[1:] for gram in level)
        self._orders.reverse()
        self.probability = lru_cache(maxsize=1 << 18)(self._probability)

    def __reduce__(self) -> tuple[type[NgramModel], tuple[tuple[str, ...], dict[Ids, int]]]:
        """Without what can be worked out again."""
        return type(self), (self.words, self.counts)

    @property
    def num_outcomes(self) -> int:
        """How many words there are to choose from, "outside the vocabulary" as one of them."""
        return len(self.words) + 1

    def number(self, word: str) -> int:
        """The number of a word, as `SPLITTER` cuts it; 1 if it is outside the vocabulary."""
        return self._ids.get(word, _UNKNOWN)

    @cached_property
    def splitter(self) -> Matches:
        """Cuts a text that grows into words of which this model knows at least as much as of those of `SPLITTER`."""
        return _KnownWords(self.words)

    def context(self, words: Sequence[str]) -> Ids:
        """The numbers of the last words before a word, as many as the order needs."""
        numbers = [_START] * (self.order - 1) + [self.number(word) for word in words]
        return tuple(numbers[len(numbers) - self.order + 1 :])

    def settled(self, context: Ids) -> Ids:
        """A context after which, and after whose next words, every word is as probable as after this one.

        The first word of a context counts only with all the others: where no n-gram has them, it is left out, so that
        of all the contexts there could be, few have to be told apart.
        """
        return context if context in self._orders[-1][1] else (_NOWHERE, *context[1:])

    def _probability(self, context: Ids, word: int) -> float:
        """The probability of a word.

        Args:
            context: The numbers of the `order` - 1 words before it.
            word: Its number.

        Returns:
            A number above 0.
        """
        probability = 1.0 / self.num_outcomes
        for length, (counts, contexts, discount) in enumerate(self._orders):
            before = context[len(context) - length :]
            if before in contexts:
                total, types = contexts[before]
                count = counts.get((*before, word), 0)
                probability = (max(count - discount, 0.0) + discount * types * probability) / total
        return probability

    def log_probs(self, text: str, before: str = "") -> list[float]:
        """The log-probability of each word of a text, in nats.

        Args:
            text: Any text.
            before: What it continues.
        """
        context, numbers = self.context(SPLITTER.split(before)), []
        for word in map(self.number, SPLITTER.split(text)):
            numbers.append(math.log(self.probability(context, word)))
            context = (*context, word)[1:]
        return numbers

    def perplexity(self, texts: Iterable[str]) -> float:
        """The inverse of the geometric mean of the probabilities of all words of some texts."""
        log_probs = [number for text in texts for number in self.log_probs(text)]
        return math.exp(-math.fsum(log_probs) / len(log_probs))

    def save(self, path: str | Path, source: str) -> None:
        """Write it to a file.

        Args:
            path: Where to.
            source: What it was trained on.
        """
        # By the words before the last, so that those are written once: {"17 4": [5, 2, 9, 1]} has 17 4 5 twice.
        grams: dict[str, list[int]] = defaultdict(list)
        for gram, count in sorted(self.counts.items()):
            grams[" ".join(map(str, gram[:-1]))] += [gram[-1], count]
        model = {"source": source, "order": self.order, "words": self.words, "grams": grams}
        Path(path).write_text(json.dumps(model, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def train(texts: Iterable[str], order: int = 3, min_count: int = 1) -> NgramModel:
    """Count the n-grams of some texts.

    Args:
        texts: What to learn from.
        order: How many words an n-gram has.
        min_count: Words that are there less often are outside the vocabulary.

    Returns:
        The model.

    Raises:
        ValueError: If `order` or `min_count` is below 1, or the texts have no word.
    """
    for name, value in (("order", order), ("min_count", min_count)):
        if value < 1:
            raise ValueError(f"Expected {name} to be at least 1, got {value}")
    cut = [SPLITTER.split(text) for text in texts]
    frequencies = Counter(word for words in cut for word in words)
    if not frequencies:
        raise ValueError("Expected texts to train on, got none with a word in it")
    vocabulary = [word for word, number in frequencies.most_common() if number >= min_count]
    ids = {word: number for number, word in enumerate(vocabulary, _FIRST_WORD)}
    counts: Counter[Ids] = Counter()
    for words in cut:
        numbers = [_START] * (order - 1) + [ids.get(word, _UNKNOWN) for word in words]
        counts.update(tuple(numbers[place : place + order]) for place in range(len(words)))
    return NgramModel(vocabulary, dict(counts))


def load_ngrams(path: str | Path | None = None) -> NgramModel:
    """Read a model.

    Args:
        path: A file that `python -m textenvs.data.train_ngrams` wrote, or a name from `BUNDLED`; None is "stories".

    Returns:
        The model; the same one for the same file, as long as that stays as it is.

    Raises:
        ValueError: If there is no such file, or it holds no model.
    """
    file = BUNDLED.get(str(path or "stories")) or Path(str(path)).expanduser().absolute()
    if not file.is_file():
        raise ValueError(
            f"Expected a model from {list(BUNDLED)} or a file that python -m textenvs.data.train_ngrams wrote, got "
            f"{str(path)!r}: there is none"
        )
    return _load(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(file: Path, written: int) -> NgramModel:
    try:
        model: Any = json.loads(file.read_text(encoding="utf-8"))
        counts = {}
        for context, pairs in model["grams"].items():
            before = tuple(map(int, context.split()))
            for word, count in zip(pairs[::2], pairs[1::2], strict=True):
                counts[(*before, int(word))] = int(count)
        return NgramModel([str(word) for word in model["words"]], counts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Expected {str(file)!r} to hold an n-gram model, but it could not be read: {error}"
        ) from error


def _discount(counts: Iterable[int]) -> float:
    """What to take from each count, by how many are 1 and 2 (Ney, Essen & Kneser 1994); bounded, for tiny texts."""
    numbers = Counter(counts)
    ones, twos = numbers[1], numbers[2]
    discount = ones / (ones + 2 * twos) if ones else 0.0
    return min(max(discount, _LEAST_DISCOUNT), _MOST_DISCOUNT)
