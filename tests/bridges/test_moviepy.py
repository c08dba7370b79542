"""Gymnasium's RecordVideo, which writes its films with moviepy."""

from pathlib import Path

import numpy as np
from gymnasium import wrappers
from gymnasium.wrappers import vector as vector_wrappers

from tests.bridges.helpers import needs, others, toy_env, toy_envs
from tests.textenvs.helpers import EOS, FIRST

A, B = FIRST["a"], FIRST["b"]


@others
def test_vector_record_video(tmp_path: Path) -> None:
    needs("moviepy", "moviepy")
    envs = toy_envs(render_mode="rgb_array", autoreset_mode="SameStep")
    envs = vector_wrappers.RecordVideo(envs, str(tmp_path / "films"), episode_trigger=lambda episode: episode == 0)
    envs.reset(seed=0)
    envs.step(np.array([A, B]))
    envs.step(np.array([EOS, EOS]))
    envs.close()
    assert [file.suffix for file in (tmp_path / "films").iterdir() if file.suffix == ".mp4"] == [".mp4"]


@others
def test_record_video(tmp_path: Path) -> None:
    needs("moviepy", "moviepy")
    with wrappers.RecordVideo(toy_env(render_mode="rgb_array"), str(tmp_path / "film"), disable_logger=True) as env:
        env.reset(seed=0)
        env.step(A)
        env.step(EOS)
    assert [file.suffix for file in (tmp_path / "film").iterdir() if file.suffix == ".mp4"] == [".mp4"]
