"""The contract, as checks that anybody can run on a reward, a task or a vector environment of their own.

    from textenvs.testing import check_canaries, check_reward, check_task, check_vector_env, search
    check_reward(MyReward())
    check_task(MyTask())
    check_canaries(MyTask(), MyReward())
    check_vector_env("MyEnv-v0")
    search("MyEnv-v0").beating    # the texts that a score overrates

A check passes silently, or raises with the first broken promise that it meets.
"""

from textenvs.testing.canaries import CanaryScores, canary_scores, check_canaries
from textenvs.testing.played_texts import TextPlayer
from textenvs.testing.random_play import RandomPlay, play_randomly
from textenvs.testing.rewards import EXAMPLES, PAYOUTS, check_reward
from textenvs.testing.search import Finding, SearchResult, search
from textenvs.testing.tasks import check_task
from textenvs.testing.vector_envs import check_vector_env

__all__ = [
    "EXAMPLES",
    "PAYOUTS",
    "CanaryScores",
    "Finding",
    "RandomPlay",
    "SearchResult",
    "TextPlayer",
    "canary_scores",
    "check_canaries",
    "check_reward",
    "check_task",
    "check_vector_env",
    "play_randomly",
    "search",
]
