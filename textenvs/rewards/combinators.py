"""Rewards made of rewards: sums, products, minima, gates, and weights that change over a training run.

Each is a formula over the scores of its inputs (`Combination.combine`), written once over arrays: `score` asks for one
text, the scorer for all lanes. An episode has one formula from its first token to its last. What changes over a run
(the weight of a schedule, the mean of a normaliser) changes between episodes: a lane latches the coefficients when it
is reset, and keeps them while `Reward.update` moves on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textenvs.rewards.base import Combination, PartScores, Reward, Scores, _final, _finite, _named
from textenvs.rewards.registry import make_reward


class Minimum(Combination):
    """The least of several scores, such as an ensemble's, which is hard to fool all at once.

    Args:
        of: Whose scores.

    Source: Coste et al. (2024), Reward model ensembles help mitigate overoptimization, arXiv:2310.02743: worst-case
        optimisation.
    """

    label = "min"

    def __init__(self, of: Sequence[Reward]) -> None:
        super().__init__(_named(of))
        self.name = f"min({', '.join(self.inputs)})"
        self.low = min(reward.low for reward in self.inputs.values())
        self.high = min(reward.high for reward in self.inputs.values())

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = scores.min(axis=0)
        return phi


class MeanMinusStd(Combination):
    """The mean of several scores less k standard deviations: where an ensemble is of two minds, it pays less.

    Args:
        of: Whose scores.
        k: How many standard deviations (of the ensemble as it is: divided by its size), from 0.

    Raises:
        ValueError: If k is negative or not finite.

    Source: Coste et al. (2024), arXiv:2310.02743: uncertainty-weighted optimisation, there with the variance.
    """

    label = "mean_minus_std"

    def __init__(self, of: Sequence[Reward], k: float = 1.0) -> None:
        super().__init__(_named(of))
        self.k = _finite("k of 'mean_minus_std'", k)
        if self.k < 0:
            raise ValueError(f"Expected k of 'mean_minus_std' to be at least 0, got {k}")
        self.name = f"mean({', '.join(self.inputs)}) - {self.k:g} std"
        lows, highs = zip(*((reward.low, reward.high) for reward in self.inputs.values()), strict=True)
        most_std = (max(highs) - min(lows)) / 2  # half of them at either end
        self.low = sum(lows) / len(lows) - (self.k * most_std if self.k else 0.0)
        self.high = sum(highs) / len(highs)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        mean, variance = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for score in scores:  # one after another: numpy's own sums depend on how many lanes there are, in the last bit
            mean += score
        mean /= len(scores)
        for score in scores:
            variance += (score - mean) ** 2
        return mean - self.k * np.sqrt(variance / len(scores))


class Gate(Combination):
    """A score that counts only where another is in a range.

    Args:
        reward: What is paid while the gate is open.
        by: What opens it.
        at_least: The least score of `by` that does; None: any.
        at_most: The largest; None: any.
        otherwise: What is paid while it is closed.

    Raises:
        ValueError: If neither bound is given, they are not in order, or a number is not finite.

    A hard gate pays at the token that opens it, and takes everything back at the one that closes it.
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
        super().__init__(_named([reward, by]))
        if at_least is None and at_most is None:
            raise ValueError("Expected at_least or at_most (or both) of 'gate', got neither")
        self.at_least = -math.inf if at_least is None else _finite("at_least of 'gate'", at_least)
        self.at_most = math.inf if at_most is None else _finite("at_most of 'gate'", at_most)
        if self.at_least > self.at_most:
            raise ValueError(f"Expected at_least <= at_most of 'gate', got {at_least} and {at_most}")
        self.otherwise = _finite("otherwise of 'gate'", otherwise)
        name, condition = self.inputs
        bounds = f"{self.at_least:g} <= " * (at_least is not None), f" <= {self.at_most:g}" * (at_most is not None)
        self.name = f"{name} where {condition.join(bounds)}"
        self.low, self.high = min(reward.low, self.otherwise), max(reward.high, self.otherwise)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        is_open = (scores[1] >= self.at_least) & (scores[1] <= self.at_most)
        return np.where(is_open, scores[0], self.otherwise)


