"""Gymnasium's wrappers and its own vector environments take these environments unchanged."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from tests.bridges.helpers import needs, toy_env, toy_envs
from tests.textenvs.helpers import EOS, FIRST

A, B = FIRST["a"], FIRST["b"]
MODES = list(AutoresetMode)


def test_record_episode_statistics() -> None:
    env = wrappers.RecordEpisodeStatistics(toy_env())
    env.reset(seed=0)
    env.step(A)
    env.step(B)
    *_, info = env.step(EOS)
    assert (info["episode"]["r"], info["episode"]["l"]) == (2.0, 3)


def test_normalize_reward() -> None:
    """No wrapper of ours is needed: rewards come out at the scale of 1, whatever the score's own scale."""
    for scale in (1e-3, 1e3):
        env = wrappers.NormalizeReward(toy_env(reward=lambda _, text, scale=scale: scale * len(text)), gamma=0.99)
        rng, rewards = np.random.default_rng(0), []
        for episode in range(200):
            env.reset(seed=episode)
            over = False
            while not over:
                _, reward, over, _, _ = env.step(int(rng.integers(4, 30)))
                rewards.append(reward)
        assert 0.2 < np.mean(rewards[400:]) < 5
    env.update_running_mean = False  # what evaluation wants
    env.reset(seed=0)
    first = env.step(A)[1]
    env.reset(seed=0)
    assert env.step(A)[1] == first


def test_flatten_observation() -> None:
    env = wrappers.FlattenObservation(toy_env())
    flat, _ = env.reset(options={"example": 1})
    assert flat in env.observation_space
    assert flat.shape == (24,)  # three arrays, in the order of the space's keys
    back = gym.spaces.unflatten(env.unwrapped.observation_space, flat)
    assert back["input_ids"].tolist()[:2] == [1, FIRST["d"]]


def test_time_aware_observation() -> None:
    env = wrappers.TimeAwareObservation(wrappers.TimeLimit(toy_env(), 4), flatten=False)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, *_ = env.step(A)
    assert observation["time"] == 1
    assert observation["response_mask"].sum() == 1


def test_a_time_limit_truncates_by_itself() -> None:
    env = wrappers.TimeLimit(toy_env(), 2)
    env.reset(seed=0)
    env.step(A)
    assert env.step(A)[2:4] == (False, True)


def test_filter_and_transform() -> None:
    env = wrappers.FilterObservation(toy_env(), ["input_ids"])
    assert list(env.reset(seed=0)[0]) == ["input_ids"]
    assert wrappers.TransformReward(toy_env(), lambda reward: 2 * reward).unwrapped.reset(seed=0)


@pytest.mark.parametrize("mode", MODES)
def test_vector_record_episode_statistics(mode: AutoresetMode) -> None:
    envs = vector_wrappers.RecordEpisodeStatistics(toy_envs(autoreset_mode=mode))
    envs.reset(seed=0)
    envs.step(np.array([A, A]))
    *_, infos = envs.step(np.array([EOS, A]))
    assert infos["_episode"].tolist() == [True, False]
    assert (infos["episode"]["r"][0], infos["episode"]["l"][0]) == (1.0, 2)
    options = {"reset_mask": np.array([True, False])}
    if mode == AutoresetMode.DISABLED:
        envs.reset(options=options)
    elif mode == AutoresetMode.NEXT_STEP:
        envs.step(np.array([A, A]))
    envs.step(np.array([B, A]))
    *_, infos = envs.step(np.array([EOS, EOS]))
    assert infos["episode"]["r"][0] == 1.0
    assert infos["episode"]["l"][0] == 2  # NEXT_STEP's reset is no step


@pytest.mark.parametrize("mode", MODES[:2])
def test_vector_normalize_reward(mode: AutoresetMode) -> None:
    envs = vector_wrappers.NormalizeReward(toy_envs(8, autoreset_mode=mode, reward=lambda _, text: 50 * len(text)))
    envs.reset(seed=0)
    rng, rewards = np.random.default_rng(0), []
    for _ in range(200):
        rewards.append(envs.step(rng.integers(4, 30, size=8))[1])
    assert 0.2 < np.mean(rewards[100:]) < 5


def test_vector_flatten_observation() -> None:
    envs = vector_wrappers.FlattenObservation(toy_envs())
    flat, _ = envs.reset(seed=0)
    assert flat.shape == (2, 24)
    assert flat in envs.observation_space


def test_vector_flatten_observation_is_the_single_one_in_each_lane() -> None:
    envs, singles = vector_wrappers.FlattenObservation(toy_envs()), [toy_env(), toy_env()]
    flat = [wrappers.FlattenObservation(single) for single in singles]
    assert (envs.reset(seed=4)[0] == [one.reset(seed=4 + lane)[0] for lane, one in enumerate(flat)]).all()
    assert (
        envs.step(np.array([A, B]))[0] == [one.step(token)[0] for one, token in zip(flat, (A, B), strict=True)]
    ).all()


def test_dict_info_to_list() -> None:
    envs = vector_wrappers.DictInfoToList(toy_envs(autoreset_mode="SameStep"))
    single = toy_env()
    assert envs.reset(seed=0)[1][0] == single.reset(seed=0)[1]
    infos = envs.step(np.array([EOS, A]))[4]
    assert infos[1] == {"score": 1.0, "response_length": 1, "example": infos[1]["example"]}
    final = single.step(EOS)
    assert {key: infos[0]["final_info"][key] for key in final[4]} == final[4]
    assert all((infos[0]["final_obs"][key] == array).all() for key, array in final[0].items())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_vector_numpy_to_torch(mode: AutoresetMode) -> None:
    """With SAME_STEP, Gymnasium's wrapper trips over `final_obs`, that of its own SyncVectorEnv, too."""
    torch = needs("torch", "torch")
    needs("array_api_compat", "array-api-compat")
    envs = vector_wrappers.NumpyToTorch(toy_envs(autoreset_mode=mode))
    observations, _ = envs.reset(seed=0)
    assert observations["input_ids"].dtype == torch.int32
    observations, rewards, terminated, _, _ = envs.step(torch.tensor([A, EOS]))
    assert rewards.tolist() == [1.0, 0.0]
    assert terminated.tolist() == [False, True]
    assert observations["response_mask"].sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_its_own_vector_environments(how: str) -> None:
    """Ids also work without the native vector environment, each lane in a process of its own, too."""
    theirs = gym.make_vec("TextGen-v0", num_envs=2, vectorization_mode=how, max_new_tokens=3)
    try:
        ours = gym.make_vec("TextGen-v0", num_envs=2, max_new_tokens=3)
        assert theirs.metadata["autoreset_mode"] == ours.metadata["autoreset_mode"]
        results = [
            (envs.reset(seed=5), *(envs.step(np.array([40 + step, 1])) for step in range(5))) for envs in (theirs, ours)
        ]
        for one, own in zip(*results, strict=True):
            assert all((one[0][key] == array).all() for key, array in own[0].items())
            assert [np.asarray(part).tolist() for part in one[1:-1]] == [part.tolist() for part in own[1:-1]]
            assert {key: array.tolist() for key, array in one[-1].items()} == {
                key: array.tolist() for key, array in own[-1].items()
            }
    finally:
        theirs.close()


def test_render_collection() -> None:
    """What RecordVideo films: a frame a step, all of one size."""
    env = wrappers.RenderCollection(toy_env(render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(A)
    env.step(EOS)
    frames = env.render()
    assert len(frames) == 3
    assert {frame.shape for frame in frames} == {frames[0].shape}
