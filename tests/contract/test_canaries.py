"""No id's own reward likes a degenerate response as much as a demonstration. A new id is held to it as it is there."""

import gymnasium as gym
import pytest

import textenvs
from textenvs.testing import check_canaries

ALIVE = {
    "sentiment": "a mean over words has no sense of order or repetition: one happy word repeated beats a happy story",
    "exact_length": "any word of the right length does this task, so that repeating a letter is no hack",
}
"""Default rewards that are known to let a canary live, and why. They are reported, and not excused."""


@pytest.mark.parametrize("env_id", textenvs.list_envs())
def test_the_default_reward_puts_every_canary_below_a_demonstration(
    env_id: str, request: pytest.FixtureRequest
) -> None:
    setting = gym.make(env_id).unwrapped.setting
    if setting.reward.name in ALIVE:
        request.applymarker(pytest.mark.xfail(reason=ALIVE[setting.reward.name], strict=True, raises=AssertionError))
    check_canaries(setting.task, setting.reward)
