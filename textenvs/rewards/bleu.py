"""BLEU: how many of a response's n-grams the references have, as sacrebleu counts them.

Source: Papineni, Roukos, Ward & Zhu (2002), BLEU: a method for automatic evaluation of machine translation; sentence
BLEU as in Post (2018), A call for clarity in reporting BLEU scores (sacrebleu); smoothing after Chen & Cherry (2014), A
systematic comparison of smoothing techniques for sentence-level BLEU.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice, check_count, check_number
from textenvs.rewards.incremental.ngram_overlap import Grams, NgramMatches, NgramReward, num_grams
from textenvs.rewards.incremental.splitters import Characters, Splitter, Words

# The order of replacements and rules is mteval-v13a's. What each leaves behind, the next one sees.
_REMOVED = ("<skipped>", "-\n")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (
    (re.compile(r"([ !-&(-+:-@[-`{-~/])"), r" \1 "),  # all ASCII punctuation but ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a period or comma, unless behind a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or unless before one
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash behind a digit
)
# Where a run of non-space characters falls into parts that the rules treat apart, and that nothing to come can join:
# behind punctuation that is always cut off (without < > & ; of what is replaced, and : ^ ` that a final sigma's lower
# case looks through), and between a period or comma and a letter.
_SEAM = re.compile(r"(?<=[!-%(-+/=?@[-\]_{-~])(?=.)|(?<=[.,])(?=[A-Za-z])", re.DOTALL)


class Tokens13a(Splitter):
    r"""The tokens of mteval-v13a, sacrebleu's default.

    A text falls into parts at white space, but for a newline behind a hyphen: "-\n" is removed, which joins two words,
    unless it ends the text.

    Args:
        lowercase: Whether texts are lowered first.
    """

    def __init__(self, lowercase: bool = False) -> None:
        self.lowercase = lowercase

    def _tokens(self, text: str) -> list[str]:
        if self.lowercase:
            text = text.lower()
        for removed in _REMOVED:
            text = text.replace(removed, "")
        text = text.replace("\n", " ")
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
        text = f" {text} "
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        return text.split()

    def _hyphenated(self, text: str) -> bool:
        """Whether a newline would be removed together with the end of this text."""
        text = text[-64:] if text[-1:] == "-" else text
        return (text.lower() if self.lowercase else text).replace("<skipped>", "").endswith("-")

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        body = text.rstrip()
        if not body:
            return [], ""
        if text[-1].isalnum() and (word := text.lstrip()).isalnum():  # as most are
            return [], word
        tail = text[len(body) :]
        if tail and not (tail[0] == "\n" and self._hyphenated(body)):
            return self._tokens(text), ""
        start = len(body)
        while start:
            start -= 1
            if body[start].isspace() and not (body[start] == "\n" and self._hyphenated(body[:start])):
                start += 1
                break
        # Which lower case a sigma has depends on the letters around it, even beyond a period.
        if not tail and not (self.lowercase and "Σ" in text[start:]):
            for seam in _SEAM.finditer(text, start):
                start = seam.start()
        return self._tokens(text[:start]), text[start:]

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        if rest.isalnum():
            return [rest.lower() if self.lowercase else rest]
        return self._tokens(rest.rstrip())

    def stands(self, rest: str) -> bool:
        """See `Splitter.stands`: a newline may take a hyphen with it."""
        return not self._hyphenated(rest.rstrip())

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return self._tokens(text.rstrip())


class TokensIntl(Splitter):
    r"""The tokens of mteval-v14's international tokenisation: sacrebleu's "intl".

    Punctuation is cut off, unless a digit is on the side where it would be; symbols always are. White space parts a
    text for the rules, but not as its ends do: with nothing before it, "-5" is one token, and "5." with nothing behind
    it. So a rest begins with the white space in front of it, and a last word that can still change waits for the next.

    Which characters are punctuation, digits or symbols is `unicodedata`'s word, sacrebleu's is that of `regex`: they
    differ where one of them knows a newer Unicode.

    Args:
        lowercase: Whether texts are lowered first.
    """

    def __init__(self, lowercase: bool = False) -> None:
        self.lowercase = lowercase

    def _tokens(self, text: str) -> list[str]:
        for pattern, replacement in _international_rules():
            text = pattern.sub(replacement, text)
        return text.split()

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return self._tokens((text.lower() if self.lowercase else text).rstrip())

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return self.split(rest)

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        body = text.rstrip()
        start = len(text) - 1  # where white space is that all before it is read up to
        if not body:
            return [], text[-1:]
        if len(body) == len(text) or not self.stands(body):
            start = next((place for place in reversed(range(len(body))) if body[place].isspace()), 0)
        finished = text[: start + 1] if start else ""
        return self._tokens(finished.lower() if self.lowercase else finished), text[start:]

    def stands(self, rest: str) -> bool:
        """See `Splitter.stands`: punctuation behind a digit is cut off before white space, not at the end."""
        return self.split(rest) == self.split(f"{rest} -")[:-1]


@lru_cache(maxsize=1)
def _international_rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    r"""The rules of mteval-v14: `(\P{N})(\p{P})`, `(\p{P})(\P{N})` and `(\p{S})`, in that order."""
    ranges: dict[str, list[list[int]]] = {"N": [], "P": [], "S": []}
    for code in range(sys.maxunicode + 1):
        found = ranges.get(category(chr(code))[0])
        if found is not None:
            if found and found[-1][1] == code - 1:
                found[-1][1] = code
            else:
                found.append([code, code])
    kinds = {kind: "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in found) for kind, found in ranges.items()}
    return (
        (re.compile(f"([^{kinds['N']}])([{kinds['P']}])"), r"\1 \2 "),
        (re.compile(f"([{kinds['P']}])([^{kinds['N']}])"), r" \1 \2"),
        (re.compile(f"([{kinds['S']}])"), r" \1 "),
    )


class LowerWords(Words):
    """Pieces of text between white space, in lower case."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        words, rest = super().cut(text)
        return [word.lower() for word in words], rest

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return rest.lower().split()

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return text.lower().split()


