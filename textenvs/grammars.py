"""Sets of texts that a response may be held to, read byte by byte.

A `Language` is a set of texts: a list of choices, or all that a regular expression matches. It is read in bytes, since
a token may end inside a character, and any way to cut a text into tokens is as good as another.
`textenvs.action_masks` makes masks over tokens of it.
"""

from __future__ import annotations

import math
import re
import warnings
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from textenvs.arguments import check_count

Ranges = list[tuple[int, int]]
"""Sets of numbers (bytes or characters): (first, last) each."""


_Term = tuple[Any, ...]
"""A sequence of items of a regular expression. An item is a set of bytes, as the bits of an int, or a repetition of a
choice of terms, as (terms, least, most), where None is no limit."""


_LAST_CHARACTER = 0x10FFFF


MAX_REGEX_SIZE = 1 << 14
"""The largest size of a regular expression, unless another is asked for."""


_MAX_DEPTH = 100  # of parentheses: the functions below call themselves, and Python allows 1000 calls


_SETS: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "s": [(0x09, 0x0D), (0x20, 0x20)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}


_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}


_QUANTIFIER = re.compile(r"([*+?])|\{(?!\})(\d*)(?:(,)(\d*))?\}")


class Language(ABC):
    """A set of texts. A state holds all that matters of the bytes read so far."""

    start: Hashable
    """The state before the first byte."""

    @abstractmethod
    def step(self, state: Any, byte: int) -> Any:
        """Reads one byte.

        Args:
            state: The state before it.
            byte: From 0 to 255.

        Returns:
            The state after it, or None if no text of the language begins so.
        """

    @abstractmethod
    def accepts(self, state: Any) -> bool:
        """Returns True if the bytes read so far are a whole text of the language."""


class Choices(Language):
    """A list of texts. A state is the bytes so far.

    Args:
        texts: The texts.
    """

    start = b""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = sorted({text.encode() for text in texts})

    def step(self, state: bytes, byte: int) -> bytes | None:
        """Adds one byte, if some text still begins so."""
        state += bytes([byte])
        return state if self._first_from(state).startswith(state) else None

    def accepts(self, state: bytes) -> bool:
        """Returns True if the bytes are one of the texts."""
        return state in self._texts if not state else self._first_from(state) == state

    def _first_from(self, state: bytes) -> bytes:
        index = bisect_left(self._texts, state)
        return self._texts[index] if index < len(self._texts) else b""


class Regex(Language):
    r"""All texts that a regular expression matches whole, as `re.fullmatch` with `re.ASCII` does.

    A state is the set of terms that may still follow. The expression is differentiated by each byte as it comes, so
    nothing is compiled ahead, and a beginning that leads nowhere is known at once.

    Supported: characters, `.`, `[...]`, `\d \w \s` and their opposites, `( )`, `(?: )`, `|`, `* + ? {m,n}`, and `^` and
    `$` around it all.

    Args:
        pattern: The expression.
        max_size: The largest size of the expression, which is its number of sets of bytes with all counts written out:
            `(a{10}){20}` has 200. Time and memory grow with it. A character beyond ASCII is up to 4 sets, and a class
            such as `.` or `[^,]`, which has all of Unicode, about 20.

    Raises:
        ValueError: If the pattern is not a regular expression, uses a part that is not supported (look-around,
            back-references, anchors inside, flags), is too large, or has more than 100 parentheses in each other.

    Source: Antimirov (1996), Partial derivatives of regular expressions and finite automaton constructions.
    """

    start: frozenset[_Term]

    def __init__(self, pattern: str, max_size: int = MAX_REGEX_SIZE) -> None:
        max_size = check_count("max_size", max_size)
        terms = _Parser(pattern).parse()
        size = sum(map(_size, terms))
        if size > max_size:
            raise ValueError(
                f"Expected a regular expression of at most max_size={max_size} sets of bytes, got {_shorten(pattern)!r}"
                f" of {size if size < 10**9 else 'more than 1e9'}: write smaller counts, or pass a larger max_size"
            )
        self.start = frozenset(terms)

    def step(self, state: frozenset[_Term], byte: int) -> frozenset[_Term] | None:
        """Differentiates the terms that may follow by one byte."""
        return _MEMORY.derive(state, byte)

    def accepts(self, state: frozenset[_Term]) -> bool:
        """Returns True if nothing more has to follow."""
        return any(_can_be_empty(term) for term in state)

    def remaining(self, state: frozenset[_Term]) -> float:
        """Counts the bytes of the shortest way from a state to a whole text; infinity if there is none."""
        return _MEMORY.fewest_bytes(state)


@lru_cache(maxsize=64)
def _choices(texts: tuple[str, ...]) -> Language:
    return Choices(texts)


@lru_cache(maxsize=64)
def _regex(pattern: str, max_size: int) -> Language:
    return Regex(pattern, max_size)


