"""Regular expressions that ask for too much: each is refused with a ValueError, or read in time and memory that end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.helpers import slow_but
from textenvs import Example, make_reward
from textenvs.action_masks import ActionMasks
from textenvs.grammars import MAX_REGEX_SIZE, Regex, _Memory, make_language
from textenvs.rewards import UnitSums
from textenvs.rewards.incremental.units import Machine
from textenvs.tokenizer import make_tokenizer

REFUSED = {
    "400 parentheses": "(" * 400 + "a" + ")" * 400,
    "101 parentheses": "(" * 101 + "a" + ")" * 101,
    "400 groups without a number": "(?:" * 400 + "a" + ")" * 400,
    "50,000 parentheses": "(" * 50_000 + "a" + ")" * 50_000,
    "400 repetitions of repetitions": "(" * 400 + "a" + ")*" * 400,
    "a count of 20 digits": "a{99999999999999999999}",
    "an upper count of 20 digits": "a{1,99999999999999999999}",
    "an open count of 20 digits": "a{99999999999999999999,}",
    "a count of 5,000 digits": "a{" + "9" * 5000 + "}",
    "nested counts, 37,000 states": "((a{33}){33}){34}",
    "nested counts, 1e9 states": "((a{1000}){1000}){1000}",
    "nested upper counts": "((a{0,1000}){0,1000}){0,1000}",
    "counts nested 20 deep": "(" * 20 + "a" + "{9}){9}" * 10 + ")" * 10,
    "a count of a count of nothing": "((){1000}){1000}",
    "a large count": "a{65535}",
    "counts of alternatives": "(a|b|c){9000}",
    "counts of all characters": ".{2000}",
    "counts of all but one character": "[^,]{2000}",
    "many counts": "a{1000}" * 20,
    "a long text": "a" * 20_000,
    "many alternatives": "|".join(["a"] * 20_000),
    "look-ahead": "(?=a)b",
    "look-behind": "(?<!a)b",
    "a back-reference": r"(a)\1",
    "a named back-reference": "(?P<n>a)(?P=n)",
    "a condition": "(a)?(?(1)b|c)",
    "a flag": "(?i)a",
    "an atomic group": "(?>a)",
    "a possessive count": "a{1,2}+",
    "an anchor inside": "a$b",
    "a word boundary": r"a\b",
    "nothing to repeat": "*",
    "an open group": "(a",
    "an open class": "[a",
    "a reversed class": "[z-a]",
    "reversed counts": "a{3,1}",
    "half an escape": "\\",
    "half a code": r"\x4",
    "a code beyond Unicode": r"\U00110000",
    "repeated repetitions": "a**",
}
READ = {
    "repetitions of repetitions": "((a*)*)*",
    "100 parentheses": "(" * 100 + "a" + ")" * 100,
    "90 repetitions of repetitions": "(" * 90 + "a" + ")*" * 90,
    "backtracking for ever": "(a+)+b",
    "backtracking for ever, alternatives": "(a|aa)+b",
    "backtracking for ever, the same": "(a|a|a|a)*b",
    "optional letters": "a?" * 80 + "a" * 80,
    "exponentially many states": "(a|b)*a(a|b){150}",
    "exponentially many states, nested": "((a|b)*a){10}(a|b){100}",
    "empty alternatives": "(|a|)*(|){50}",
    "counts of what may be empty": "((a?){50}){50}",
    "classes of everything": r"[\s\S]*[^a]*\W*",
    "classes of nothing": r"[^\x00-\U0010ffff]",
    "surrogates": "[\\ud800-\\udfff]a",
    "a large class": "[" + "".join(chr(code) for code in range(0x4E00, 0x5E00)) + "]*",
    "a possible set": "[[a-z]--[aeiou]]",
    "an empty expression": "",
    "a text": "a" * 3000,
}
SLOW = {"exponentially many states, nested", "exponentially many states", "many alternatives", "a long text"}
"""The names of those that take most."""
SECONDS = 20.0
"""Far more than each takes, on a busy machine."""


@pytest.mark.parametrize("name", slow_but(REFUSED.keys() - SLOW, REFUSED))
def test_refused(name: str) -> None:
    pattern, started = REFUSED[name], time.process_time()
    for make in (
        Regex,
        lambda pattern: make_language({"regex": pattern}),
        lambda p: make_reward({"regex": {"pattern": p}}),
    ):
        with pytest.raises(ValueError, match="Expected a regular expression") as caught:
            make(pattern)
        assert len(str(caught.value)) < 600
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("name", slow_but(READ.keys() - SLOW, READ))
def test_read(name: str) -> None:
    started, rng = time.process_time(), np.random.default_rng(0)
    language = Regex(READ[name])
    for _ in range(3):
        state: Any = language.start
        for byte in rng.choice(np.frombuffer(b"ab", dtype=np.uint8), 300).tolist():
            state = None if state is None else language.step(state, byte)
            if state is not None:
                language.accepts(state)
                assert language.remaining(state) >= 0
    assert time.process_time() - started < SECONDS


def test_a_larger_size_can_be_asked_for() -> None:
    pattern = REFUSED["nested counts, 37,000 states"]
    with pytest.raises(ValueError, match=f"max_size={MAX_REGEX_SIZE} sets of bytes, got .* of 37026: write"):
        Regex(pattern)
    language = Regex(pattern, max_size=40_000)
    assert language.remaining(language.start) == 37_026
    masks = ActionMasks(1, make_tokenizer("stories"))
    masks.reset(np.array([0]), [make_language({"regex": "a{20000}", "max_size": 20_000})])
    with pytest.raises(ValueError, match="max_size to be at least 1, got 0"):
        make_language({"regex": "a", "max_size": 0})
    reward = make_reward({"regex": {"max_size": 20_000}})
    example = Example("", metadata={"pattern": "a{20000}"})
    assert reward.score(example, "a" * 5000) == 0.25
    with pytest.raises(RuntimeError, match=r"cannot read metadata.*max_size=16384"):
        make_reward("regex").score(example, "a")


def test_what_is_known_of_states_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Memory, "max_items", 1000)
    memory = _Memory()
    monkeypatch.setattr("textenvs.grammars._MEMORY", memory)
    language, rng = Regex("(a|b)*a(a|b){12}"), np.random.default_rng(0)
    state: Any = language.start
    text = rng.choice(list(b"ab"), 2000).tolist()
    for byte in text:
        state = language.step(state, byte)
        assert language.remaining(state) <= 13
        assert 4 * (len(memory._after) + len(memory._fewest)) <= 1000
    assert language.accepts(state) == (text[-13] == ord("a"))


def test_states_of_a_long_text_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state holds all that may still follow: of 8,000 letters, some 8,000 items."""
    monkeypatch.setattr(Machine, "max_size", 100_000)
    monkeypatch.setattr(UnitSums, "_max_memo_size", 100_000)
    tokenizer, reward = make_tokenizer("stories"), make_reward({"regex": {"pattern": "ab" * 4000}})
    example, text = Example(""), "ab" * 60
    scorer: Any = reward.scorer(1, tokenizer)
    scorer.reset(np.array([0]), [example])
    length = 0
    for token in tokenizer.encode_batch([text])[0]:
        length += len(tokenizer.pieces[token])
        assert scorer.push(np.array([0]), np.array([token]))[0] == pytest.approx(length / 8000)
        assert len(scorer._machine._memories) <= 100_000 // 8000 + 3
    assert length == len(text) > len(scorer._machine._memories)
    assert reward.score(example, text) == pytest.approx(120 / 8000)
    reward.score(example, "ab")  # what the text before it has left is forgotten first
    assert len(vars(reward)["_memos"]) == 2
