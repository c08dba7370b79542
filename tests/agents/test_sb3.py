"""`TextGenVecEnv`: what `DummyVecEnv` returns, from the native vector environment; and SB3's agents train on it."""

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.textenvs.helpers import EOS, FIRST, Letters, Talk, Toy, text_length
from textenvs import Example, TextGenEnv, TextGenVectorEnv
from textenvs.wrappers import OneHotObservation, VectorOneHotObservation

sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'")
vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
from agents.sb3 import TextGenVecEnv  # noqa: E402 - it needs SB3

A, B, C = (FIRST[letter] for letter in "abc")
PROMPTS = [f"{'abcdefgh'[i // 8]}{'abcdefgh'[i % 8] * (i % 5)}" for i in range(64)]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"payout": "sparse", "reward": {"length": 0.5, "sentiment": 1.0}},
    {"task": Talk(), "action_mask": "task"},
]


def kwargs_of(**kwargs: Any) -> dict[str, Any]:
    return {"task": Toy(train=PROMPTS), "max_new_tokens": 5, "reward": text_length, **kwargs}


def make(num_envs: int = 3, **kwargs: Any) -> TextGenVecEnv:
    return TextGenVecEnv(TextGenVectorEnv(num_envs, autoreset_mode="SameStep", **kwargs_of(**kwargs)))


def assert_same(one: Any, other: Any) -> None:
    """Equal, all the way down, in keys, types and dtypes."""
    assert type(one) is type(other), (one, other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def plain(observations: Any) -> Any:
    """SB3's OrderedDict as a dict."""
    return dict(observations) if isinstance(observations, dict) else observations


class TestAsDummyVecEnv:
    @pytest.mark.parametrize("flat", [False, True], ids=["dict", "one-hot"])
    @pytest.mark.parametrize("copy", [True, False], ids=["copy", "views"])
    @pytest.mark.parametrize("kwargs", SETTINGS, ids=["plain", "parts", "turns"])
    def test_step_by_step(self, kwargs: dict[str, Any], copy: bool, flat: bool) -> None:
        kwargs = kwargs_of(**kwargs)
        native: Any = TextGenVectorEnv(3, autoreset_mode="SameStep", copy=copy, **kwargs)
        ours = TextGenVecEnv(VectorOneHotObservation(native, last=4) if flat else native)
        dummy = vec_env.DummyVecEnv(
            [lambda: OneHotObservation(TextGenEnv(**kwargs), last=4) if flat else TextGenEnv(**kwargs)] * 3
        )
        assert ours.observation_space == dummy.observation_space
        assert ours.action_space == dummy.action_space
        assert ours.metadata == dummy.metadata
        assert ours.seed(5) == dummy.seed(5)
        one, other = ours.reset(), dummy.reset()
        assert_same(plain(one), plain(other))
        rng, ended = np.random.default_rng(0), 0
        for _ in range(80):
            kept = {key: array.copy() for key, array in one.items()} if isinstance(one, dict) else one.copy()
            actions = np.where(rng.random(3) < 0.25, EOS, rng.integers(Letters().vocab_size, size=3))
            ours_now, dummy_now = ours.step(actions), dummy.step(actions)
            assert_same(plain(one), kept)  # what SB3 stores after the step is what it saw before it
            assert_same([plain(part) for part in ours_now], [plain(part) for part in dummy_now])
            assert_same(ours.reset_infos, dummy.reset_infos)
            one, _, done, infos = ours_now
            ended += int(done.sum())
            assert all(("terminal_observation" in info) == over for info, over in zip(infos, done, strict=True))
            assert not any(info["TimeLimit.truncated"] for info in infos)
        assert ended > 30
        ours.reset(), dummy.reset()  # goes on in the streams
        assert_same(ours.reset_infos, dummy.reset_infos)

    def test_attributes_and_methods(self) -> None:
        ours = make()
        ours.reset()
        ours.step(np.array([A, B, C]))
        assert ours.get_attr("response") == ["a", "b", "c"]
        assert ours.get_attr("response", indices=1) == ["b"]
        assert ours.get_attr("response", indices=[2, 0]) == ["c", "a"]
        ours.set_attr("note", "all")
        ours.set_attr("note", "one", indices=[1])
        assert ours.get_attr("note") == ["all", "one", "all"]
        assert ours.has_attr("response")
        assert not ours.has_attr("nothing")
        with pytest.raises(AttributeError):
            ours.env_method("nothing")
        (seen, _), = ours.env_method("reset", indices=2, options={"example": Example("b")})  # fmt: skip
        assert seen["input_ids"][1] == B
        assert ours.get_attr("response") == ["a", "b", ""]
        assert ours.env_is_wrapped(gym.Wrapper) == [False] * 3
        ours.close()

    def test_action_masks(self) -> None:
        ours = make(action_mask=["ab", "b"])
        ours.reset()
        ours.step(np.array([A, B, C]))
        masks = ours.action_masks()
        assert masks.shape == (3, Letters().vocab_size)
        assert masks.dtype == np.bool_
        assert [np.flatnonzero(row).tolist() for row in masks] == [[B], [EOS], [EOS]]
        assert ours.has_attr("action_masks")  # how MaskablePPO asks whether there are any
        assert np.array_equal(np.stack(ours.env_method("action_masks")), masks)
        assert np.array_equal(ours.env_method("action_masks", indices=[1]), masks[1:2])

    def test_options(self) -> None:
        ours = make()
        ours.set_options({"example": 7})
        ours.reset()
        assert [info["example"] for info in ours.reset_infos] == [7, 7, 7]
        ours.set_options([{"example": 1}, {"example": 2}, {"example": 3}])
        ours.reset()
        assert [info["example"] for info in ours.reset_infos] == [1, 2, 3]
        ours.reset()
        assert [info["example"] for info in ours.reset_infos] != [1, 2, 3]  # used once
        ours.set_options([{"example": 1}, {}, {}])
        with pytest.raises(ValueError, match="the option 'example' for every lane, or none for any"):
            ours.reset()

    def test_groups_keep_their_examples(self) -> None:
        ours = TextGenVecEnv(TextGenVectorEnv(6, autoreset_mode="SameStep", group_size=3, **kwargs_of()))
        assert ours.seed(2) == [2, 2, 2, 3, 3, 3]
        ours.reset()
        examples = [info["example"] for info in ours.reset_infos]
        assert examples[0] == examples[1] == examples[2] != examples[3] == examples[4] == examples[5]

    def test_pictures(self, capsys: pytest.CaptureFixture[str]) -> None:
        ours = make(render_mode="rgb_array")
        ours.reset()
        images = ours.get_images()
        assert [image.shape for image in images] == [images[0].shape] * 3
        assert ours.render().shape[:2] == (2 * images[0].shape[0], 2 * images[0].shape[1])  # tiled
        assert make().get_images() == [None] * 3
        human = make(render_mode="human")
        human.reset()
        human.step(np.array([A, B, C]))
        human.render()
        assert "a" in capsys.readouterr().out

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="autoreset_mode 'SameStep', got 'NextStep'"):
            TextGenVecEnv(TextGenVectorEnv(2, **kwargs_of()))
        with pytest.raises(TypeError, match="of textenvs, got SyncVectorEnv"):
            TextGenVecEnv(gym.vector.SyncVectorEnv([lambda: TextGenEnv(**kwargs_of())]))
        with pytest.raises(TypeError, match="with an id alone"):
            TextGenVecEnv(TextGenVectorEnv(2, autoreset_mode="SameStep", **kwargs_of()), num_envs=2)


