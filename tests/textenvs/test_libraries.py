"""Other people's code runs on these environments unchanged: Gymnasium's wrappers, agents and data collectors."""

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from tests.textenvs.helpers import EOS, FIRST, Toy, text_length
from textenvs import TextGenEnv, TextGenVectorEnv
from textenvs.wrappers import (
    FlatIdsObservation,
    MultiDiscreteObservation,
    OneHotObservation,
    VectorFlatIdsObservation,
    VectorOneHotObservation,
)

A, B = FIRST["a"], FIRST["b"]
MODES = list(AutoresetMode)


others = pytest.mark.filterwarnings("default")  # what these libraries warn of each other is not ours to mend


def needs(module: str, package: str) -> Any:
    """A library that CI installs where it can; its tests skip, with the reason, where it is not."""
    return pytest.importorskip(module, reason=f"{package} is not installed: pip install '{package}'")


def toy_env(**kwargs: Any) -> TextGenEnv:
    return TextGenEnv(**{"task": Toy(), "reward": text_length, **kwargs})


def toy_envs(num_envs: int = 2, **kwargs: Any) -> TextGenVectorEnv:
    return TextGenVectorEnv(num_envs, **{"task": Toy(), "reward": text_length, **kwargs})


class TestGymnasium:
    def test_record_episode_statistics(self) -> None:
        env = wrappers.RecordEpisodeStatistics(toy_env())
        env.reset(seed=0)
        env.step(A)
        env.step(B)
        *_, info = env.step(EOS)
        assert (info["episode"]["r"], info["episode"]["l"]) == (2.0, 3)

    def test_normalize_reward(self) -> None:
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

    def test_flatten_observation(self) -> None:
        env = wrappers.FlattenObservation(toy_env())
        flat, _ = env.reset(options={"example": 1})
        assert flat in env.observation_space
        assert flat.shape == (24,)  # three arrays, in the order of the space's keys
        back = gym.spaces.unflatten(env.unwrapped.observation_space, flat)
        assert back["input_ids"].tolist()[:2] == [1, FIRST["d"]]

    def test_time_aware_observation(self) -> None:
        env = wrappers.TimeAwareObservation(wrappers.TimeLimit(toy_env(), 4), flatten=False)
        observation, _ = env.reset(seed=0)
        assert observation in env.observation_space
        observation, *_ = env.step(A)
        assert observation["time"] == 1
        assert observation["response_mask"].sum() == 1

    def test_a_time_limit_truncates_by_itself(self) -> None:
        env = wrappers.TimeLimit(toy_env(), 2)
        env.reset(seed=0)
        env.step(A)
        assert env.step(A)[2:4] == (False, True)

    def test_filter_and_transform(self) -> None:
        env = wrappers.FilterObservation(toy_env(), ["input_ids"])
        assert list(env.reset(seed=0)[0]) == ["input_ids"]
        assert wrappers.TransformReward(toy_env(), lambda reward: 2 * reward).unwrapped.reset(seed=0)

    @pytest.mark.parametrize("mode", MODES)
    def test_vector_record_episode_statistics(self, mode: AutoresetMode) -> None:
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
    def test_vector_normalize_reward(self, mode: AutoresetMode) -> None:
        envs = vector_wrappers.NormalizeReward(toy_envs(8, autoreset_mode=mode, reward=lambda _, text: 50 * len(text)))
        envs.reset(seed=0)
        rng, rewards = np.random.default_rng(0), []
        for _ in range(200):
            rewards.append(envs.step(rng.integers(4, 30, size=8))[1])
        assert 0.2 < np.mean(rewards[100:]) < 5

    def test_vector_flatten_observation(self) -> None:
        envs = vector_wrappers.FlattenObservation(toy_envs())
        flat, _ = envs.reset(seed=0)
        assert flat.shape == (2, 24)
        assert flat in envs.observation_space

    def test_vector_flatten_observation_is_the_single_one_in_each_lane(self) -> None:
        envs, singles = vector_wrappers.FlattenObservation(toy_envs()), [toy_env(), toy_env()]
        flat = [wrappers.FlattenObservation(single) for single in singles]
        assert (envs.reset(seed=4)[0] == [one.reset(seed=4 + lane)[0] for lane, one in enumerate(flat)]).all()
        assert (
            envs.step(np.array([A, B]))[0] == [one.step(token)[0] for one, token in zip(flat, (A, B), strict=True)]
        ).all()

    def test_dict_info_to_list(self) -> None:
        envs = vector_wrappers.DictInfoToList(toy_envs(autoreset_mode="SameStep"))
        single = toy_env()
        assert envs.reset(seed=0)[1][0] == single.reset(seed=0)[1]
        infos = envs.step(np.array([EOS, A]))[4]
        assert infos[1] == {"score": 1.0, "response_length": 1, "example": infos[1]["example"]}
        final = single.step(EOS)
        assert {key: infos[0]["final_info"][key] for key in final[4]} == final[4]
        assert all((infos[0]["final_obs"][key] == array).all() for key, array in final[0].items())

    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
    def test_vector_numpy_to_torch(self, mode: AutoresetMode) -> None:
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
    def test_its_own_vector_environments(self, how: str) -> None:
        """Ids also work without the native vector environment, each lane in a process of its own, too."""
        theirs = gym.make_vec("TextGen-v0", num_envs=2, vectorization_mode=how, max_new_tokens=3)
        try:
            ours = gym.make_vec("TextGen-v0", num_envs=2, max_new_tokens=3)
            assert theirs.metadata["autoreset_mode"] == ours.metadata["autoreset_mode"]
            results = [
                (envs.reset(seed=5), *(envs.step(np.array([40 + step, 1])) for step in range(5)))
                for envs in (theirs, ours)
            ]
            for one, own in zip(*results, strict=True):
                assert all((one[0][key] == array).all() for key, array in own[0].items())
                assert [np.asarray(part).tolist() for part in one[1:-1]] == [part.tolist() for part in own[1:-1]]
                assert {key: array.tolist() for key, array in one[-1].items()} == {
                    key: array.tolist() for key, array in own[-1].items()
                }
        finally:
            theirs.close()

    @others
    def test_vector_record_video(self, tmp_path: Path) -> None:
        needs("moviepy", "moviepy")
        envs = toy_envs(render_mode="rgb_array", autoreset_mode="SameStep")
        envs = vector_wrappers.RecordVideo(envs, str(tmp_path / "films"), episode_trigger=lambda episode: episode == 0)
        envs.reset(seed=0)
        envs.step(np.array([A, B]))
        envs.step(np.array([EOS, EOS]))
        envs.close()
        assert [file.suffix for file in (tmp_path / "films").iterdir() if file.suffix == ".mp4"] == [".mp4"]

    @others
    def test_record_video(self, tmp_path: Path) -> None:
        needs("moviepy", "moviepy")
        with wrappers.RecordVideo(toy_env(render_mode="rgb_array"), str(tmp_path / "film"), disable_logger=True) as env:
            env.reset(seed=0)
            env.step(A)
            env.step(EOS)
        assert [file.suffix for file in (tmp_path / "film").iterdir() if file.suffix == ".mp4"] == [".mp4"]

    def test_render_collection(self) -> None:
        """What RecordVideo films: a frame a step, all of one size."""
        env = wrappers.RenderCollection(toy_env(render_mode="rgb_array"))
        env.reset(seed=0)
        env.step(A)
        env.step(EOS)
        frames = env.render()
        assert len(frames) == 3
        assert {frame.shape for frame in frames} == {frames[0].shape}


