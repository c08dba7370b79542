"""How a trained contestant plays an experiment's test split, whoever trained it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents import Policy
from agents.evaluation.evaluation import evaluate
from benchmarks.learn.suite import Experiment
from textenvs import TextGenVectorEnv


class Unavailable(Exception):
    """This contestant cannot take part in this experiment. The reason becomes its row."""


@dataclass(frozen=True)
class Trained:
    """Somebody who has learned.

    Attributes:
        scores: `scores(split, episodes)` plays that many examples of a split, from the first on: scores, and more
            numbers to report.
        tokens: Environment tokens that it took.
        curve: A row for each update: tokens so far, CPU-seconds so far, mean score of the batch that was played.
        config: Its settings, as JSON values.
    """

    scores: Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]
    tokens: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


def make_env(experiment: Experiment, split: str, tokenizer: Any = None, num_envs: int = 64) -> TextGenVectorEnv:
    """Lanes of an experiment's environment, which leave resets to their user."""
    made = gym.make_vec(
        experiment.env,
        num_envs=num_envs,
        autoreset_mode="Disabled",
        tokenizer=tokenizer,
        **{**experiment.kwargs, "split": split},
    )
    assert isinstance(made, TextGenVectorEnv)
    return made


def tokenizer_of(experiment: Experiment) -> Any:
    """The start model's tokenizer, as `make_env` takes it; None: the task's own."""
    return None if experiment.model == "tiny" else Policy.from_pretrained(experiment.model, device="cpu").tokenizer


def policy_scores(
    policy: Policy, experiment: Experiment, seed: int, reference: Policy | None = None
) -> Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]:
    """How a language model plays: samples at temperature 1."""

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        found = evaluate(
            policy, make_env(experiment, split, policy.tokenizer), episodes, seed=seed, reference=reference
        )
        more = {"kl": found.kl, "distinct_2": found.distinct_2, "held_out": found.held_out}
        sample = f"{found.prompts[0]} | {found.responses[0]}"
        return np.array(found.scores), {**more, "response_length": found.response_length, "sample": sample[-300:]}

    return scores


def played_scores(
    experiment: Experiment,
    act: Callable[[Any], NDArray[np.int64]],
    wrap: Callable[[TextGenVectorEnv], Any] = lambda envs: envs,
    tokenizer: Any = None,
) -> Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]:
    """How anything plays that takes observations of all lanes and gives actions: each lane has one example.

    Args:
        experiment: Where.
        act: Observations to `(lanes,)` token ids.
        wrap: Shows the lanes as `act` wants them.
        tokenizer: Whose ids the actions are; None: the task's own.

    Returns:
        As `Trained.scores`.
    """

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        base = make_env(experiment, split, tokenizer, num_envs=episodes)
        envs = wrap(base)
        places = np.arange(episodes) % len(base.setting.pool)
        observation, infos = envs.reset(seed=0, options={"example": places})
        over = np.zeros(episodes, dtype=np.bool_)
        found = np.zeros(episodes)
        while not over.all():
            observation, _, terminated, truncated, infos = envs.step(act(observation))
            ended = (terminated | truncated) & ~over
            found[ended] = infos["score"][ended]
            over |= ended
        return found, {}

    return scores
