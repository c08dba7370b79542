"""The table of ids: what `gym.make` and `gym.make_vec` know after `import textenvs`.

An id's dynamics, reward, tokenizer and thresholds are frozen: what changes them makes a -v1.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

ENVS: dict[str, dict[str, Any]] = {
    "TextGen-v0": {"task": "stories"},
    "TextGen/Stories-v0": {"task": "stories"},
}
"""Id to the keyword arguments of its environment."""


def register_envs() -> None:
    """Tell Gymnasium every id of the table. Calling it twice changes nothing."""
    for env_id, kwargs in ENVS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="textenvs.env:TextGenEnv",
                vector_entry_point="textenvs.vector_env:TextGenVectorEnv",
                kwargs=kwargs,
            )


def list_envs() -> list[str]:
    """Every id that textenvs has registered, sorted.

    Example:
        >>> list_envs()[0]
        'TextGen-v0'
    """
    return sorted(ENVS)