def cleanrl_ppo(envs: Any, total_timesteps: int) -> float:
    """The loop of CleanRL's ppo.py, shortened: its network, its rollout and its update, for Gymnasium 1 and SAME_STEP.

    Source: Huang et al. (2022), CleanRL: high-quality single-file implementations of deep RL algorithms.
    """
    torch = needs("torch", "torch")
    from torch import nn, optim
    from torch.distributions.categorical import Categorical

    torch.manual_seed(1)
    num_steps, gamma, gae_lambda, clip_coef = 16, 0.99, 0.95, 0.2

    def layer_init(layer: Any, std: float = 2**0.5) -> Any:
        nn.init.orthogonal_(layer.weight, std)
        nn.init.constant_(layer.bias, 0.0)
        return layer

    inputs = int(np.array(envs.single_observation_space.shape).prod())
    critic = nn.Sequential(layer_init(nn.Linear(inputs, 64)), nn.Tanh(), layer_init(nn.Linear(64, 1), std=1.0))
    actor = nn.Sequential(
        layer_init(nn.Linear(inputs, 64)), nn.Tanh(), layer_init(nn.Linear(64, envs.single_action_space.n), std=0.01)
    )
    parameters = [*critic.parameters(), *actor.parameters()]
    optimizer = optim.Adam(parameters, lr=5e-3, eps=1e-5)
    obs = torch.zeros((num_steps, envs.num_envs, *envs.single_observation_space.shape))
    actions = torch.zeros((num_steps, envs.num_envs, *envs.single_action_space.shape))
    logprobs, rewards, dones, values = (torch.zeros((num_steps, envs.num_envs)) for _ in range(4))
    next_obs, _ = envs.reset(seed=1)
    next_obs, next_done = torch.Tensor(next_obs), torch.zeros(envs.num_envs)
    returns_of_episodes: list[float] = []
    for _ in range(total_timesteps // (num_steps * envs.num_envs)):
        for step in range(num_steps):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                probs = Categorical(logits=actor(next_obs))
                action = probs.sample()
                values[step] = critic(next_obs).flatten()
            actions[step], logprobs[step] = action, probs.log_prob(action)
            next_obs, reward, terminations, truncations, infos = envs.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            next_obs = torch.Tensor(next_obs)
            next_done = torch.Tensor(np.logical_or(terminations, truncations))
            if "episode" in infos:
                returns_of_episodes += infos["episode"]["r"][infos["_episode"]].tolist()
        with torch.no_grad():
            next_value = critic(next_obs).reshape(1, -1)
            advantages, lastgaelam = torch.zeros_like(rewards), 0
            for t in reversed(range(num_steps)):
                nextnonterminal = 1.0 - (next_done if t == num_steps - 1 else dones[t + 1])
                nextvalues = next_value if t == num_steps - 1 else values[t + 1]
                delta = rewards[t] + gamma * nextvalues * nextnonterminal - values[t]
                advantages[t] = lastgaelam = delta + gamma * gae_lambda * nextnonterminal * lastgaelam
            returns = advantages + values
        b_obs = obs.reshape((-1, *envs.single_observation_space.shape))
        b_logprobs, b_actions = logprobs.reshape(-1), actions.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        for _ in range(4):
            probs = Categorical(logits=actor(b_obs))
            ratio = (probs.log_prob(b_actions.long()) - b_logprobs).exp()
            normal = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
            pg_loss = torch.max(-normal * ratio, -normal * ratio.clamp(1 - clip_coef, 1 + clip_coef)).mean()
            v_loss = 0.5 * ((critic(b_obs).view(-1) - b_returns) ** 2).mean()
            loss = pg_loss - 0.01 * probs.entropy().mean() + v_loss * 0.5
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    return float(np.mean(returns_of_episodes[-50:]))


class TestCleanRL:
    def test_ppo_runs_on_flat_ids(self) -> None:
        envs = vector_wrappers.RecordEpisodeStatistics(VectorFlatIdsObservation(toy_envs(4, autoreset_mode="SameStep")))
        assert np.isfinite(cleanrl_ppo(envs, 256))

    def test_ppo_learns_on_one_hots(self) -> None:
        def count_a(example: Any, response: str) -> float:
            return response.count("a") / 4

        envs = toy_envs(16, autoreset_mode="SameStep", reward=count_a, task=Toy(train=("d",)))
        envs = vector_wrappers.RecordEpisodeStatistics(VectorOneHotObservation(envs))
        assert cleanrl_ppo(envs, 8_000) > 0.7  # a random policy gets 0.03


class TestStableBaselines3:
    @pytest.mark.parametrize("view", [FlatIdsObservation, MultiDiscreteObservation, OneHotObservation])
    @pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
    def test_trains(self, algorithm: str, view: Any) -> None:
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

    def test_its_own_check_env(self) -> None:
        needs("stable_baselines3", "stable-baselines3")
        from stable_baselines3.common.env_checker import check_env

        for view in (FlatIdsObservation, MultiDiscreteObservation, OneHotObservation):
            check_env(view(toy_env()))
        check_env(toy_env())

    @others
    def test_maskable_ppo_never_says_what_is_masked(self) -> None:
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
    def test_recurrent_ppo(self) -> None:
        contrib = needs("sb3_contrib", "sb3-contrib")
        env = OneHotObservation(toy_env(), last=1)
        agent = contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu")
        agent.learn(64)
        assert agent.num_timesteps == 64


@others
class TestOthers:
    def test_torchrl(self) -> None:
        needs("torchrl", "torchrl")
        from torchrl.envs import GymWrapper, check_env_specs

        env = GymWrapper(toy_env(), device="cpu")
        check_env_specs(env, seed=0)
        rollout = env.rollout(3)
        assert rollout["next", "reward"].shape == (len(rollout), 1)
        assert rollout["input_ids"].shape[1] == 8

    @pytest.mark.parametrize("view", [FlatIdsObservation, None], ids=["flat", "dict"])
    def test_tianshou(self, view: Any) -> None:
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

    def test_minari(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
