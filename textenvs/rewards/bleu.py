"""BLEU: the share of a response's n-grams that the references have, as sacrebleu counts them.

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

# In the order of mteval-v13a: each replacement and rule is applied to the result of the one before. Before the rules
# below, another cuts off all ASCII punctuation except ' , - .
_REMOVED = ("<skipped>", "-\n")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a period or comma, unless it follows a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or unless a digit follows it
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)
_CUT_OFF = re.compile(r"[!-&(-+:-@[-`{-~/]")


def _cut_13a(text: str) -> list[str]:
    """Cuts a text by mteval-v13a's rules.

    The first rule looks at single characters. The others read one character before or after their own, and white
    space for anything but a digit, so they can be applied to each piece between white space by itself: only to those
    that they may change, each of which is worked out once.
    """
    pieces = _CUT_OFF.sub(r" \g<0> ", text).split()
    if "." in text or "," in text or "-" in text:
        return [token for piece in pieces for token in ([piece] if piece.isalpha() else _cut_piece(piece))]
    return pieces


@lru_cache(maxsize=1 << 14)
def _cut_piece(piece: str) -> tuple[str, ...]:
    if not ("." in piece or "," in piece or "-" in piece):
        return (piece,)
    piece = f" {piece} "
    for pattern, replacement in _RULES:
        piece = pattern.sub(replacement, piece)
    return tuple(piece.split())


# A place in a run of non-space characters whose two sides the rules tokenise independently, whatever follows: after
# punctuation that is always cut off, and between a period or comma and a letter. Not after < > & ; which may be part of
# an entity or of "<skipped>", nor after : ^ ` which a final sigma's lower case ignores.
_SEAM = re.compile(r"(?<=[!-%(-+/=?@[-\]_{-~])(?=.)|(?<=[.,])(?=[A-Za-z])", re.DOTALL)


class Tokens13a(Splitter):
    r"""The tokens of mteval-v13a, sacrebleu's default.

    White space separates the parts of a text, except for a newline after a hyphen: "-\n" is removed, which joins two
    words, unless it ends the text.

    Args:
        lowercase: If True, texts are lowered first.
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
        return _cut_13a(text)

    def _hyphenated(self, text: str) -> bool:
        """Tests if a newline after this text would be removed, together with its last hyphen."""
        text = text[-64:] if text[-1:] == "-" else text
        return (text.lower() if self.lowercase else text).replace("<skipped>", "").endswith("-")

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into tokens up to the last place that separates it, whatever follows."""
        body = text.rstrip()
        if not body:
            return [], ""
        if text[-1].isalnum() and (word := text.lstrip()).isalnum():  # a shortcut for most texts
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
        # The lower case of a sigma depends on the letters around it, even beyond a period.
        if not tail and not (self.lowercase and "Σ" in text[start:]):
            for seam in _SEAM.finditer(text, start):
                start = seam.start()
        return self._tokens(text[:start]), text[start:]

    def finish(self, rest: str) -> list[str]:
        """Returns the tokens of a rest."""
        if rest.isalnum():
            return [rest.lower() if self.lowercase else rest]
        return self._tokens(rest.rstrip())

    def stands(self, rest: str) -> bool:
        """Returns False after a hyphen, which a newline would remove."""
        return not self._hyphenated(rest.rstrip())

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into tokens."""
        return self._tokens(text.rstrip())


class TokensIntl(Splitter):
    r"""The tokens of mteval-v14's international tokenisation: sacrebleu's "intl".

    Punctuation is cut off on a side where there is no digit, symbols on both sides. The rules take white space for a
    character that is no digit, and the ends of the text for nothing: at the beginning of a text "-5" is one token, and
    at the end "5." is one. So a rest includes the white space before it, and a last word that white space would change
    stays in the rest until the next word.

    `unicodedata` says which characters are punctuation, digits or symbols; sacrebleu asks `regex`. The two differ where
    one of them knows a newer Unicode.

    Args:
        lowercase: If True, texts are lowered first.
    """

    def __init__(self, lowercase: bool = False) -> None:
        self.lowercase = lowercase

    def _tokens(self, text: str) -> list[str]:
        for pattern, replacement in _international_rules():
            text = pattern.sub(replacement, text)
        return text.split()

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into tokens."""
        return self._tokens((text.lower() if self.lowercase else text).rstrip())

    def finish(self, rest: str) -> list[str]:
        """Returns the tokens of a rest."""
        return self.split(rest)

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into tokens up to the last white space after which no token can change."""
        body = text.rstrip()
        start = len(text) - 1  # of the rest: its white space
        if not body:
            return [], text[-1:]
        if len(body) == len(text) or not self.stands(body):
            start = next((index for index in reversed(range(len(body))) if body[index].isspace()), 0)
        finished = text[: start + 1] if start else ""
        return self._tokens(finished.lower() if self.lowercase else finished), text[start:]

    def stands(self, rest: str) -> bool:
        """Returns False after a digit and punctuation, which is cut off before white space but not at the end."""
        return self.split(rest) == self.split(f"{rest} -")[:-1]


