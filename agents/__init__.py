"""Agents that learn to write: REINFORCE, actor-critic and GAE-PPO on Transformers models.

Example:
    from agents import PPO, Policy

    agent = PPO(Policy.from_pretrained("tiny"), "TextGen-v0", seed=0)
    agent.learn(total_timesteps=100_000)
"""

import os

# Before torch is imported: its threads then sleep while they wait for each other. Spinning, which is the default, takes
# the cores from whatever else runs, and beside one busy process makes small models up to twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from agents.algorithms.actor_critic import ActorCritic, ActorCriticConfig
from agents.algorithms.best_of_n import BestOfN, BestOfNConfig
from agents.algorithms.ppo import PPO, PPOConfig
from agents.algorithms.reinforce import REINFORCE, REINFORCEConfig
from agents.collector import collect
from agents.evaluation.evaluation import Evaluation, evaluate
from agents.policy.policy import Policy
from agents.rewards import network_reward as scores  # registers them with textenvs
from agents.rollout import Rollout
from agents.supervised.sft import SFTConfig, fine_tune
from agents.training.agent import Agent, Algorithm, load

__all__ = [
    "PPO",
    "REINFORCE",
    "ActorCritic",
    "ActorCriticConfig",
    "Agent",
    "Algorithm",
    "BestOfN",
    "BestOfNConfig",
    "Evaluation",
    "PPOConfig",
    "Policy",
    "REINFORCEConfig",
    "Rollout",
    "SFTConfig",
    "collect",
    "evaluate",
    "fine_tune",
    "load",
    "scores",
]