class LowerCharacters(LowerWords):
    """Single characters without white space, in lower case, which a word has as a whole ("ΟΣ" is "ος")."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """See `Splitter.cut`."""
        words, rest = super().cut(text)
        return list("".join(words)), rest

    def finish(self, rest: str) -> list[str]:
        """See `Splitter.finish`."""
        return list("".join(super().finish(rest)))

    def split(self, text: str) -> list[str]:
        """See `Splitter.split`."""
        return list("".join(super().split(text)))


_SMOOTH_VALUES = {"none": None, "floor": 0.1, "add-k": 1.0, "exp": None}
_NO_LOG = -9999999999.0  # of 0


def _splitter(tokenize: str, lowercase: bool) -> Splitter:
    check_choice("tokenize", tokenize, ("13a", "intl", "none", "char"))
    if tokenize in ("13a", "intl"):
        return Tokens13a(lowercase) if tokenize == "13a" else TokensIntl(lowercase)
    if tokenize == "none":
        return LowerWords() if lowercase else Words()
    return LowerCharacters() if lowercase else Characters()


class Bleu(NgramReward):
    """Sentence BLEU, equal to sacrebleu's divided by 100: from 0 to 1, a reference itself.

    The geometric mean of the n-gram precisions, times a penalty for a text that is shorter than the reference whose
    length is closest. Several references count as sacrebleu counts them: an n-gram is allowed as often as the reference
    that has it most often.

    It falls on every token that no reference has there, and rises with the length until the reference's is reached.

    Args:
        smooth_method: What becomes of an order without a match: "exp" (sacrebleu's default) gives the first half a
            match, the next a quarter, and so on; "floor" gives it `smooth_value` matches; "add-k" gives every order
            above 1 that many more matches and n-grams; "none" makes the score 0.
        smooth_value: For "floor" (None: 0.1) and "add-k" (None: 1).
        tokenize: "13a" (sacrebleu's default), "intl" (its like for all scripts), "none" (white space) or "char".
            Sacrebleu's others are for Chinese, or take a dictionary or a model.
        lowercase: Whether upper and lower case are the same.
        effective_order: Whether orders beyond the response's length are left out, as for sentences they should be. If
            not, a response shorter than `max_ngram_order` scores 0.
        max_ngram_order: The longest n-grams.

    Raises:
        ValueError: If a setting is none of these.

    Cost: two dictionary look-ups a token (amortised), whatever the lengths.
    """

    name = "bleu"

    def __init__(
        self,
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        tokenize: str = "13a",
        lowercase: bool = False,
        effective_order: bool = True,
        max_ngram_order: int = 4,
    ) -> None:
        self.smooth_method = check_choice("smooth_method", smooth_method, tuple(_SMOOTH_VALUES))
        default = _SMOOTH_VALUES[smooth_method]
        if smooth_value is not None and default is None:
            raise ValueError(f"Expected smooth_value with 'floor' or 'add-k' alone, got it with {smooth_method!r}")
        self.smooth_value = check_number(
            "smooth_value", (default or 0.0) if smooth_value is None else smooth_value, low=0
        )
        self.effective_order = effective_order
        self.max_ngram_order = check_count("max_ngram_order", max_ngram_order)
        self.grams = (Grams(_splitter(tokenize, lowercase), 1, max_ngram_order, pooled=True),)

    def phi(self, matches: Sequence[NgramMatches]) -> NDArray[np.float64]:
        """See `NgramReward.phi`. Papineni et al., section 2.3, with the mean over orders that exist."""
        (found,) = matches
        matched = found.matched[:, :, 0].astype(np.float64)
        written = num_grams(found.lengths, 1, self.max_ngram_order).astype(np.float64)
        none = found.matched[:, 0, 0] == 0  # without a word there is no longer n-gram either
        if self.smooth_method == "add-k":
            matched[:, 1:] += self.smooth_value
            written[:, 1:] += self.smooth_value
        exists, missed = written > 0, matched == 0
        logs = np.log(np.where(missed, 1.0, matched)) - np.log(np.where(exists, written, 1.0))
        missed &= exists
        if self.smooth_method == "exp":
            logs -= missed * np.cumsum(missed, axis=1) * math.log(2)
        elif self.smooth_method == "floor" and self.smooth_value:
            logs += missed * math.log(self.smooth_value)
        else:
            logs += missed * _NO_LOG
        orders: NDArray[np.float64] | float = np.maximum(exists.sum(axis=1), 1)
        if not self.effective_order:
            logs += ~exists * _NO_LOG
            orders = self.max_ngram_order
        # The reference whose length is closest, the shorter of two: the least of (difference, length), as one number.
        gaps = np.abs(found.wanted - found.lengths[:, None])
        closest = ((gaps << 31) + found.wanted).min(axis=1) & ((1 << 31) - 1)
        brevity = np.minimum(1 - closest / np.maximum(found.lengths, 1), 0.0)
        return np.where(none, 0.0, np.exp(logs.sum(axis=1) / orders + brevity))