@lru_cache(maxsize=1)
def _international_rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    r"""Compiles the rules of mteval-v14: `(\P{N})(\p{P})`, `(\p{P})(\P{N})` and `(\p{S})`, in that order.

    Python's `re` has no classes of Unicode categories, so each is written as its ranges of characters.
    """
    ranges: dict[str, list[list[int]]] = {"N": [], "P": [], "S": []}
    for code in range(sys.maxunicode + 1):
        of_kind = ranges.get(category(chr(code))[0])
        if of_kind is not None:
            if of_kind and of_kind[-1][1] == code - 1:
                of_kind[-1][1] = code
            else:
                of_kind.append([code, code])
    kinds = {kind: "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in spans) for kind, spans in ranges.items()}
    return (
        (re.compile(f"([^{kinds['N']}])([{kinds['P']}])"), r"\1 \2 "),
        (re.compile(f"([{kinds['P']}])([^{kinds['N']}])"), r" \1 \2"),
        (re.compile(f"([{kinds['S']}])"), r" \1 "),
    )


class LowerWords(Words):
    """Pieces of text between white space, in lower case."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into words, the last of which may still go on."""
        words, rest = super().cut(text)
        return [word.lower() for word in words], rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last word."""
        return rest.lower().split()

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into words."""
        return text.lower().split()


class LowerCharacters(LowerWords):
    """Single characters without white space, in lower case. The lower case is the word's: "ΟΣ" is "ος"."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into characters. The last word is the rest."""
        words, rest = super().cut(text)
        return list("".join(words)), rest

    def finish(self, rest: str) -> list[str]:
        """Returns the characters of the last word."""
        return list("".join(super().finish(rest)))

    def split(self, text: str) -> list[str]:
        """Cuts a whole text into characters."""
        return list("".join(super().split(text)))


_SMOOTH_VALUES = {"none": None, "floor": 0.1, "add-k": 1.0, "exp": None}
_LOG_OF_ZERO = -9999999999.0  # as in sacrebleu


def _splitter(tokenize: str, lowercase: bool) -> Splitter:
    check_choice("tokenize", tokenize, ("13a", "intl", "none", "char"))
    if tokenize in ("13a", "intl"):
        return Tokens13a(lowercase) if tokenize == "13a" else TokensIntl(lowercase)
    if tokenize == "none":
        return LowerWords() if lowercase else Words()
    return LowerCharacters() if lowercase else Characters()


class Bleu(NgramReward):
    """Sentence BLEU, equal to sacrebleu's divided by 100: from 0 to 1, which is a reference itself.

    The geometric mean of the n-gram precisions, times a penalty for a text that is shorter than the reference whose
    length is closest. Several references count as sacrebleu counts them: an n-gram is allowed as often as in the
    reference that has it most often.

    It falls at every token that continues no n-gram of a reference, and rises with the length up to the reference's.

    Args:
        smooth_method: The treatment of an order without a match: "exp" (sacrebleu's default) gives the first such order
            half a match, the next a quarter, and so on; "floor" gives it `smooth_value` matches; "add-k" gives every
            order above 1 `smooth_value` more matches and n-grams; "none" makes the score 0.
        smooth_value: The number for "floor" (None: 0.1) and "add-k" (None: 1).
        tokenize: "13a" (sacrebleu's default), "intl" (the same for all scripts), "none" (white space) or "char".
            Sacrebleu's others are for Chinese, or take a dictionary or a model.
        lowercase: If True, upper and lower case are the same.
        effective_order: If True, orders that are longer than the response are left out, as they should be for
            sentences. If False, a response shorter than `max_ngram_order` scores 0.
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
        """Computes BLEU: Papineni et al., section 2.3, with the mean over the orders that the response has."""
        (tokens,) = matches
        matched = tokens.matched[:, :, 0].astype(np.float64)
        written = num_grams(tokens.lengths, 1, self.max_ngram_order).astype(np.float64)
        no_match = tokens.matched[:, 0, 0] == 0  # without a shared token, no longer n-gram is shared either
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
            logs += missed * _LOG_OF_ZERO
        orders: NDArray[np.float64] | float = np.maximum(exists.sum(axis=1), 1)
        if not self.effective_order:
            logs += ~exists * _LOG_OF_ZERO
            orders = self.max_ngram_order
        # The reference whose length is closest, the shorter of two: the least of (difference, length), as one number.
        gaps = np.abs(tokens.wanted - tokens.lengths[:, None])
        closest = ((gaps << 31) + tokens.wanted).min(axis=1) & ((1 << 31) - 1)
        brevity = np.minimum(1 - closest / np.maximum(tokens.lengths, 1), 0.0)
        return np.where(no_match, 0.0, np.exp(logs.sum(axis=1) / orders + brevity))
