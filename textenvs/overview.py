"""What there is to say of an id in a line: for `python -m textenvs list`, and for the pages in docs/tasks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from textenvs.env import TextGenEnv


def overview(env_id: str) -> dict[str, Any]:
    """The facts of an id, on its test split where they are scores.

    Args:
        env_id: A registered id of a text environment.

    Returns:
        Column to value: numbers as text, rounded, and None where nobody has worked them out.

    Raises:
        ValueError: If it is the id of another kind of environment.
    """
    setting = made(env_id).setting
    task = setting.task
    scores = task.reference_scores()
    known = None if scores is None else f"{scores.random:.3g}"
    if scores is not None and scores.random_interval:
        known = f"{scores.random:.1g}±{scores.random_interval:.1g}"
    return {
        "id": env_id,
        "vocabulary": setting.tokenizer.vocab_size,
        "prompt": setting.pool.prompts.shape[1],
        "budget": setting.max_new_tokens,
        "random": known,
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


def made(env_id: str, **settings: Any) -> TextGenEnv:
    """The environment of an id, without wrappers.

    Args:
        env_id: The id.
        **settings: Arguments of the environment.

    Returns:
        The environment.

    Raises:
        ValueError: If it is of another kind.
    """
    env = gym.make(env_id, **settings).unwrapped
    if not isinstance(env, TextGenEnv):
        raise ValueError(f"Expected the id of a text environment, got {env_id!r}, which is {type(env).__name__}")
    return env
