"""Random play: episodes of a policy that draws every token uniformly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from textenvs.rewards import Reward
from textenvs.tasks import Task
from textenvs.tokenizer import Tokenizer
from textenvs.vector_env import TextGenVectorEnv


@dataclass(frozen=True)
class RandomPlay:
    """What tokens drawn uniformly from the whole vocabulary got.

    Attributes:
        scores: `(episodes,)` the score of each, all of which the sparse payout paid at the end.
        immediate: `(episodes,)` what the immediate payout paid for the same tokens, summed.
    """

    scores: NDArray[np.float64]
    immediate: NDArray[np.float64]


def play_randomly(
    task: Task, split: str, episodes: int, seed: int, tokenizer: Tokenizer | None = None, reward: Reward | None = None
) -> RandomPlay:
    """Play a task with random tokens, side by side in an environment that pays at once and one that pays at the end.

    Args:
        task: The task; its budget is its own.
        split: Where the examples come from.
        episodes: How many episodes.
        seed: What the examples and the tokens are drawn with.
        tokenizer: Whose tokens; None is the task's own.
        reward: The score; None is the task's own.

    Returns:
        What was paid.
    """
    envs = [
        TextGenVectorEnv(
            episodes, task, reward, payout, tokenizer, split=split, autoreset_mode=AutoresetMode.DISABLED, copy=False
        )
        for payout in ("sparse", "immediate")
    ]
    for each in envs:
        each.reset(seed=seed)
    rng, ended, paid = np.random.default_rng(seed), np.zeros(episodes, dtype=np.bool_), np.zeros((2, episodes))
    while not ended.all():
        tokens = rng.integers(envs[0].tokenizer.vocab_size, size=episodes)
        for row, each in enumerate(envs):
            _, rewards, ended, _, _ = each.step(tokens)
            paid[row] += rewards
    return RandomPlay(*paid)