class TestTraining:
    @pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
    def test_a_few_steps(self, algorithm: str) -> None:
        settings = {"PPO": {"batch_size": 32}, "A2C": {}}[algorithm]
        envs = vec_env.VecMonitor(TextGenVecEnv("TextGen-v0", num_envs=4, max_new_tokens=6))
        policy_kwargs = {"net_arch": [8]}
        agent = getattr(sb3, algorithm)(
            "MultiInputPolicy", envs, n_steps=16, seed=0, policy_kwargs=policy_kwargs, device="cpu", **settings
        )
        before = [parameter.clone() for parameter in agent.policy.parameters()]
        agent.learn(128)
        assert agent.num_timesteps == 128
        assert any((one != other).any() for one, other in zip(before, agent.policy.parameters(), strict=True))
        assert len(agent.ep_info_buffer) > 10
        assert all(info["l"] <= 6 for info in agent.ep_info_buffer)

    def test_a2c_learns_on_the_one_hot_view(self) -> None:
        """Write "a" whenever you can: a random policy writes it at every fortieth token."""
        kwargs = kwargs_of(
            reward=lambda example, response: response.count("a") / 5, task=Toy(train=("d",), test=("x",))
        )
        native: Any = TextGenVectorEnv(16, autoreset_mode="SameStep", **kwargs)
        envs = vec_env.VecMonitor(TextGenVecEnv(VectorOneHotObservation(native)))
        agent = sb3.A2C(
            "MlpPolicy", envs, learning_rate=0.02, gamma=1.0, ent_coef=0.01, seed=0, device="cpu",
            policy_kwargs={"net_arch": []},
        )  # fmt: skip
        agent.learn(6_000)
        assert np.mean([info["r"] for info in agent.ep_info_buffer]) > 0.7


def test_only_this_module_needs_sb3_and_says_so() -> None:
    code = """
import sys, agents
assert "stable_baselines3" not in sys.modules
sys.modules["stable_baselines3"] = None
import agents.sb3
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ImportError: Stable-Baselines3 is needed for agents.sb3. Install it with: pip install" in result.stderr
    assert '"textenvs[agents,sb3]"' in result.stderr
