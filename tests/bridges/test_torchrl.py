"""Torchrl's wrapper and its check of environments."""

from tests.bridges.helpers import needs, others, toy_env

IN_OTHER_PROCESSES = "textenvs:TextGen/Copy-v0"
"""TorchRL makes several lanes in processes of their own, which import textenvs only where the id says so."""


@others
def test_torchrl() -> None:
    needs("torchrl", "torchrl")
    from torchrl.envs import GymWrapper, check_env_specs

    env = GymWrapper(toy_env(), device="cpu")
    check_env_specs(env, seed=0)
    rollout = env.rollout(3)
    assert rollout["next", "reward"].shape == (len(rollout), 1)
    assert rollout["input_ids"].shape[1] == 8


@others
def test_gym_env_makes_an_id() -> None:
    """It first tries an argument that the environment does not have, and looks for Python's words in the error."""
    needs("torchrl", "torchrl")
    from torchrl.envs import GymEnv, check_env_specs

    env = GymEnv("TextGen/Copy-v0", device="cpu")
    check_env_specs(env, seed=0)
    rollout = env.rollout(5, break_when_any_done=False)
    assert rollout["next", "reward"].shape == (5, 1)
    assert rollout["next", "response_mask"].sum(-1).max() >= 1


@others
def test_gym_env_makes_several_lanes() -> None:
    needs("torchrl", "torchrl")
    from torchrl.envs import GymEnv, check_env_specs

    envs = GymEnv(IN_OTHER_PROCESSES, num_envs=2, device="cpu")
    check_env_specs(envs, seed=0)
    assert envs.batch_size == (2,)
    rollout = envs.rollout(12, break_when_any_done=False)
    assert rollout["next", "reward"].shape == (2, 12, 1)
    assert rollout["next", "done"].any()


@others
def test_the_collector_collects_whole_batches() -> None:
    needs("torchrl", "torchrl")
    import torch
    from torchrl.collectors import Collector
    from torchrl.envs import GymEnv

    envs = GymEnv(IN_OTHER_PROCESSES, num_envs=2, device="cpu")
    collector = Collector(envs, policy=None, frames_per_batch=40, total_frames=80)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.shape for batch in batches] == [(2, 20), (2, 20)]
    for batch in batches:
        assert batch["action"].sum() > 0
        # Within an episode, what an action leads to is what the next action sees.
        goes_on = ~batch["next", "done"][:, :-1].squeeze(-1)
        after, before = batch["next", "input_ids"][:, :-1], batch["input_ids"][:, 1:]
        assert torch.equal(after[goes_on], before[goes_on])
        assert goes_on.any()
        assert batch["next", "done"].any()
