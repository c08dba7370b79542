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

from agents import scores  # registers them with textenvs
from agents.actor_critic import ActorCritic, ActorCriticConfig
from agents.best_of_n import BestOfN, BestOfNConfig
from agents.evaluation import Evaluation, evaluate
from agents.policy import Policy
from agents.ppo import PPO, PPOConfig
from agents.reinforce import REINFORCE, REINFORCEConfig
from agents.rollout import Rollout, collect
from agents.sft import SFTConfig, fine_tune
from agents.training import Agent, Algorithm, load

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
