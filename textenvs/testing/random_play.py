"""Random play: episodes of a policy that draws every token uniformly from the vocabulary."""

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
    """The scores of random tokens.

    Attributes:
        scores: `(episodes,)` float64, the score of each episode, which the sparse payout paid at its end.
        immediate: `(episodes,)` float64, the sum of the immediate payout's rewards for the same tokens.
    """

    scores: NDArray[np.float64]
    immediate: NDArray[np.float64]


def play_randomly(
    task: Task, split: str, episodes: int, seed: int, tokenizer: Tokenizer | None = None, reward: Reward | None = None
) -> RandomPlay:
    """Plays a task with random tokens, side by side in an environment that pays at once and one that pays at the end.

    Args:
        task: The task, with its own budget.
        split: The split that the examples are drawn from.
        episodes: The number of episodes.
        seed: The seed of the examples and of the tokens.
        tokenizer: The tokenizer; None is the task's own.
        reward: The score; None is the task's own.

    Returns:
        The scores under both payouts.
    """
    envs = [
        TextGenVectorEnv(
            episodes, task, reward, payout, tokenizer, split=split, autoreset_mode=AutoresetMode.DISABLED, copy=False
        )
        for payout in ("sparse", "immediate")
    ]
    for payout_envs in envs:
        payout_envs.reset(seed=seed)
    rng, ended, paid = np.random.default_rng(seed), np.zeros(episodes, dtype=np.bool_), np.zeros((2, episodes))
    while not ended.all():
        tokens = rng.integers(envs[0].tokenizer.vocab_size, size=episodes)
        for row, payout_envs in enumerate(envs):
            _, rewards, ended, _, _ = payout_envs.step(tokens)
            paid[row] += rewards
    return RandomPlay(*paid)
