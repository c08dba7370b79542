"""CleanRL's single-file PPO, shortened, runs and learns on these environments."""

from typing import Any

import numpy as np
from gymnasium.wrappers import vector as vector_wrappers

from tests.bridges.helpers import needs, toy_envs
from tests.textenvs.helpers import Toy
from textenvs.wrappers import (
    VectorFlatIdsObservation,
    VectorOneHotObservation,
)


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


def test_ppo_runs_on_flat_ids() -> None:
    envs = vector_wrappers.RecordEpisodeStatistics(VectorFlatIdsObservation(toy_envs(4, autoreset_mode="SameStep")))
    assert np.isfinite(cleanrl_ppo(envs, 256))


def test_ppo_learns_on_one_hots() -> None:
    def count_a(example: Any, response: str) -> float:
        return response.count("a") / 4

    envs = toy_envs(16, autoreset_mode="SameStep", reward=count_a, task=Toy(train=("d",)))
    envs = vector_wrappers.RecordEpisodeStatistics(VectorOneHotObservation(envs))
    assert cleanrl_ppo(envs, 8_000) > 0.7  # a random policy gets 0.03
