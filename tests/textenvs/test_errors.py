"""Errors of the library's own classes: they travel between processes, and scores that are too large raise one."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

import agents
import textenvs
from agents.training.optimization import NonFiniteError
from textenvs import Example, make_reward
from textenvs.rewards import RewardError, UnitSums, checked_score

SAD = Example("A sad story.", ("The fox was sad.",), {"mood": "sad"})


def own_errors() -> list[type[Exception]]:
    """Returns all exception classes that the two packages define."""
    classes: set[type[Exception]] = set()
    for package in (textenvs, agents):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            try:
                names = vars(importlib.import_module(module.name))
            except ImportError:  # of an extra that is not installed
                continue
            classes |= {
                value
                for value in names.values()
                if isinstance(value, type)
                and issubclass(value, Exception)
                and value.__module__.split(".")[0] in ("textenvs", "agents")
            }
    return sorted(classes, key=lambda each: each.__name__)


def test_every_error_can_be_made_of_its_message_alone() -> None:
    """So does Gymnasium's AsyncVectorEnv with the error of a worker: `raise error_type(error)`."""
    classes = own_errors()
    assert {"RewardError", "ColumnError", "CheckpointError", "SaveError", "NonFiniteError"} <= {
        each.__name__ for each in classes
    }
    for each in classes:
        error = each("the message")
        for again in (pickle.loads(pickle.dumps(error)), each(error), pickle.loads(pickle.dumps(each(error)))):
            assert type(again) is each
            assert str(again) == "the message"
    numbered = pickle.loads(pickle.dumps(NonFiniteError("the message", torch.tensor([3, 4]))))
    assert (str(numbered), numbered.rows.tolist()) == ("the message", [3, 4])


def test_a_reward_error_keeps_what_it_knows() -> None:
    error = RewardError("r", "failed", SAD, "fox")
    for again in (RewardError(error), RewardError(RewardError(error)), pickle.loads(pickle.dumps(RewardError(error)))):
        assert str(again) == str(error)
        assert (again.reward, again.problem, again.example, again.response) == ("r", "failed", SAD, "fox")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium logs the error of a worker as a warning
def test_a_reward_error_comes_out_of_a_worker_process() -> None:
    def make() -> Any:
        def broken(example: Example, response: str) -> float:
            raise ZeroDivisionError("too little text")

        return gym.make("TextGen-v0", reward=broken, payout="immediate", max_new_tokens=3)

    envs = AsyncVectorEnv([make])
    try:
        envs.reset(seed=0)
        with pytest.raises(RewardError, match="Reward 'broken' raised ZeroDivisionError: too little text") as caught:
            envs.step(np.array([40]))
        assert caught.value.reward == "broken"
        assert caught.value.example is not None
    finally:
        envs.close(terminate=True)


@pytest.mark.parametrize("score", [1e308, -1.7e308, 10**301, 1.0000001e300])
def test_scores_whose_differences_could_be_infinite(score: float) -> None:
    def huge(example: Example, response: str) -> float:
        return score if response.endswith("fox") else -score

    with pytest.raises(RewardError, match=r"'huge' gave -?1.*, more than 1e\+300: scale it down"):
        checked_score(make_reward(huge), SAD, "fox")
    env = gym.make("TextGen-v0", reward=huge, payout="immediate", max_new_tokens=4)
    env.reset(seed=0)
    with pytest.raises(RewardError, match="more than 1e"):
        env.step(40)
    assert checked_score(make_reward(lambda example, response: 1e300), SAD, "") == 1e300


class _Huge(UnitSums):
    name = "huge"

    def read(self, memory: object, unit: str) -> tuple[None, tuple[float]]:
        return None, (1e307,)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        phi: NDArray[np.float64] = sums[:, 0]
        return phi


def play(envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
    for _ in range(2):
        envs.step(np.array([40, 41, 42]))


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_a_scorer_whose_scores_are_too_large(payout: str) -> None:
    envs = gym.make_vec("TextGen-v0", num_envs=3, reward=_Huge(), payout=payout, max_new_tokens=2)
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=r"'huge' gave [12]e\+307, more than 1e\+300: scale it down"):
        play(envs)
    parts = gym.make_vec("TextGen-v0", num_envs=3, reward=0.5 * _Huge(), max_new_tokens=2)
    parts.reset(seed=0)
    with pytest.raises(RewardError, match=r"its part 'huge' [12]e\+307"):
        play(parts)
