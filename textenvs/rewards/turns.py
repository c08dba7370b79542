"""Scores of a conversation: the agent's turns are lines, since each EOS that ends one reads as a newline."""

from __future__ import annotations

import math
from typing import Any

from textenvs.example import Example
from textenvs.rewards.base import Reward, checked_score


class LastTurn(Reward):
    """Another score of the agent's last turn alone, less a price for every turn before it.

    What matters is the answer, and how long it took: `{"last_turn": {"reward": "exact_match", "cost": 0.1}}`. A newline
    at the very end begins no turn, so that the EOS which ends an episode changes nothing.

    Args:
        reward: What `textenvs.make_reward` takes.
        cost: The price of a turn, from 0.

    Raises:
        ValueError: If the cost is negative or not finite.

    From `reward.low` less the cost of all turns to `reward.high`. Cost: the last turn is read again at every token.
    """

    name = "last_turn"

    def __init__(self, reward: Any = "exact_match", cost: float = 0.0) -> None:
        from textenvs.rewards import make_reward  # the registry, which knows this class

        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost < math.inf:
            raise ValueError(f"Expected cost to be a finite number from 0, got {cost!r}")
        self.reward = make_reward(reward)
        self.cost = float(cost)
        self.low = -math.inf if cost else self.reward.low
        self.high = self.reward.high

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        turns = response.removesuffix("\n").split("\n")
        return checked_score(self.reward, example, turns[-1]) - self.cost * (len(turns) - 1)
