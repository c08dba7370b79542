"""Makes the policy that a run starts from, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from agents.policy.policy import Policy
from agents.training import env_arguments
from textenvs import TextGenVectorEnv, make_tokenizer
from textenvs.tokenizer import fingerprint
from textenvs.vector_env import check_env_id


def start_policy(
    source: str | Path | Mapping[str, Any],
    env: str | gym.Env[Any, Any] | TextGenVectorEnv,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Policy:
    """Makes the policy that a name stands for in an environment.

    Args:
        source: A name or folder, as `Policy.from_pretrained` takes it. "tiny" is the bundled language model where the
            environment speaks its tokenizer by default, and otherwise a small model with random weights over the
            environment's vocabulary. A dict is the config of a new model over that vocabulary, as `Policy.from_config`
            takes it.
        env: A registered id, or an environment.
        env_kwargs: Arguments of the environment, with an id.
        seed: Of random weights.
        device: Where to put it.

    Returns:
        The policy.

    Raises:
        TypeError: If the environment is neither an id nor an environment, or the id has no such argument.
        ValueError: If there is no such model.
    """
    if not isinstance(source, Mapping) and source != "tiny":
        return Policy.from_pretrained(source, device=device)
    if isinstance(env, str):
        check_env_id(env)
        env_arguments.check_arguments(env, env_kwargs or {})
    made = gym.make_vec(env, num_envs=1, **(env_kwargs or {})) if isinstance(env, str) else env
    if not isinstance(made, (gym.Env, gym.vector.VectorEnv)):
        raise TypeError(f"Expected the id of an environment, or an environment, got {env!r:.200}")
    tokenizer = getattr(made.unwrapped, "tokenizer", None)
    bundled = make_tokenizer("stories")
    if isinstance(source, Mapping):
        return Policy.from_config(source, bundled if tokenizer is None else tokenizer, seed=seed, device=device)
    if tokenizer is None or tokenizer is bundled or fingerprint(tokenizer) == fingerprint(bundled):
        return Policy.from_pretrained("tiny", device=device)
    return Policy.fresh(tokenizer, seed=seed, device=device)
