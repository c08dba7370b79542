"""The facts of an id in one row, for `python -m textenvs list` and for the pages in docs/tasks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from textenvs.datasets import PRESETS
from textenvs.env import TextGenEnv
from textenvs.registration import DATA_ENVS
from textenvs.rewards.registry import make_reward
from textenvs.vector_env import check_env_id


def overview(env_id: str) -> dict[str, Any]:
    """Collects the facts of an id. Scores are those of its test split.

    Args:
        env_id: A registered id of a text environment.

    Returns:
        The row, by column: numbers as text, rounded, and None for those that nobody has worked out.

    Raises:
        ValueError: If it is the id of another kind of environment.
    """
    setting = make_env(env_id).setting
    task = setting.task
    scores = task.reference_scores()
    random_score = None if scores is None else f"{scores.random:.3g}"
    if scores is not None and scores.random_interval:
        random_score = f"{scores.random:.1g}±{scores.random_interval:.1g}"
    return {
        "id": env_id,
        "vocabulary": setting.tokenizer.vocab_size,
        "prompt": setting.pool.prompts.shape[1],
        "budget": setting.max_new_tokens,
        "random": random_score,
        "blind": None if scores is None or scores.blind is None else f"{scores.blind:.3g}",
        "demonstration": None if scores is None else f"{scores.demonstration:.3g}",
        "top": None if scores is None else f"{scores.top:.3g}",
        "threshold": None if scores is None else f"{scores.threshold:.3g}",
        "task": task.name,
        "level": f"{task.level} of {task.levels}",
        "reward": setting.reward.name,
        "payout": setting.payout,
        "held-out": task.held_out_reward,
        "tests": task.tests or None,
    }


def data_overview(env_id: str) -> dict[str, Any]:
    """Collects what is known of an id over a public data set, without its data.

    Args:
        env_id: One of the ids that `textenvs.list_envs(data=True)` has beside the others.

    Returns:
        The row, by column.
    """
    preset = PRESETS[DATA_ENVS[env_id].kwargs["task"]]
    return {
        "id": env_id,
        "data set": preset.title,
        "reward": make_reward(preset.reward).name,
        "budget": str(preset.max_new_tokens),
        "bundled twin": preset.twin,
        "tests": preset.tests,
    }


def make_env(env_id: str, **arguments: Any) -> TextGenEnv:
    """Makes the environment of an id, without wrappers.

    Args:
        env_id: The id.
        **arguments: Arguments of the environment.

    Returns:
        The environment.

    Raises:
        ValueError: If it is not a text environment.
    """
    check_env_id(env_id)
    env = gym.make(env_id, **arguments).unwrapped
    if not isinstance(env, TextGenEnv):
        raise ValueError(f"Expected the id of a text environment, got {env_id!r}, which is {type(env).__name__}")
    return env