class Clip(Combination):
    """A score kept within bounds.

    Args:
        reward: The score.
        low: The least to pay; None: no bound.
        high: The most to pay; None: no bound.

    Raises:
        ValueError: If neither bound is given, they are not in order, or one is not finite.
    """

    label = "clip"

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(_named([reward]))
        if low is None and high is None:
            raise ValueError("Expected low or high (or both) of 'clip', got neither")
        least = -math.inf if low is None else _finite("low of 'clip'", low)
        most = math.inf if high is None else _finite("high of 'clip'", high)
        if least > most:
            raise ValueError(f"Expected low <= high of 'clip', got {low} and {high}")
        self._bounds = least, most
        self.name = f"clip({next(iter(self.inputs))}, {least:g}, {most:g})"
        self.low, self.high = min(max(reward.low, least), most), min(max(reward.high, least), most)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = np.clip(scores[0], *self._bounds)
        return phi


class Normalised(Combination):
    """A score in units of its own spread: (score - mean) / standard deviation of the final scores so far.

    Before the first `update` it changes nothing. The mean and deviation are those of all finished episodes that it was
    told of, so that they move less and less.

    Args:
        reward: The score.
        centre: Whether to take the mean off. It is then paid (negative) with the first token.
        least_std: What a smaller standard deviation is taken for; above 0.

    Raises:
        ValueError: If `least_std` is not a number above 0.

    Source: Chan, Golub & LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances,
        equation 2.1b: how a batch joins the batches before it.
    """

    label = "normalised"

    def __init__(self, reward: Reward, centre: bool = True, least_std: float = 1e-3) -> None:
        super().__init__(_named([reward]))
        if not isinstance(centre, bool):
            raise TypeError(f"Expected centre of 'normalised' to be true or false, got {centre!r}")
        self.centre = centre
        self.least_std = _finite("least_std of 'normalised'", least_std)
        if self.least_std <= 0:
            raise ValueError(f"Expected least_std of 'normalised' to be above 0, got {least_std}")
        self.name = f"normalised({next(iter(self.inputs))})"
        self._count, self._mean, self._variance = 0, 0.0, 1.0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """What is taken off, and what the rest is divided by."""
        return self._mean if self.centre else 0.0, max(math.sqrt(self._variance), self.least_std)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = (scores[0] - coefficients[0]) / coefficients[1]
        return phi

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """See `Reward.update`."""
        if scores is not None:
            final = _final(scores, next(iter(self.inputs)))
            if len(final):
                self._join(len(final), float(final.mean()), float(final.var()))
        super().update(progress=progress, scores=scores)

    def _join(self, count: int, mean: float, variance: float) -> None:
        if not self._count:
            self._count, self._mean, self._variance = count, mean, variance
            return
        total = self._count + count
        apart = mean - self._mean
        share = count / total
        self._variance += share * (variance - self._variance) + share * (1 - share) * apart * apart
        self._mean += share * apart
        self._count = total

    def own_state(self) -> dict[str, Any]:
        """See `Combination.own_state`."""
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """See `Combination.load_own_state`."""
        self._count, self._mean = int(state["count"]), float(state["mean"])
        self._variance = float(state["variance"])

    @property
    def changing(self) -> dict[str, float]:
        """See `Reward.changing`."""
        return {"mean": self._mean, "std": math.sqrt(self._variance), **super().changing}


def guard(
    reward: Reward,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    otherwise: float | None = None,
) -> Reward:
    """A reward behind gates: it is paid only while every cap and every floor holds.

    Args:
        reward: What is paid.
        at_most: Name of a reward to its cap: `{"repetition": 0.3, "copying": 0.5}`.
        at_least: Name of a reward to its floor.
        otherwise: What is paid while one does not hold. None takes the least that the reward can be, so that to break
            a cap is never better than to write badly.

    Returns:
        Gates, one in the other.

    Raises:
        ValueError: If no cap and no floor is given, a name is unknown, or the reward has no least score and `otherwise`
            is None.
    """
    if not at_most and not at_least:
        raise ValueError("Expected at_most or at_least (or both) of 'guard', got neither")
    if otherwise is None:
        if not math.isfinite(reward.low):
            raise ValueError(
                f"Expected otherwise=, what to pay while a guard of reward {reward.name!r} does not hold, since that "
                "reward has no least score to take"
            )
        otherwise = reward.low
    for name, bound in (at_most or {}).items():
        reward = Gate(reward, make_reward(name), at_most=bound, otherwise=otherwise)
    for name, bound in (at_least or {}).items():
        reward = Gate(reward, make_reward(name), at_least=bound, otherwise=otherwise)
    return reward


def minimum(*rewards: Any) -> Reward:
    """The least of some scores: what `min` would be, were it not taken.

    Args:
        *rewards: Each as `make_reward` takes it.

    Returns:
        The reward `{"min": [...]}`.
    """
    return Minimum([make_reward(one) for one in rewards])
