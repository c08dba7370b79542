"""Rewards made of rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import Reward, Scorer, checked_score
from textenvs.tokenizer import Tokenizer


class WeightedSum(Reward):
    """A weighted sum of scores, each reported by name.

    Args:
        terms: Name to (weight, reward). Weights are finite and may be negative.

    Raises:
        ValueError: If there is no term, or a weight is not a finite number.
        TypeError: If a term's reward is no `Reward`.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        if not terms:
            raise ValueError("Expected at least one reward in a weighted sum, got none")
        self.terms = {name: _checked_term(name, weight, reward) for name, (weight, reward) in terms.items()}
        self.name = " + ".join(f"{weight:g} {name}" for name, (weight, _) in self.terms.items())
        # Without the terms of weight 0, which are there to be reported: 0 * inf is no bound.
        weighted = [(weight, reward) for weight, reward in self.terms.values() if weight]
        bounds = [sorted((weight * reward.low, weight * reward.high)) for weight, reward in weighted]
        self.low, self.high = sum((low for low, _ in bounds), 0.0), sum((high for _, high in bounds), 0.0)

    @property
    def parts(self) -> dict[str, Reward]:
        """The terms by name, unweighted."""
        return {name: reward for name, (_, reward) in self.terms.items()}

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        total = 0.0  # in the order of `push`, so that the two agree to the last bit where the terms do
        for weight, reward in self.terms.values():
            total += weight * checked_score(reward, example, response)
        return total

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _SumScorer(self, num_lanes, tokenizer)


def _checked_term(name: str, weight: Any, reward: Any) -> tuple[float, Reward]:
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise ValueError(f"Expected the weight of reward {name!r} to be a finite number, got {weight!r}")
    if not isinstance(reward, Reward):
        raise TypeError(f"Expected term {name!r} of a weighted sum to be a Reward, got {type(reward).__name__}")
    return float(weight), reward


class _SumScorer(Scorer):
    def __init__(self, reward: WeightedSum, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._scorers = {
            name: (weight, part.scorer(num_lanes, tokenizer)) for name, (weight, part) in reward.terms.items()
        }
        self._latest = {name: np.zeros(num_lanes) for name in self._scorers}

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for name, (_, scorer) in self._scorers.items():
            scorer.reset(lanes, examples)
            self._latest[name][lanes] = 0.0

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        total = np.zeros(len(lanes))
        for name, (weight, scorer) in self._scorers.items():
            phi = self._latest[name][lanes] = scorer.push(lanes, tokens)
            total += weight * phi
        return total

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        total = np.zeros(len(lanes))
        for name, (weight, scorer) in self._scorers.items():
            phi = self._latest[name][lanes] = scorer.score_whole(lanes, examples, responses)
            total += weight * phi
        return total

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        return {name: latest[lanes] for name, latest in self._latest.items()}
