"""The contract that the task of every registered id keeps. A new id is held to it by being registered."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textenvs
from textenvs.rewards import checked_score
from textenvs.tasks import SHIFTED, Levels, Task
from textenvs.testing import check_task

IDS = textenvs.list_envs()
pytestmark = pytest.mark.parametrize("env_id", IDS)


def task_of(env_id: str) -> Task:
    base: Any = gym.make(env_id).unwrapped
    return base.task


def test_check_task(env_id: str) -> None:
    check_task(task_of(env_id).name)


def test_threshold(env_id: str) -> None:
    base: Any = gym.make(env_id).unwrapped
    scores = base.task.reference_scores()
    assert scores.normalised(scores.random) == pytest.approx(0)
    assert scores.normalised(scores.top) == pytest.approx(1)
    assert scores.normalised(gym.spec(env_id).reward_threshold) == pytest.approx(0.9, abs=2e-5)
    assert base.setting.success_score == pytest.approx(gym.spec(env_id).reward_threshold, abs=1e-6)


def test_a_good_demonstration_is_a_success(env_id: str) -> None:
    env = gym.make(env_id)
    base: Any = env.unwrapped
    task, reward = base.task, base.setting.reward
    threshold = task.reference_scores().threshold
    good = [
        place
        for place, example in enumerate(base.setting.pool.examples[:64])
        if reward.score(example, task.demonstration(example)) > threshold + 1e-6
    ]
    for place in good[:5]:
        _, info = env.reset(options={"example": place})
        shown = task.demonstration(base.example)
        terminated = False
        for turn in shown.split("\n") if task.max_turns > 1 else [shown]:
            for token in (*base.tokenizer.encode_response(turn), base.tokenizer.eos_token_id):
                assert not terminated
                assert not info["is_success"]
                _, _, terminated, _, info = env.step(token)
        assert terminated
        assert info["is_success"] is True
    assert len(good) > 5


TAKEN_BACK = {
    "mood": "a mean over words falls with every neutral word",
    "rouge_2": "a word that is not finished yet counts as a wrong one, until its last token",
    "rouge_l": "a word that is not finished yet counts as a wrong one, until its last token",
}
"""Rewards that pay less than nothing for some token of a demonstration, and why. All others never do."""


def test_a_demonstration_is_never_fined_and_never_better_cut_short(env_id: str) -> None:
    """Token by token: no reward below 0, and no prefix that scores more than the whole."""
    base: Any = gym.make(env_id).unwrapped
    task, reward, tokenizer = base.task, base.setting.reward, base.tokenizer
    lowest = 0.0
    for index in range(0, 64, 4):
        base.reset(options={"example": index})
        shown, terminated, paid = task.demonstration(base.example), False, [0.0]
        for turn in shown.split("\n") if task.max_turns > 1 else [shown]:
            for token in (*tokenizer.encode_response(turn), tokenizer.eos_token_id):
                if not terminated:
                    _, one, terminated, _, _ = base.step(token)
                    paid.append(one)
        lowest = min(lowest, *paid)
        if reward.name != "mood":
            assert max(np.cumsum(paid)) == pytest.approx(sum(paid), abs=1e-9)
    assert lowest >= -1e-9 or reward.name in TAKEN_BACK


def test_a_counterpart_is_of_the_same_level(env_id: str) -> None:
    """With all levels in one, pairs go both ways and have demonstrations, as they do at each level."""
    task = task_of(env_id)
    if task.levels < 2:
        pytest.skip("one level")
    levels = Levels(task.name)
    for index in range(0, levels.num_examples("test"), 7):
        example = levels.example("test", index)
        other = levels.counterpart(example)
        if other is not None:
            assert other.metadata["level"] == example.metadata["level"]
            assert levels.demonstration(other)
            assert levels.counterpart(other) == example


def test_saying_nothing_is_no_better_than_random_tokens(env_id: str) -> None:
    """The exact policy gradient at the uniform policy, along the logit of EOS in the first state.

    It is pi(EOS) * (Q(EOS) - V), with Q(EOS) the score of no text and V the mean score of random tokens. Where it is
    above 0, the first thing that an untrained policy learns is to be silent.
    """
    task = task_of(env_id)
    scores, reward = task.reference_scores(), textenvs.make_reward(task.default_reward)
    examples = [task.example("test", index) for index in range(0, task.num_examples("test"), 4)]
    silent = sum(reward.score(example, "\n" if task.max_turns > 1 else "") for example in examples) / len(examples)
    assert silent <= scores.random + scores.random_interval


def test_the_shifted_split_is_as_good_as_the_others(env_id: str) -> None:
    task = task_of(env_id)
    assert SHIFTED in task.splits
    scores = task.reference_scores(SHIFTED)
    assert scores is not None
    assert scores.random < scores.top
    example = gym.make(env_id, split=SHIFTED).unwrapped.setting.pool.examples[0]
    assert (
        checked_score(textenvs.make_reward(task.default_reward), example, task.demonstration(example)) > scores.random
    )
    with pytest.raises(ValueError, match="Expected a split"):
        task.reference_scores("dev")


def test_texts_that_ignore_the_task_score_below_the_threshold(env_id: str) -> None:
    """Canaries: nothing, the prompt again, and one token over and over, whichever it is and however often."""
    task = task_of(env_id)
    reward, tokenizer = textenvs.make_reward(task.default_reward), textenvs.make_tokenizer(task.default_tokenizer)
    scores, budget = task.reference_scores(), task.default_max_new_tokens
    assert scores is not None
    examples = [task.example("test", index) for index in range(0, task.num_examples("test"), 7)]
    tokens = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 64))
    pieces = [tokenizer.pieces[token].decode("utf-8", "replace") for token in tokens]
    canaries = [lambda prompt: "", lambda prompt: prompt]
    canaries += [lambda prompt, text=piece * count: text for piece in pieces for count in {1, 2, budget // 2, budget}]
    for canary in canaries:
        mean = sum(reward.score(example, canary(example.prompt)) for example in examples) / len(examples)
        assert mean < scores.threshold
