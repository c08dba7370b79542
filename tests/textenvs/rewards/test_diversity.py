"""Diversity and copying: hand-worked scores, counting by definition on any strings, and push against score."""

import re
from collections import Counter
from typing import Any

import nltk
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import slow_but
from textenvs.rewards import make_reward
from textenvs.tasks import Example
from textenvs.testing import EXAMPLES, check_reward
from textenvs.tokenizer import make_tokenizer

PROMPT = Example("The red fox ran. The red fox sat!")
VARIANTS: list[Any] = [
    "distinct",
    "repetition",
    "copying",
    *[{name: {"n": n, "min_grams": n}} for name in ("distinct", "repetition", "copying") for n in (1, 2, 4)],
    {"distinct": 1, "repetition": -1, "copying": {"n": 1, "weight": -0.5}},
]


@pytest.mark.parametrize("which", slow_but({"stories"}, ["stories", "stories260K"]))
@pytest.mark.parametrize("reward", VARIANTS, ids=str)
def test_the_contract(reward: Any, which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = which if which == "stories" else request.getfixturevalue("stories260k")
    check_reward(reward, tokenizer, [*EXAMPLES, PROMPT], max_examples=30)


@pytest.mark.parametrize(
    ("name", "arguments", "text", "score"),
    [
        ("distinct", {"n": 1, "min_grams": 1}, "", 0),
        ("distinct", {"n": 1, "min_grams": 1}, "the The fox", 2 / 3),
        ("distinct", {"n": 1, "min_grams": 4}, "fox", 1 / 4),
        ("distinct", {"n": 2, "min_grams": 1}, "a b a b a", 2 / 4),
        ("distinct", {"n": 2, "min_grams": 1}, "fox", 0),
        ("distinct", {}, "a b c d e f g h i", 1),
        ("distinct", {}, "a b c d e", 4 / 8),
        ("repetition", {"n": 1, "min_grams": 1}, "a b a", 1 / 3),
        ("repetition", {"n": 3, "min_grams": 1}, "a b c a b c", 1 / 4),
        ("repetition", {"n": 3, "min_grams": 8}, "a b c a b c", 1 / 8),
        ("repetition", {"n": 1, "min_grams": 1}, "!!!!", 3 / 4),  # punctuation repeats itself as well
        ("repetition", {}, "no word is here twice", 0),
        ("copying", {"n": 3, "min_grams": 1}, "the RED fox", 1),
        (
            "copying",
            {"n": 3, "min_grams": 1},
            "a red fox ran. The",
            3 / 4,
        ),  # all but "a red fox"
        ("copying", {"n": 1, "min_grams": 1}, "a fox, a dog!", 2 / 6),
        ("copying", {}, "", 0),
    ],
)
def test_by_hand(name: str, arguments: dict[str, int], text: str, score: float) -> None:
    assert make_reward({name: arguments}).score(PROMPT, text) == pytest.approx(score, abs=1e-12)


TEXTS = st.lists(st.sampled_from(["a", "B", "b", "red", "fox", "!", "...", "é", "漢", "'s", "\n"]), max_size=20).map(
    " ".join
)


@given(TEXTS, TEXTS, st.integers(1, 4), st.integers(1, 6))
def test_any_counts(prompt: str, text: str, n: int, least: int) -> None:
    """By a Counter of the n-grams that NLTK finds."""

    def count(written: str) -> Counter[tuple[str, ...]]:
        return Counter(nltk.ngrams(re.findall(r"\w+|[^\w\s]", written.lower()), n))

    counts, total = count(text), count(text).total()
    shares = {
        "distinct": len(counts),
        "repetition": sum(number - 1 for number in counts.values()),
        "copying": sum(number for gram, number in counts.items() if gram in count(prompt)),
    }
    for name, share in shares.items():
        reward = make_reward({name: {"n": n, "min_grams": least}})
        assert reward.score(Example(prompt), text) == pytest.approx(share / max(total, least), abs=1e-12)


def test_a_step_costs_the_same_however_long_the_response_is() -> None:
    """The memory of a lane whose text repeats itself does not grow: it is a state, not a history."""
    tokenizer = make_tokenizer("stories")
    scorer = make_reward("repetition").scorer(1, tokenizer)
    scorer.reset(np.array([0]), [PROMPT])
    ids = tokenizer.encode_batch([" the fox ran and"])[0][1:]
    sizes = []
    for _ in range(50):
        for token in ids:
            phi = scorer.push(np.array([0]), np.array([token]))
        sizes.append(len(scorer._lanes[0].known))
    assert sizes[2:] == sizes[2:3] * 48
    assert phi[0] > 0.95


@pytest.mark.parametrize("name", ["distinct", "repetition", "copying"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n to be at least 1, got 0"),
        ({"n": True}, TypeError, "n to be a whole number of at least 1, got True"),
        ({"n": 1.0}, TypeError, "n to be a whole number of at least 1, got 1.0"),
        ({"min_grams": 0}, ValueError, "min_grams to be at least 1, got 0"),
    ],
)
def test_wrong_arguments(name: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Expected {message}"):
        make_reward({name: arguments})
