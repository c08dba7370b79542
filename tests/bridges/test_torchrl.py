"""Torchrl's wrapper and its check of environments."""

from tests.bridges.helpers import needs, others, toy_env


@others
def test_torchrl() -> None:
    needs("torchrl", "torchrl")
    from torchrl.envs import GymWrapper, check_env_specs

    env = GymWrapper(toy_env(), device="cpu")
    check_env_specs(env, seed=0)
    rollout = env.rollout(3)
    assert rollout["next", "reward"].shape == (len(rollout), 1)
    assert rollout["input_ids"].shape[1] == 8
