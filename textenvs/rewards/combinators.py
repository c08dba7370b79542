"""Formulas over other rewards' scores, by name: minima, gates, bounds, normalisers.

`textenvs.rewards.arithmetic` has their base class, `Combination`, and those that operators make.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textenvs.arguments import check_flag, check_number
from textenvs.rewards.arithmetic import Combination, Scores, by_name, final_scores
from textenvs.rewards.base import PartScores, Reward
from textenvs.rewards.registry import make_reward


class Minimum(Combination):
    """The least of several scores, such as those of an ensemble, which is hard to fool all at once.

    Args:
        of: The rewards.

    Source: Coste et al. (2024), Reward model ensembles help mitigate overoptimization, arXiv:2310.02743: worst-case
        optimisation.
    """

    label = "min"

    def __init__(self, of: Sequence[Reward]) -> None:
        super().__init__(by_name(of))
        self.name = f"min({', '.join(self.inputs)})"
        self.low = min(reward.low for reward in self.inputs.values())
        self.high = min(reward.high for reward in self.inputs.values())

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Takes the least score."""
        phi: Scores = scores.min(axis=0)
        return phi


class MeanMinusStd(Combination):
    """The mean of several scores less k standard deviations, so that it pays less where an ensemble disagrees.

    Args:
        of: The rewards.
        k: The number of standard deviations, from 0. The deviation is the population's: divided by the number of
            rewards.

    Raises:
        ValueError: If k is negative or not finite.
        TypeError: If k is not a number.

    Source: Coste et al. (2024), arXiv:2310.02743: uncertainty-weighted optimisation, there with the variance.
    """

    label = "mean_minus_std"

    def __init__(self, of: Sequence[Reward], k: float = 1.0) -> None:
        super().__init__(by_name(of))
        self.k = check_number("k of 'mean_minus_std'", k, low=0)
        self.name = f"mean({', '.join(self.inputs)}) - {self.k:g} std"
        lows, highs = zip(*((reward.low, reward.high) for reward in self.inputs.values()), strict=True)
        most_std = (max(highs) - min(lows)) / 2  # with half of the scores at either end
        self.low = sum(lows) / len(lows) - (self.k * most_std if self.k else 0.0)
        self.high = sum(highs) / len(highs)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Takes the mean less k standard deviations."""
        mean, variance = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for score in scores:  # a loop, since numpy's own sums differ in the last bit with the number of lanes
            mean += score
        mean /= len(scores)
        for score in scores:
            variance += (score - mean) ** 2
        return mean - self.k * np.sqrt(variance / len(scores))


class Gate(Combination):
    """A score that counts only where another is in a range.

    Args:
        reward: The score that is paid while the gate is open.
        by: The score that opens the gate.
        at_least: The least score of `by` that opens it; None: no bound.
        at_most: The largest score of `by` that opens it; None: no bound.
        otherwise: The number that is paid while the gate is closed.

    Raises:
        ValueError: If no bound is given, the bounds are not in order, or a number is not finite.
        TypeError: If one of them is not a number.

    With an immediate payout, the whole score is paid at the token that opens the gate, and taken back at the token that
    closes it.
    """

    label = "gate"

    def __init__(
        self,
        reward: Reward,
        by: Reward,
        at_least: float | None = None,
        at_most: float | None = None,
        otherwise: float = 0.0,
    ) -> None:
        super().__init__(by_name([reward, by]))
        if at_least is None and at_most is None:
            raise ValueError("Expected at_least or at_most (or both) of 'gate', got neither")
        self.at_least = -math.inf if at_least is None else check_number("at_least of 'gate'", at_least)
        self.at_most = math.inf if at_most is None else check_number("at_most of 'gate'", at_most)
        if self.at_least > self.at_most:
            raise ValueError(f"Expected at_least <= at_most of 'gate', got {at_least} and {at_most}")
        self.otherwise = check_number("otherwise of 'gate'", otherwise)
        name, condition = self.inputs
        bounds = f"{self.at_least:g} <= " * (at_least is not None), f" <= {self.at_most:g}" * (at_most is not None)
        self.name = f"{name} where {condition.join(bounds)}"
        self.low, self.high = min(reward.low, self.otherwise), max(reward.high, self.otherwise)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Passes the score on where the gate is open."""
        is_open = (scores[1] >= self.at_least) & (scores[1] <= self.at_most)
        return np.where(is_open, scores[0], self.otherwise)