def make_language(allowed: Any) -> Language:
    """Makes a language from a user's list of texts or regular expression.

    Args:
        allowed: A list of texts, or `{"regex": pattern}`, and with it `"max_size"`, as `Regex` takes it.

    Returns:
        The language; the same object for the same texts or pattern, so that masks worked out for it are kept.

    Raises:
        ValueError: If the list is empty, or the regular expression is wrong or not supported.
        TypeError: If it is neither.
    """
    expected = "Expected the texts that are allowed as a list of strings or {'regex': pattern}"
    if isinstance(allowed, Mapping):
        if not {"regex"} <= set(allowed) <= {"regex", "max_size"} or not isinstance(allowed["regex"], str):
            raise ValueError(f"{expected}, got {dict(allowed)!r}")
        return _regex(allowed["regex"], check_count("max_size", allowed.get("max_size", MAX_REGEX_SIZE)))
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        raise TypeError(f"{expected}, got {allowed!r}")
    if not allowed or not all(isinstance(text, str) for text in allowed):
        raise ValueError(f"{expected}, at least one of them, got {allowed!r}")
    return _choices(tuple(allowed))


def _fewest_bytes(terms: Iterable[_Term]) -> float:
    """Returns the length of the shortest text of a choice of terms."""
    return min((sum(map(_fewest_bytes_of_item, term)) for term in terms), default=math.inf)


def _fewest_bytes_of_item(item: Any) -> float:
    if isinstance(item, int):
        return 1 if item else math.inf
    terms, least, _ = item
    return least * _fewest_bytes(terms) if least else 0


def _can_be_empty(term: _Term) -> bool:
    return all(not isinstance(item, int) and _item_can_be_empty(item) for item in term)


def _item_can_be_empty(item: tuple[tuple[_Term, ...], int, int | None]) -> bool:
    terms, least, _ = item
    return least == 0 or any(_can_be_empty(term) for term in terms)


class _Memory:
    """What was worked out for states of all regular expressions.

    Attributes:
        max_items: The number of terms, and of their items, in the states that are kept, beyond which all are forgotten:
            some 100 MB.
    """

    max_items = 1 << 21

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._after: dict[tuple[frozenset[_Term], int], frozenset[_Term] | None] = {}
        self._fewest: dict[frozenset[_Term], float] = {}
        self._num_items = 0

    def _keep(self, num_items: int) -> None:
        self._num_items += num_items
        if self._num_items > self.max_items:
            self._forget()

    def derive(self, terms: frozenset[_Term], byte: int) -> frozenset[_Term] | None:
        """Returns the terms that may follow a byte, or None if none may."""
        key = (terms, byte)
        if key in self._after:
            return self._after[key]
        after = frozenset(after for term in terms for after in _derive_term(term, byte)) or None
        self._keep(4 + (0 if after is None else 4 * len(after) + sum(map(len, after))))
        self._after[key] = after
        return after

    def fewest_bytes(self, terms: frozenset[_Term]) -> float:
        """Returns the length of the shortest text of a choice of terms."""
        fewest = self._fewest.get(terms)
        if fewest is None:
            fewest = _fewest_bytes(terms)
            self._keep(4)
            self._fewest[terms] = fewest
        return fewest


_MEMORY = _Memory()


def _derive_term(term: _Term, byte: int) -> Iterator[_Term]:
    for position, item in enumerate(term):
        rest = term[position + 1 :]
        if isinstance(item, int):
            if item >> byte & 1:
                yield rest
            return
        terms, least, most = item
        again = () if most == 1 else ((terms, max(least - 1, 0), None if most is None else most - 1),)
        for inner in terms:
            for after in _derive_term(inner, byte):
                yield after + again + rest
        if not _item_can_be_empty(item):
            return


def _size(term: _Term) -> int:
    return sum(1 if isinstance(item, int) else _size_of_repetition(item) for item in term)


def _size_of_repetition(item: tuple[tuple[_Term, ...], int, int | None]) -> int:
    terms, least, most = item
    return max(sum(map(_size, terms)), 1) * max(least, most or 0, 1)


def _shorten(pattern: str, limit: int = 200) -> str:
    return pattern if len(pattern) <= limit else f"{pattern[:limit]}... ({len(pattern)} characters)"


