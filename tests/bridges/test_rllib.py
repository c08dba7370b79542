"""Ray RLlib's PPO learns on these environments."""

from typing import Any

import gymnasium as gym

from tests.bridges.helpers import needs, others
from textenvs.wrappers import OneHotObservation


@others
def test_ppo_learns_chain() -> None:
    ray = needs("ray", "ray[rllib]")
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    def make(settings: Any) -> gym.Env[Any, Any]:
        return OneHotObservation(gym.make("textenvs:TextGen/Chain-v0"))

    register_env("chain", make)
    config = (
        PPOConfig()
        .environment("chain")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=1_000, minibatch_size=125, num_epochs=4, lr=3e-3, gamma=1.0)
        .learners(num_learners=0)
        .debugging(seed=0)
    )
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        algorithm = config.build_algo()
        returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(6)]
        algorithm.stop()
    finally:
        ray.shutdown()
    assert returns[0] < 0.3  # near a random policy
    assert returns[-1] > 0.4
