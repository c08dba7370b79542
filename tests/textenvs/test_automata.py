"""Languages of responses, against Python's own `re`, and what they make of tokens; stop sequences."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers import examples
from tests.textenvs.helpers import E_ACUTE, EOS, FIRST, SPECIAL, Letters
from textenvs.action_masks import ActionMasks, Stops
from textenvs.grammars import Language, make_language

LETTERS = Letters()
ALL = np.arange(3)
ATOMS = [
    "a",
    "b",
    "é",
    "☃",
    "😀",
    ".",
    "[ab]",
    "[^a]",
    r"\d",
    r"\W",
    r"\s",
    "[a-cé-ü0]",
    r"[\d_-]",
    r"\.",
    "[]x]",
    r"\x41",
    "{",
]
QUANTIFIERS = ["", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}", "*?", "{0}"]
CHARACTERS = "abcxAé☃😀0_ \n.-{}]"


class Pieces:
    """EOS, and these tokens."""

    eos_token_id = bos_token_id = pad_token_id = 0

    def __init__(self, *pieces: str) -> None:
        self.pieces = (b"", *(piece.encode() for piece in pieces))
        self.vocab_size = len(self.pieces)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        raise NotImplementedError("masks decode alone")


def patterns() -> st.SearchStrategy[str]:
    atom = st.sampled_from(ATOMS)

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        piece = st.tuples(atom | inner.map(lambda p: f"({p})"), st.sampled_from(QUANTIFIERS)).map("".join)
        return st.lists(st.lists(piece, min_size=1, max_size=3).map("".join), min_size=1, max_size=2).map("|".join)

    return st.recursive(atom, grow, max_leaves=6)


def read(language: Language, data: bytes) -> Any:
    state: Any = language.start
    for byte in data:
        if state is not None:
            state = language.step(state, byte)
    return state


def accepts(language: Language, text: str) -> bool:
    state = read(language, text.encode())
    return state is not None and language.accepts(state)


class TestRegex:
    @settings(max_examples=examples(400))
    @given(patterns(), st.lists(st.sampled_from(CHARACTERS), max_size=5).map("".join))
    @example("(a|b)*a(a|b){2}", "abaab")
    @example("(a?){2,3}", "aaa")
    @example("((a*)*b)+", "aabab")
    def test_it_accepts_what_fullmatch_accepts(self, pattern: str, text: str) -> None:
        assert accepts(make_language({"regex": pattern}), text) == bool(re.fullmatch(pattern, text, re.ASCII))

    @settings(max_examples=examples(100))
    @given(patterns(), st.randoms(use_true_random=False))
    def test_a_state_that_lives_leads_to_a_text(self, pattern: str, random: Any) -> None:
        language = make_language({"regex": pattern})
        state, data = language.start, b""
        for _ in range(60):
            if language.accepts(state) and random.random() < 0.4:
                break
            ways = [byte for byte in range(256) if language.step(state, byte) is not None]
            if not ways:
                break
            byte = random.choice(ways)
            state, data = language.step(state, byte), data + bytes([byte])
        else:
            return  # still on its way, in a loop
        assert re.fullmatch(pattern, data.decode(), re.ASCII)  # valid UTF-8, too

    def test_every_character_has_its_bytes(self) -> None:
        everything, language = make_language({"regex": r"[\s\S]"}), make_language({"regex": "[^\u0800-\ufffd]"})
        for code in [*range(0x900), *range(0xD700, 0xD800), *range(0xE000, 0xE100), *range(0xFF00, 0x10100), 0x10FFFF]:
            assert accepts(everything, chr(code))
            assert accepts(language, chr(code)) == (not 0x800 <= code <= 0xFFFD)
        assert read(everything, b"\xed\xa0\x80") is None  # a surrogate

    def test_anchors_around_it_all(self) -> None:
        assert accepts(make_language({"regex": "^ab$"}), "ab")
        assert accepts(make_language({"regex": r"a\$"}), "a$")
        assert accepts(make_language({"regex": r"a\\$"}), "a\\")

    @pytest.mark.parametrize("pattern", ["(", "a**", "[b-a]"])
    def test_no_regular_expression(self, pattern: str) -> None:
        with pytest.raises(ValueError, match="Expected a regular expression, got"):
            make_language({"regex": pattern})

    @pytest.mark.parametrize(
        ("pattern", "what"),
        [
            (r"(a)\1", r"\\1"),
            ("a(?=b)", "look-around"),
            ("(?i)a", "flags"),
            ("(?P<x>a)", "named groups"),
            ("a$|b", "anchors"),
            (r"\bx", r"\\b"),
            ("a*+", "possessive"),
        ],
    )
    def test_not_supported(self, pattern: str, what: str) -> None:
        with pytest.raises(ValueError, match=f"without.*{what}.*got {re.escape(repr(pattern))}"):
            make_language({"regex": pattern})


class TestChoices:
    @given(st.lists(st.text("abé", max_size=4), min_size=1), st.text("abé", max_size=4))
    def test_it_accepts_what_is_in_the_list(self, texts: list[str], text: str) -> None:
        language = make_language(texts)
        assert accepts(language, text) == (text in texts)
        assert (read(language, text.encode()) is not None) == any(one.startswith(text) for one in texts) or not text

    @pytest.mark.parametrize("allowed", [[], ["a", 1], {}, {"regex": 3}, {"regx": "a"}])
    def test_nothing_sensible(self, allowed: Any) -> None:
        with pytest.raises(ValueError, match="Expected the texts that are allowed"):
            make_language(allowed)

    @pytest.mark.parametrize("allowed", ["yes", 3, None])
    def test_neither_list_nor_regex(self, allowed: Any) -> None:
        with pytest.raises(TypeError, match="Expected the texts that are allowed"):
            make_language(allowed)


class TestActionMasks:
    def legal(self, allowed: Any, *tokens: int) -> set[int]:
        masks = ActionMasks(1, LETTERS)
        masks.reset(np.array([0]), [make_language(allowed)])
        for token in tokens:
            masks.push(np.array([0]), np.array([token]))
        mask = masks.legal(np.array([0]))
        assert (mask.dtype, mask.shape) == (np.int8, (1, LETTERS.vocab_size))
        return set(np.flatnonzero(mask[0]).tolist())

    def test_choices_by_hand(self) -> None:
        a, b, c = FIRST["a"], FIRST["b"], FIRST["c"]
        choices = ["ab", "abc", "é"]
        assert self.legal(choices) == {a, FIRST["ab"], E_ACUTE[0]}  # both ways to write "ab"
        assert self.legal(choices, a) == {b}
        assert self.legal(choices, a, b) == self.legal(choices, FIRST["ab"]) == {c, EOS}
        assert self.legal(choices, FIRST["ab"], c) == {EOS}
        assert self.legal(choices, E_ACUTE[0]) == {E_ACUTE[1]}
        assert self.legal(choices, c) == {EOS}  # it was not allowed, and nothing is after it
        assert self.legal(choices, c, a) == {EOS}
        assert self.legal(choices, a, SPECIAL) == {b}  # adds no text

    def test_regex_by_hand(self) -> None:
        assert self.legal({"regex": "g[a-z]{3}"}) == {FIRST["g"], FIRST["good"]}
        assert self.legal({"regex": "g[a-z]{3}"}, FIRST["good"]) == {EOS}
        assert self.legal({"regex": "(ab)*"}) == {FIRST["a"], FIRST["ab"], EOS}

    def test_what_no_token_can_write(self) -> None:
        assert self.legal(["Ω"]) == {EOS}

    def test_lanes_have_languages_of_their_own(self) -> None:
        masks = ActionMasks(3, LETTERS)
        masks.reset(np.arange(3), [make_language(["a"]), None, make_language(["b"])])
        assert [set(np.flatnonzero(row)) for row in masks.legal(ALL)][::2] == [{FIRST["a"]}, {FIRST["b"]}]
        assert masks.legal(ALL)[1].all()
        masks.push(np.array([2, 1]), np.array([FIRST["b"], FIRST["b"]]))
        assert set(np.flatnonzero(masks.legal(ALL)[0])) == {FIRST["a"]}
        assert set(np.flatnonzero(masks.legal(ALL)[2])) == {EOS}
        assert masks.legal(ALL)[1].all()

    def test_a_beginning_that_no_token_can_finish_is_a_dead_end(self) -> None:
        masks = ActionMasks(1, Pieces("a", "ab", "c", "cd"))
        names = ["<eos>", "a", "ab", "c", "cd"]
        for allowed, first in (
            (["ab", "ax"], ["ab"]),
            ({"regex": "(ab|ax|c+x|cd)"}, ["ab", "cd"]),
            (["ax"], ["<eos>"]),
        ):
            masks.reset(np.array([0]), [make_language(allowed)])
            assert [names[token] for token in np.flatnonzero(masks.legal(np.array([0]))[0])] == first

    @settings(max_examples=examples(200), deadline=None)
    @given(
        st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4, unique=True),
        st.lists(st.text("ab", max_size=5), min_size=1, max_size=4),
    )
    def test_legal_is_what_leads_to_an_allowed_text_by_trying_all_ways(
        self, pieces: list[str], texts: list[str]
    ) -> None:
        def ways(text: str) -> bool:  # whether tokens can write on from here
            return text in texts or any(
                ways(text + one) for one in pieces if any(t.startswith(text + one) for t in texts)
            )

        masks = ActionMasks(1, Pieces(*pieces))
        masks.reset(np.array([0]), [make_language(texts)])
        written = ""
        while True:
            legal = masks.legal(np.array([0]))[0]
            wanted = (
                {place for place, one in enumerate(pieces, start=1) if ways(written + one)} if ways(written) else set()
            )
            if written in texts or not wanted:
                wanted.add(0)
            assert set(np.flatnonzero(legal).tolist()) == wanted
            token = int(np.flatnonzero(legal)[-1])
            if token == 0:
                break
            masks.push(np.array([0]), np.array([token]))
            written += pieces[token - 1]

    def test_memory_is_bounded(self) -> None:
        masks, rng = ActionMasks(4, LETTERS, max_bytes=20 * LETTERS.vocab_size), np.random.default_rng(0)
        masks.reset(np.arange(4), [make_language(["ab"])] * 4)
        masks.push(np.array([0]), np.array([FIRST["a"]]))
        for _ in range(50):
            words = ["".join(word) for word in rng.choice(list("abc"), size=(3, 6))]
            masks.reset(np.array([1, 2, 3]), [make_language([word]) for word in words])
            for step in range(6):
                masks.push(np.array([1, 2, 3]), np.array([FIRST[word[step]] for word in words]))
            assert set(np.flatnonzero(masks.legal(ALL)[0])) == {FIRST["b"]}  # what lanes are in is kept
            assert [set(np.flatnonzero(row)) for row in masks.legal(np.arange(1, 4))] == [{EOS}] * 3
            assert len(masks._keys) <= 20 + 4 + 3 * 7


class TestStops:
    @settings(max_examples=examples(200))
    @given(st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(st.integers(0, 33)))
    def test_every_token_that_completes_one(self, stops: list[str], tokens: list[int]) -> None:
        few = [0, 3, FIRST["a"], FIRST["b"], FIRST["\n"], FIRST["ab"]]
        machine, text = Stops(stops, 1, LETTERS), ""
        machine.reset(np.array([0]))
        for token in tokens:
            token = few[token % len(few)]
            before, text = len(text), text + LETTERS.pieces[token].decode()
            completed = machine.push(np.array([0]), np.array([token]))[0]
            ends = range(before + 1, len(text) + 1)  # of what this token wrote
            assert completed == any(text[:end].endswith(stop) for stop in stops for end in ends)

    def test_a_stop_inside_the_beginning_of_another(self) -> None:
        machine = Stops(["ab", "xabyz"], 1, LETTERS)
        pushed = [machine.push(np.array([0]), np.array([FIRST[one]]))[0] for one in ("x", "a", "b", "y")]
        assert pushed == [False, False, True, False]

    def test_a_stop_that_splits_over_tokens_and_inside_a_character(self) -> None:
        machine = Stops(["bé"], 2, LETTERS)
        lanes = np.arange(2)
        machine.reset(lanes)
        for tokens, completed in (
            ((FIRST["ab"], FIRST["a"]), [False, False]),
            ((E_ACUTE[0], E_ACUTE[0]), [False, False]),
            ((E_ACUTE[1], E_ACUTE[1]), [True, False]),
        ):
            assert machine.push(lanes, np.array(tokens)).tolist() == completed

    def test_a_reset_forgets(self) -> None:
        machine = Stops(["ab"], 1, LETTERS)
        machine.push(np.array([0]), np.array([FIRST["a"]]))
        machine.reset(np.array([0]))
        assert not machine.push(np.array([0]), np.array([FIRST["b"]]))[0]
