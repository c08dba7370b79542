"""The tasks over public data sets, on small files: the contract of a task, and scores that no degenerate text has."""

import pytest

import textenvs
from textenvs.datasets import PRESETS
from textenvs.testing import check_canaries, check_task

pytestmark = pytest.mark.parametrize("name", sorted(PRESETS))

ALIVE = {"squad": "words shuffled", "gsm8k": "one word repeated", "sentence_polarity": "keywords"}
"""Set to the canary that its score likes: F1 knows no order of words, the right number is the answer, and key words of
a review in a row are as kind or harsh as it is."""


def test_check_task(name: str) -> None:
    check_task(name, max_examples=16)


def test_no_degenerate_text_scores_like_a_demonstration(name: str) -> None:
    if name not in ALIVE:
        check_canaries(name, split="train")
        return
    with pytest.raises(AssertionError, match=ALIVE[name]) as raised:
        check_canaries(name, split="train")
    assert str(raised.value).count("such as") == 1


def test_the_page_and_the_registered_names_have_it(name: str) -> None:
    task = textenvs.make_task(name)
    assert task.default_reward is not None
    assert task.held_out_reward is not None
    assert textenvs.make_reward(task.held_out_reward).name
