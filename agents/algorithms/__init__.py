"""Algorithms: siblings, each of which reads from top to bottom. Importing this makes all of them known by name."""

from agents.algorithms import actor_critic, best_of_n, grpo, ppo, reinforce

__all__ = ["actor_critic", "best_of_n", "grpo", "ppo", "reinforce"]
