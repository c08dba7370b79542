"""Text generation as a token-level Markov decision process, behind the Gymnasium API.

import gymnasium as gym, textenvs
env = gym.make("TextGen-v0", reward="sentiment", payout="sparse")
envs = gym.make_vec("TextGen-v0", num_envs=256)
"""

from textenvs import testing
from textenvs.datasets import Dataset, factories, load_dataset
from textenvs.env import TextGenEnv
from textenvs.registration import list_envs, register_envs
from textenvs.rewards import Reward, RewardError, list_rewards, make_reward, register_reward
from textenvs.tasks import Example, ReferenceScores, Task, list_tasks, make_task, register_task
from textenvs.tokenizer import Tokenizer, make_tokenizer
from textenvs.vector_env import TextGenVectorEnv
from textenvs.wrappers import encoder_decoder

__version__ = "0.1.0"

register_envs()
register_task("dataset", Dataset)
for _name, _factory in factories().items():
    register_task(_name, _factory)

__all__ = [
    "Dataset",
    "Example",
    "ReferenceScores",
    "Reward",
    "RewardError",
    "Task",
    "TextGenEnv",
    "TextGenVectorEnv",
    "Tokenizer",
    "encoder_decoder",
    "list_envs",
    "list_rewards",
    "list_tasks",
    "load_dataset",
    "make_reward",
    "make_task",
    "make_tokenizer",
    "register_envs",
    "register_reward",
    "register_task",
    "testing",
]
