"""The contract tests, for environments, tasks and rewards outside the project too.

from textenvs.testing import check_canaries, check_reward, check_task, check_vector_env
"""

from textenvs.testing.canaries import CanaryScores, canary_scores, check_canaries
from textenvs.testing.random_play import RandomPlay, play_randomly
from textenvs.testing.rewards import EXAMPLES, PAYOUTS, check_reward
from textenvs.testing.tasks import check_task
from textenvs.testing.vector_envs import check_vector_env

__all__ = [
    "EXAMPLES",
    "PAYOUTS",
    "CanaryScores",
    "RandomPlay",
    "canary_scores",
    "check_canaries",
    "check_reward",
    "check_task",
    "check_vector_env",
    "play_randomly",
]
