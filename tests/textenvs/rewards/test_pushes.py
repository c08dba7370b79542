"""Token by token equals the whole text, on texts made of what a score reacts to: content, style and diversity.

`check_reward` draws any tokens; here words come that are wanted, in orders that almost fit, so that what a scorer
remembers matters at every step.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers import examples
from textenvs.rewards import make_reward
from textenvs.tasks import Example
from textenvs.tokenizer import decode, make_tokenizer

PHRASES = ["the red fox", "the red", ["red red", "fox ran"], "ran"]
PHRASE_PIECES = [" the", " red", " fox", " ran", " big", " re", "d", ",", " foxes", "x"]
RED = " red red red red red ran"
NUMBER_PIECES = ["5", "7", " 5", " 7\n", "\n", "####", " #### ", "-", ".", ",000", " 42", " x", "1", "\n5\n", "72"]
FRACTION_PIECES = ["1", "/", " 2", "2", ".5", " 000", ",", "e", "3", "-", "}", "\n", " a", "####", "000", "1 ", "5"]
SENTENCE_PIECES = [" Mr", ".", "!", " Fox", " J.", '"', ")", " 3", "...", "。", " e.g.", "ran", "\n", " unhappily"]
CASES: list[tuple[Any, Example, list[str]]] = [
    ("keywords", Example("", (), {"keywords": PHRASES}), PHRASE_PIECES),
    ({"keywords": {"whole_words": False}}, Example("", (), {"keywords": ["d f", "e red", " ran"]}), PHRASE_PIECES),
    ("concepts", Example("", (), {"concepts": ["run", "fox", "be red", "re"]}), [*PHRASE_PIECES, " is", " running"]),
    ("plot_points", Example("", (), {"plot_points": ["red", ["the red", "red red"], "ran"]}), [*PHRASE_PIECES, RED]),
    ("plot_points", Example("", (), {"plot_points": ["red red", "red", "red red"]}), [" red", " big", " re", "d", RED]),
    ("numeric_answer", Example("", (), {"answer": 42, "steps": [5, 7, 72]}), NUMBER_PIECES),
    ("numeric_answer", Example("", (), {"answer": "1/2", "steps": [1000, 5, -3]}), FRACTION_PIECES),
    ("regex", Example("", (), {"pattern": r"( (the|red)){2,4}( fox|x)"}), [" the", " red", " r", "ed", "x", " fox"]),
    ({"length": {"target": [2, 3], "unit": "sentences"}}, Example(""), [*SENTENCE_PIECES, 4 * " Fox ran."]),
    ({"length": {"target": 12, "unit": "characters"}}, Example(""), SENTENCE_PIECES),
    ({"readability": {"grade": 4, "min_words": 2}}, Example(""), SENTENCE_PIECES),
    ({"increasing_numbers": {"min_words": 1}}, Example(""), [" 1", " 2", "3", ".", ",", " -", " x", "5", "\n"]),
    (
        {"dates": {"dates": 3}},
        Example(""),
        ["2024", "-02", "-29", " ", "2023", "-", "1", "a", " 2024-02-01", " 2023-12-31", " 2022-01-01", "."],
    ),
    (
        {"formality": {"min_marks": 1}},
        Example(""),
        [" there", "fore", " do", "n", "'", "t", " cool", "’", " yeah", "ll"],
    ),
    (
        {"sentiment": {"min_words": 1}},
        Example(""),
        [" kind", " of", " good", " sort", " is", "n", "’", "'", "t", " very", ",", " bad", " of", " kind", " o", "f"],
    ),
    ("ngram_lm", Example("Once upon a"), [" time", " there", " was", " a", " fox", ".", " named", " Tim", "x", " ti"]),
    ({"distinct": {"n": 2, "min_grams": 1}}, Example("a b c"), [" a", " b", "a", "!", ".", " a b", " c"]),
    ({"repetition": {"n": 1, "min_grams": 1}}, Example("a b c"), [" a", " b", "a", "!", ".", " a b", " c"]),
    ({"copying": {"n": 2, "min_grams": 1}}, Example("a b c a!"), [" a", " b", "a", "!", ".", " a b", " c"]),
]


@pytest.mark.parametrize(("reward", "asked", "pieces"), CASES, ids=[str(case[0]) for case in CASES])
def test_push_equals_score(reward: Any, asked: Example, pieces: list[str]) -> None:
    made, tokenizer = make_reward(reward), make_tokenizer("stories")
    spelled = [tokenizer.encode_batch([piece])[0][1:] for piece in pieces]
    scorer = made.scorer(2, tokenizer)
    seen = set()

    # What is drawn may never be what a score wants. All pieces in order are, and make a difference to every one.
    @example([spelled, spelled[::-1]])
    @settings(max_examples=examples(150))
    @given(st.lists(st.lists(st.sampled_from(spelled), min_size=1, max_size=12), min_size=2, max_size=2))
    def check(drawn: list[list[list[int]]]) -> None:
        texts = [[token for ids in one for token in ids] for one in drawn]
        scorer.reset(np.arange(2), [asked] * 2)
        for step in range(max(map(len, texts))):
            lanes = [lane for lane in (1, 0) if step < len(texts[lane])]
            phi = scorer.push(np.array(lanes), np.array([texts[lane][step] for lane in lanes]))
            expected = [made.score(asked, decode(tokenizer, texts[lane][: step + 1])) for lane in lanes]
            assert phi.tolist() == pytest.approx(expected, abs=1e-9, rel=0)
            seen.update(expected)

    check()
    assert len(seen) >= 3  # the texts do make a difference
