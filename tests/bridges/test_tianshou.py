"""Tianshou's collector and buffer."""

import importlib
from typing import Any

import numpy as np
import pytest

from tests.bridges.helpers import needs, others, toy_env
from textenvs.wrappers import (
    FlatIdsObservation,
)


@others
@pytest.mark.parametrize("view", [FlatIdsObservation, None], ids=["flat", "dict"])
def test_tianshou(view: Any) -> None:
    needs("tianshou", "tianshou")
    data, env = importlib.import_module("tianshou.data"), importlib.import_module("tianshou.env")
    policies = importlib.import_module("tianshou.algorithm.algorithm_base")
    venv = env.DummyVectorEnv([lambda: toy_env() if view is None else view(toy_env())] * 2)

    class Uniform(policies.Policy):  # tianshou's own RandomActionPolicy draws discrete actions as float32
        def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
            rows = len(batch.obs) if view else len(batch.obs.input_ids)
            return data.Batch(act=np.array([self.action_space.sample() for _ in range(rows)]), state=state)

    policy = Uniform(action_space=toy_env().action_space)
    buffer = data.VectorReplayBuffer(100, 2)
    collector = data.Collector(policy, venv, buffer)
    collector.reset()
    stats = collector.collect(n_episode=6)
    assert stats.n_collected_episodes == 6
    assert len(buffer) == stats.n_collected_steps
    assert not buffer.truncated[: len(buffer)].any()