class Clip(Combination):
    """A score kept within bounds.

    Args:
        reward: The score.
        low: The least to pay; None: no bound.
        high: The most to pay; None: no bound.

    Raises:
        ValueError: If no bound is given, the bounds are not in order, or a bound is not finite.
        TypeError: If a bound is not a number.
    """

    label = "clip"

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(by_name([reward]))
        if low is None and high is None:
            raise ValueError("Expected low or high (or both) of 'clip', got neither")
        least = -math.inf if low is None else check_number("low of 'clip'", low)
        most = math.inf if high is None else check_number("high of 'clip'", high)
        if least > most:
            raise ValueError(f"Expected low <= high of 'clip', got {low} and {high}")
        self._bounds = least, most
        self.name = f"clip({next(iter(self.inputs))}, {least:g}, {most:g})"
        self.low, self.high = min(max(reward.low, least), most), min(max(reward.high, least), most)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Keeps the score within the bounds."""
        phi: Scores = np.clip(scores[0], *self._bounds)
        return phi


class Normalised(Combination):
    """A score in units of its own spread: (score - mean) / standard deviation of the final scores so far.

    The mean and deviation are those of all finished episodes that `update` was given, so they move less and less.
    Before the first `update`, the score is paid as it is.

    Args:
        reward: The score.
        centre: If True, the mean is subtracted. Minus the mean is then paid with the first token.
        least_std: The least standard deviation to divide by; above 0.

    Raises:
        ValueError: If `least_std` is not above 0.
        TypeError: If `least_std` is not a number, or `centre` not a bool.

    Source: Chan, Golub & LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances,
        equation 2.1b, which adds a batch to the batches before it.
    """

    label = "normalised"

    def __init__(self, reward: Reward, centre: bool = True, least_std: float = 1e-3) -> None:
        super().__init__(by_name([reward]))
        self.centre = check_flag("centre of 'normalised'", centre)
        self.least_std = check_number("least_std of 'normalised'", least_std, low=0, open_low=True)
        self.name = f"normalised({next(iter(self.inputs))})"
        self._count, self._mean, self._variance = 0, 0.0, 1.0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The mean to subtract, and the standard deviation to divide by."""
        return self._mean if self.centre else 0.0, max(math.sqrt(self._variance), self.least_std)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Subtracts the mean and divides by the standard deviation."""
        phi: Scores = (scores[0] - coefficients[0]) / coefficients[1]
        return phi

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Adds the final scores to the mean and deviation, and advances the input."""
        if scores is not None:
            final = final_scores(scores, next(iter(self.inputs)))
            if len(final):
                self._add_batch(len(final), float(final.mean()), float(final.var()))
        super().update(progress=progress, scores=scores)

    def _add_batch(self, count: int, mean: float, variance: float) -> None:
        if not self._count:
            self._count, self._mean, self._variance = count, mean, variance
            return
        total = self._count + count
        difference = mean - self._mean
        share = count / total
        self._variance += share * (variance - self._variance) + share * (1 - share) * difference * difference
        self._mean += share * difference
        self._count = total

    def own_state(self) -> dict[str, Any]:
        """Returns the number, mean and variance of the scores so far."""
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restores the number, mean and variance of the scores."""
        self._count, self._mean = int(state["count"]), float(state["mean"])
        self._variance = float(state["variance"])

    @property
    def changing(self) -> dict[str, float]:
        """The mean and standard deviation now, and the changing numbers of the input."""
        return {"mean": self._mean, "std": math.sqrt(self._variance), **super().changing}


def guard(
    reward: Reward,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    otherwise: float | None = None,
) -> Reward:
    """Puts a reward behind gates: it is paid only while every cap and every floor holds.

    Args:
        reward: The score that is paid.
        at_most: Name of a reward to its cap: `{"repetition": 0.3, "copying": 0.5}`.
        at_least: Name of a reward to its floor.
        otherwise: The number that is paid while a cap or floor does not hold. None takes the reward's least score, so
            that breaking a cap never pays more than writing badly.

    Returns:
        The reward, in one gate for each bound.

    Raises:
        ValueError: If no bound is given, a name is unknown, or `otherwise` is None and the reward has no least score.
    """
    if not at_most and not at_least:
        raise ValueError("Expected at_most or at_least (or both) of 'guard', got neither")
    if otherwise is None:
        if not math.isfinite(reward.low):
            raise ValueError(
                f"Expected otherwise=, the number to pay while a guard of reward {reward.name!r} does not hold, since "
                "that reward has no least score to take"
            )
        otherwise = reward.low
    for name, bound in (at_most or {}).items():
        reward = Gate(reward, make_reward(name), at_most=bound, otherwise=otherwise)
    for name, bound in (at_least or {}).items():
        reward = Gate(reward, make_reward(name), at_least=bound, otherwise=otherwise)
    return reward


def minimum(*rewards: Any) -> Reward:
    """Takes the least of some scores. Python's own `min` would compare the rewards instead.

    Args:
        *rewards: The rewards, each in a form that `make_reward` takes.

    Returns:
        The reward `{"min": [...]}`.
    """
    return Minimum([make_reward(reward) for reward in rewards])
