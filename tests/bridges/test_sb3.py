"""Stable-Baselines3 and sb3-contrib train on these environments unchanged."""

from typing import Any

import pytest

from tests.bridges.helpers import needs, others, toy_env
from textenvs.wrappers import (
    FlatIdsObservation,
    MultiDiscreteObservation,
    OneHotObservation,
)


@pytest.mark.parametrize("view", [FlatIdsObservation, MultiDiscreteObservation, OneHotObservation])
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_trains(algorithm: str, view: Any) -> None:
    sb3 = needs("stable_baselines3", "stable-baselines3")
    settings = {
        "PPO": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
        "A2C": {},
        "DQN": {"learning_starts": 16, "buffer_size": 200},
    }[algorithm]
    agent = getattr(sb3, algorithm)(
        "MlpPolicy", view(toy_env()), seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **settings
    )
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(64)
    assert any((one != other).any() for one, other in zip(before, agent.policy.parameters(), strict=True))
    assert len(agent.ep_info_buffer) > 4
    action, _ = agent.predict(agent.get_env().reset(), deterministic=True)
    assert action[0] in toy_env().action_space


def test_its_own_check_env() -> None:
    needs("stable_baselines3", "stable-baselines3")
    from stable_baselines3.common.env_checker import check_env

    for view in (FlatIdsObservation, MultiDiscreteObservation, OneHotObservation):
        check_env(view(toy_env()))
    check_env(toy_env())


@others
def test_maskable_ppo_never_says_what_is_masked() -> None:
    contrib = needs("sb3_contrib", "sb3-contrib")
    env = OneHotObservation(toy_env(action_mask=["ab", "b"]))
    agent = contrib.MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu")
    agent.learn(64)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        action, _ = agent.predict(observation, action_masks=env.unwrapped.action_masks())
        observation, _, over, _, _ = env.step(action)
    assert env.unwrapped.response in ("ab", "b")


@others
def test_recurrent_ppo() -> None:
    contrib = needs("sb3_contrib", "sb3-contrib")
    env = OneHotObservation(toy_env(), last=1)
    agent = contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu")
    agent.learn(64)
    assert agent.num_timesteps == 64
