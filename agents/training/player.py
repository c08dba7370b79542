"""Plays an agent's episodes, in training and in evaluations, with as many lanes as there is memory for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

import gymnasium as gym
import torch

from agents.collector import collect, make_env
from agents.distributed import processes
from agents.evaluation.evaluation import Evaluation, evaluate
from agents.policy.policy import Policy
from agents.rollout import Rollout
from agents.training import env_arguments
from agents.training.config import RunConfig
from agents.training.retry import half_of, retry_with_fewer_lanes
from textenvs import TextGenVectorEnv

_LOG = logging.getLogger(__name__)


class Player:
    """A policy and the lanes that it plays in.

    Args:
        policy: The policy.
        env: A registered id, or an environment.
        env_kwargs: Arguments of the environment, with an id.
        config: The numbers of lanes and episodes, and the temperature.
        carried: Where the number of lanes that there is memory for is kept, under "lanes": the agent's.

    Attributes:
        env: The lanes that are trained in: this process's share of them.
        env_id: The id of the environment; None where it was made without one.
        env_kwargs: Arguments of the environment, without those that the agent decides.

    Raises:
        TypeError: If the environment has no such argument.
        ValueError: If the environment is not one that an agent can make more lanes of.
    """

    def __init__(
        self,
        policy: Policy,
        env: str | gym.Env[Any, Any] | TextGenVectorEnv,
        env_kwargs: Mapping[str, Any] | None,
        config: RunConfig,
        carried: MutableMapping[str, Any],
    ) -> None:
        self._policy, self._config, self._carried = policy, config, carried
        self.env_id, self.env_kwargs = env_arguments.described(env, env_kwargs, policy.tokenizer)
        if isinstance(env, TextGenVectorEnv):
            self.env = env
        else:
            self.env = self._new_env(processes.own_share(config.num_envs, "num_envs"), group_size=config.group_size)

    def make_env(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        """Makes lanes like those that are trained in, their reward and curriculum as they are now.

        Args:
            num_envs: Number of lanes.
            **changes: Environment arguments to change.

        Returns:
            A vector environment that leaves resets to its user.

        Raises:
            ValueError: If there is no id to make others from.
        """
        envs = self._new_env(num_envs, **changes)
        if "reward" not in changes:
            envs.setting.reward.load_state_dict(self.env.setting.reward.state_dict())
        if envs.curriculum is not None and self.env.curriculum is not None and "curriculum" not in changes:
            envs.curriculum.load_state_dict(self.env.curriculum.state_dict())
        return envs

    def play(self, env_seed: int, generator: torch.Generator) -> Rollout:
        """Plays this process's episodes of one update.

        Args:
            env_seed: Seeds the lanes, those of all processes together.
            generator: Source of what the policy samples in this process.

        Returns:
            The episodes.

        Raises:
            torch.OutOfMemoryError: If there is no memory for a single lane, or a single group of them.
        """
        return retry_with_fewer_lanes(
            lambda: self._attempt(env_seed, generator), lambda reason: self._halve_lanes(self.env.num_envs, reason)
        )

    def evaluate(self, num_episodes: int, *, split: str, **settings: Any) -> Evaluation:
        """Scores the policy in lanes of another split.

        Args:
            num_episodes: Number of episodes.
            split: Which examples.
            **settings: Arguments of `agents.evaluate`.

        Returns:
            The evaluation.

        Raises:
            torch.OutOfMemoryError: If there is no memory for a single lane, or a single group of them.
        """
        return retry_with_fewer_lanes(
            lambda: evaluate(self._policy, self.make_env(self._num_lanes, split=split), num_episodes, **settings),
            lambda reason: self._halve_lanes(self._num_lanes, reason),
        )

    def limit_lanes(self) -> None:
        """Makes the lanes again where there are more of them than there was memory for before the checkpoint."""
        if self._num_lanes < self.env.num_envs and self.env_id is not None:
            self.env = self.make_env(self._num_lanes, group_size=self._config.group_size)

    def _attempt(self, env_seed: int, generator: torch.Generator) -> Rollout:
        """Plays the episodes of an update. Where memory runs out, nothing of the attempt counts."""
        curriculum = self.env.curriculum
        generator_state, level = generator.get_state(), None if curriculum is None else curriculum.state_dict()
        try:
            return collect(
                self.env,
                self._policy,
                processes.own_share(self._config.episodes_per_update, "episodes_per_update"),
                seed=env_seed + processes.rank() * processes.own_share(self._config.num_envs, "num_envs"),
                temperature=self._config.temperature,
                generator=generator,
            )
        except torch.OutOfMemoryError:
            generator.set_state(generator_state)
            if curriculum is not None and level is not None:
                curriculum.load_state_dict(level)
            raise

    @property
    def _num_lanes(self) -> int:
        """The number of episodes that there is memory for side by side, as far as is known."""
        return int(self._carried.get("lanes", self._config.num_envs))

    def _halve_lanes(self, lanes: int, reason: str) -> None:
        """From now on, half as many episodes are played side by side, in training and in evaluations."""
        half = half_of(lanes, self._config.group_size, reason, fixed=self.env_id is None)
        _LOG.warning("Out of memory with %d lanes: from now on there are %d.", lanes, half)
        self._carried["lanes"] = half
        self.limit_lanes()

    def _new_env(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        if self.env_id is None:
            raise ValueError(env_arguments.NO_ID)
        return make_env(self.env_id, self._policy, num_envs, **{**self.env_kwargs, **changes})
