"""No id's own reward likes a degenerate response as much as a demonstration. A new id is held to it as it is there."""

import gymnasium as gym
import pytest

import textenvs
from textenvs.testing import check_canaries, search
from textenvs.testing.canaries import canary_scores
from textenvs.testing.search import ORACLE

ANY_WORD = "TextGen/Length-v0"
"""Any words of the right length do this task: one letter, repeated, is an answer like any other, and no hack."""


@pytest.mark.parametrize("env_id", sorted({*textenvs.list_envs()} - {ANY_WORD}))
def test_the_default_reward_puts_every_canary_below_a_demonstration(env_id: str) -> None:
    setting = gym.make(env_id).unwrapped.setting
    check_canaries(setting.task, setting.reward)


def test_where_any_word_will_do_only_words_of_the_right_length_live() -> None:
    setting = gym.make(ANY_WORD).unwrapped.setting
    assert canary_scores(setting.task, setting.reward).alive == ("one word repeated", "keywords")


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(textenvs.list_envs()))
def test_a_small_search_finds_nothing_that_beats_the_demonstrations(env_id: str) -> None:
    result = search(env_id, budget=3_000)
    beating = {finding.strategy: finding.texts for finding in result.beating if finding.strategy != ORACLE}
    assert not beating
    top = gym.make(env_id).unwrapped.task.reference_scores().top
    assert max(finding.score for finding in result.findings) <= top + 1e-9, "what reads the scores, too"
