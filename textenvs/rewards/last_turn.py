"""Scores of a conversation. The agent's turns are the lines of its text: an EOS that ends a turn reads as a newline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_number
from textenvs.example import Example
from textenvs.rewards.base import Reward, Scorer, Wrapper, checked_score
from textenvs.rewards.registry import make_reward
from textenvs.tokenizer import Tokenizer, decode_bytes


class LastTurn(Wrapper):
    """Another score of the agent's last turn only, less a cost for every turn before it.

    For tasks in which the answer matters, and the number of turns: `{"last_turn": {"reward": "exact_match", "cost":
    0.1}}`. A newline at the very end begins no turn, so that the EOS which ends an episode changes nothing.

    Args:
        reward: The other score, in a form that `textenvs.make_reward` takes.
        cost: The number that is subtracted for every turn before the last, from 0.

    Raises:
        ValueError: If the cost is negative or not finite.
        TypeError: If the cost is not a number.

    From `reward.low` less the cost of all turns to `reward.high`. Cost: the last turn is read again at every token.
    """

    name = "last_turn"

    def __init__(self, reward: Any = "exact_match", cost: float = 0.0) -> None:
        self.cost = check_number("cost", cost, low=0)
        self.reward = make_reward(reward)
        super().__init__({self.name: self.reward})
        self.low = -math.inf if self.cost else self.reward.low
        self.high = self.reward.high

    def score(self, example: Example, response: str) -> float:
        """Scores the last line of a response."""
        turn, before = _last_turn(response)
        return checked_score(self.reward, example, turn) - self.cost * before

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that scores whole last turns."""
        return _LastTurnScorer(self, num_lanes, tokenizer)

    def wrapped(self, inner: Mapping[str, Reward]) -> Reward:
        """Returns the score of one part, without a cost of turns."""
        return LastTurn(inner[self.name])


class _LastTurnScorer(Scorer):
    """Gives whole last turns to the other score's scorer, which has the coefficients that the episodes began with."""

    def __init__(self, reward: LastTurn, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._cost = reward.cost
        self._inner = reward.reward.scorer(num_lanes, tokenizer)
        self._pieces = tokenizer.pieces
        self._data = [b""] * num_lanes
        self._examples: list[Example | None] = [None] * num_lanes
        self._phi = np.full(num_lanes, np.nan)  # nan until the first token after a reset

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._inner.reset(lanes, examples)
        self._phi[lanes] = np.nan
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._data[lane], self._examples[lane] = b"", example

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        pieces = [self._pieces[token] for token in tokens.tolist()]
        for lane, piece in zip(lanes.tolist(), pieces, strict=True):
            self._data[lane] += piece
        grown = lanes[np.array([bool(piece) for piece in pieces], dtype=np.bool_) | np.isnan(self._phi[lanes])]
        examples: list[Example] = []
        for lane in grown.tolist():
            example = self._examples[lane]
            if example is None:
                raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
            examples.append(example)
        if len(grown):
            texts = [decode_bytes(self._data[lane]) for lane in grown.tolist()]
            self._phi[grown] = self.score_whole(grown, examples, texts)
        return self._phi[lanes]

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        turns = [_last_turn(response) for response in responses]
        phi = self._inner.score_whole(lanes, examples, [turn for turn, _ in turns])
        return phi - self._cost * np.array([before for _, before in turns])

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        return self._inner.part_scores(lanes)


def _last_turn(response: str) -> tuple[str, int]:
    """Returns the last turn, and the number of turns before it."""
    turns = response.removesuffix("\n").split("\n")
    return turns[-1], len(turns) - 1
