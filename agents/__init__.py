"""Agents that learn to write: REINFORCE, actor-critic and GAE-PPO on Transformers models.

Example:
    from agents import PPO, Policy

    agent = PPO(Policy.from_pretrained("tiny"), "TextGen-v0", seed=0)
    agent.learn(total_timesteps=100_000)

`import agents` is quick: each name below is imported, and torch with it, when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from textenvs import register_reward

# Before torch is imported: its threads then sleep while they wait for each other. Spinning, which is the default, takes
# the cores from whatever else runs, and beside one busy process makes small models up to twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from agents import advantages, bonuses, losses, rewards
    from agents.algorithms.actor_critic import ActorCritic, ActorCriticConfig
    from agents.algorithms.best_of_n import BestOfN, BestOfNConfig
    from agents.algorithms.grpo import GRPO, GRPOConfig
    from agents.algorithms.ppo import PPO, PPOConfig
    from agents.algorithms.published import PUBLISHED
    from agents.algorithms.reinforce import REINFORCE, REINFORCEConfig
    from agents.collector import collect
    from agents.evaluation.evaluation import Evaluation, evaluate
    from agents.policy.policy import Policy
    from agents.rollout import Rollout
    from agents.supervised.configs import SFTConfig
    from agents.supervised.sft import fine_tune
    from agents.training.agent import Agent, Algorithm, load

_MODULES = {
    "ActorCritic": "agents.algorithms.actor_critic",
    "ActorCriticConfig": "agents.algorithms.actor_critic",
    "Agent": "agents.training.agent",
    "Algorithm": "agents.training.agent",
    "BestOfN": "agents.algorithms.best_of_n",
    "BestOfNConfig": "agents.algorithms.best_of_n",
    "Evaluation": "agents.evaluation.evaluation",
    "GRPO": "agents.algorithms.grpo",
    "GRPOConfig": "agents.algorithms.grpo",
    "PPO": "agents.algorithms.ppo",
    "PPOConfig": "agents.algorithms.ppo",
    "PUBLISHED": "agents.algorithms.published",
    "Policy": "agents.policy.policy",
    "REINFORCE": "agents.algorithms.reinforce",
    "REINFORCEConfig": "agents.algorithms.reinforce",
    "Rollout": "agents.rollout",
    "SFTConfig": "agents.supervised.configs",
    "collect": "agents.collector",
    "evaluate": "agents.evaluation.evaluation",
    "fine_tune": "agents.supervised.sft",
    "load": "agents.training.agent",
}
"""Public name to the module that it is imported from."""

_SUBMODULES = ("advantages", "bonuses", "losses", "rewards")
"""Modules that can be used without an import of their own: `agents.advantages.gae`."""

_SCORES = {
    "bertscore": "agents.rewards.bertscore:BERTScore",
    "classifier": "agents.rewards.classifier:ClassifierScore",
    "dpo": "agents.rewards.preference:LogRatioScore",
    "lm": "agents.rewards.language_model:LanguageModelScore",
    "preference": "agents.rewards.preference:PreferenceScore",
}
"""Name of a score that needs a network to its entry point."""

for _name, _entry_point in _SCORES.items():
    register_reward(_name, _entry_point)

__all__ = [
    "GRPO",
    "PPO",
    "PUBLISHED",
    "REINFORCE",
    "ActorCritic",
    "ActorCriticConfig",
    "Agent",
    "Algorithm",
    "BestOfN",
    "BestOfNConfig",
    "Evaluation",
    "GRPOConfig",
    "PPOConfig",
    "Policy",
    "REINFORCEConfig",
    "Rollout",
    "SFTConfig",
    "advantages",
    "bonuses",
    "collect",
    "evaluate",
    "fine_tune",
    "load",
    "losses",
    "rewards",
]

# Type checkers do not see these, so that they report a name that there is not.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports a public name when it is first used (PEP 562)."""
        if name in _SUBMODULES:
            return import_module(f"agents.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module 'agents' has no attribute {name!r}")
        # An algorithm is known by its name, to `load` say, from when it is imported.
        import_module("agents.algorithms")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value  # so that this function is asked once
        return value

    def __dir__() -> list[str]:
        """The names of the module, those that are not imported yet among them."""
        return sorted({*globals(), *__all__})
