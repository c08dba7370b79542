"""Start policies, environments and test episodes: the parts that every contestant of an experiment shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents import Policy, SFTConfig, fine_tune
from agents.evaluation.evaluation import evaluate
from agents.training.start_policy import start_policy
from benchmarks.learn.suite import Experiment
from textenvs import TextGenVectorEnv

Curve: TypeAlias = list[tuple[int, float, float]]
"""Tokens so far, CPU-seconds so far and the mean score of the batch, for each update."""
Scores: TypeAlias = Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]
"""`scores(split, episodes)` plays that many examples of a split, from the first on. It returns their scores
`(episodes,)` and more columns for the row."""


class Unavailable(Exception):
    """A contestant cannot take part in an experiment. The reason becomes its row."""


@dataclass(frozen=True)
class Trained:
    """A contestant after training.

    Attributes:
        scores: Plays test episodes.
        tokens: Environment tokens that training took.
        curve: Its training scores.
        config: Its settings, as JSON values.
    """

    scores: Scores
    tokens: int = 0
    curve: Curve = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


def make_start_policy(experiment: Experiment, seed: int) -> Policy:
    """Makes the policy that every contestant of an experiment begins with.

    Args:
        experiment: Its model, adapters and supervised fine-tuning.
        seed: Decides random weights and the order of the demonstrations.

    Returns:
        The policy, on the CPU.
    """
    policy = start_policy(experiment.model, experiment.env, experiment.kwargs, seed=seed, device="cpu")
    policy.adapt(**experiment.policy_kwargs)
    if experiment.sft:
        config = SFTConfig.of({"eval_episodes": 0, **experiment.sft})
        fine_tune(policy, experiment.env, config=config, seed=seed, env_kwargs=experiment.kwargs)
    return policy


def make_env(experiment: Experiment, split: str, tokenizer: Any = None, num_envs: int = 64) -> TextGenVectorEnv:
    """Makes lanes of an experiment's environment whose resets are left to the caller."""
    envs = gym.make_vec(
        experiment.env,
        num_envs=num_envs,
        autoreset_mode="Disabled",
        tokenizer=tokenizer,
        **{**experiment.kwargs, "split": split},
    )
    assert isinstance(envs, TextGenVectorEnv)
    return envs


def tokenizer_of(experiment: Experiment) -> Any:
    """Returns the start model's tokenizer, as `make_env` takes it; None is the task's own."""
    return None if experiment.folder is None else Policy.from_pretrained(experiment.folder, device="cpu").tokenizer


def policy_scores(policy: Policy, experiment: Experiment, seed: int, reference: Policy | None = None) -> Scores:
    """Returns the scores of a language model that is sampled at temperature 1."""

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        envs = make_env(experiment, split, policy.tokenizer)
        result = evaluate(policy, envs, episodes, seed=seed, reference=reference)
        columns = {name: getattr(result, name) for name in ("kl", "distinct_2", "held_out", "response_length")}
        sample = f"{result.prompts[0]} | {result.responses[0]}"
        return np.array(result.scores), {**columns, "sample": sample[-300:]}

    return scores


def played_scores(
    experiment: Experiment,
    act: Callable[[Any], NDArray[np.int64]],
    wrap: Callable[[TextGenVectorEnv], Any] = lambda envs: envs,
    tokenizer: Any = None,
) -> Scores:
    """Returns the scores of a function from observations to actions. Each lane plays one example.

    Args:
        experiment: The experiment.
        act: Maps the observations of all lanes to `(lanes,)` token ids.
        wrap: Makes the view of the lanes that `act` reads.
        tokenizer: The tokenizer of the actions; None is the task's own.

    Returns:
        The scores.
    """

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        lanes = make_env(experiment, split, tokenizer, num_envs=episodes)
        envs = wrap(lanes)
        examples = np.arange(episodes) % len(lanes.setting.pool)
        observation, infos = envs.reset(seed=0, options={"example": examples})
        over = np.zeros(episodes, dtype=np.bool_)
        final = np.zeros(episodes)
        while not over.all():
            observation, _, terminated, truncated, infos = envs.step(act(observation))
            ended = (terminated | truncated) & ~over
            final[ended] = infos["score"][ended]
            over |= ended
        return final, {}

    return scores
