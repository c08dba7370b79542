"""Minari's data collector."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tests.bridges.helpers import needs, others


@others
def test_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = needs("minari", "minari[create]")
    needs("jax", "minari[create]")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make("TextGen-v0", max_new_tokens=4))
    for seed in range(2):
        env.reset(seed=seed)
        while not env.step(env.action_space.sample())[2]:
            pass
    dataset = env.create_dataset("textenvs/random-v0")
    assert dataset.total_episodes == 2
    assert dataset[0].observations["input_ids"].dtype == np.int32