class _Parser:
    """A recursive-descent parser of the supported part of `re`'s syntax.

    Python's own compiler has approved the pattern before, so that brackets match and escapes are complete.
    """

    def __init__(self, pattern: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of syntax that may mean something else in a later Python
                re.compile(pattern)
        except (re.error, ValueError, OverflowError, RecursionError) as error:  # the last three: beyond Python's limits
            raise ValueError(f"Expected a regular expression, got {_shorten(pattern)!r}: {error}") from error
        self._pattern = pattern
        self._depth = 0
        self._text = pattern.removeprefix("^")
        if self._text.endswith("$") and (len(self._text) - len(self._text[:-1].rstrip("\\"))) % 2:
            self._text = self._text[:-1]
        self._at = 0

    def parse(self) -> tuple[_Term, ...]:
        terms = [self._sequence()]
        while self._take("|"):
            terms.append(self._sequence())
        return tuple(terms)

    def _fail(self, feature: str) -> NoReturn:
        raise ValueError(f"Expected a regular expression without {feature}, got {_shorten(self._pattern)!r}")

    def _take(self, text: str) -> bool:
        is_next = self._text.startswith(text, self._at)
        self._at += len(text) if is_next else 0
        return is_next

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _sequence(self) -> _Term:
        items: list[Any] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            items += self._repeated(self._atom())
        return tuple(items)

    def _atom(self) -> tuple[_Term, ...]:
        character = self._next()
        if character == "(":
            if not self._take("?:") and self._take("?"):
                self._fail("look-around, named groups and flags")
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                self._fail(f"more than {_MAX_DEPTH} parentheses in each other")
            terms = self.parse()
            self._take(")")
            self._depth -= 1
            return terms
        if character in "^$":
            self._fail("anchors inside")
        if character == "[":
            return _utf8_terms(self._set())
        if character == ".":
            return _utf8_terms(_others([(0x0A, 0x0A)]))
        return _utf8_terms(self._escape() if character == "\\" else [(ord(character), ord(character))])

    def _repeated(self, terms: tuple[_Term, ...]) -> _Term:
        quantifier = _QUANTIFIER.match(self._text, self._at)
        if quantifier is None:
            return terms[0] if len(terms) == 1 else ((terms, 1, 1),)
        self._at = quantifier.end()
        if self._take("+"):
            self._fail("possessive quantifiers")
        self._take("?")  # a lazy quantifier matches the same texts, in another order
        sign, low, comma, high = quantifier.groups()
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign, (int(low or 0), None))
        if not sign:
            most = least if not comma else int(high) if high else None
        return () if most == 0 else ((terms, least, most),)

    def _set(self) -> Ranges:
        negated, ranges = self._take("^"), []
        begin = self._at
        while self._at == begin or self._text[self._at] != "]":
            first = self._member()
            if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                ranges.append((first[0][0], self._member()[0][1]))
            else:
                ranges += first
        self._at += 1
        return _others(ranges) if negated else ranges

    def _member(self) -> Ranges:
        character = self._next()
        if character == "\\":
            return [(0x08, 0x08)] if self._take("b") else self._escape()
        return [(ord(character), ord(character))]

    def _escape(self) -> Ranges:
        character = self._next()
        if character.lower() in _SETS:
            ranges = _SETS[character.lower()]
            return ranges if character.islower() else _others(ranges)
        if character in _CODE_DIGITS:
            digits = self._text[self._at : self._at + _CODE_DIGITS[character]]
            self._at += len(digits)
            return [(int(digits, 16), int(digits, 16))]
        if character.isascii() and character.isalnum() and character not in _CONTROLS:
            self._fail(f"\\{character}")
        character = _CONTROLS.get(character, character)
        return [(ord(character), ord(character))]


def _others(ranges: Ranges) -> Ranges:
    """Returns the characters that are not in these ranges."""
    others, begin = [], 0
    for first, last in sorted(ranges):
        if first > begin:
            others.append((begin, first - 1))
        begin = max(begin, last + 1)
    return [*others, (begin, _LAST_CHARACTER)] if begin <= _LAST_CHARACTER else others


def _utf8_terms(ranges: Ranges) -> tuple[_Term, ...]:
    """Writes characters as sequences of sets of bytes."""
    ascii_bytes, terms = 0, []
    for first, last in ranges:
        for low, high in _utf8_ranges(first, last):
            items = tuple(((2 << b) - 1) >> a << a for a, b in zip(low, high, strict=True))
            if len(items) == 1:
                ascii_bytes |= items[0]
            else:
                terms.append(items)
    return ((ascii_bytes,), *terms) if ascii_bytes else tuple(terms)


def _utf8_ranges(first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
    """Cuts a range of characters so that each part is a range in each byte by itself: (lowest, highest) bytes."""
    if first > last:
        return
    for border in (0x7F, 0x7FF, 0xD7FF, 0xFFFF):  # where another length begins, and before the surrogates
        if first <= border < last:
            yield from _utf8_ranges(first, border)
            yield from _utf8_ranges(border + 1, last)
            return
    if 0xD800 <= first <= 0xDFFF:  # surrogates have no UTF-8
        yield from _utf8_ranges(0xE000, last)
        return
    for bits in (6, 12, 18):
        low = (1 << bits) - 1
        if first | low < last | low:
            if first & low:
                yield from _utf8_ranges(first, first | low)
                yield from _utf8_ranges((first | low) + 1, last)
                return
            if last & low != low:
                yield from _utf8_ranges(first, (last & ~low) - 1)
                yield from _utf8_ranges(last & ~low, last)
                return
    yield chr(first).encode(), chr(last).encode()
