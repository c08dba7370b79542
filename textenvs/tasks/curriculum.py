"""A curriculum: examples become harder as the success rate rises.

    gym.make("TextGen/Copy-v0", curriculum=True)
    gym.make_vec("TextGen/Copy-v0", num_envs=64, curriculum={"raise_at": 0.9, "lower_at": 0.3})

The examples of all levels are in one pool. An episode draws from those of the current level, and now and then from
those of an easier one. Draws depend on earlier successes, so an environment with a curriculum is not a Markov decision
process over its lifetime; `Curriculum` says what a seed decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count, check_number


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """The conditions at which the level changes."""

    raise_at: float = 0.8
    """The success rate from which the next level begins."""
    lower_at: float | None = None
    """The success rate below which the level before begins again. If None, the level never falls."""
    window: int = 200
    """The number of latest episodes of the level that the rate is over. With fewer, the level does not change."""
    review: float = 0.2
    """The share of episodes that are drawn from the easier levels, against forgetting. They do not count."""
    success_at: float | None = None
    """The score from which an episode counts as a success. If None, the environment's own `success_at`."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        check_number("the curriculum's raise_at", self.raise_at, low=0, high=1, open_low=True)
        lower_name = f"the curriculum's lower_at, below raise_at={self.raise_at},"
        check_number(lower_name, self.lower_at, low=0, high=self.raise_at, open_high=True, optional=True)
        check_number("the curriculum's review", self.review, low=0, high=1, open_high=True)
        check_number("the curriculum's success_at", self.success_at, optional=True)
        # A deque of this length takes no whole number of NumPy's.
        object.__setattr__(self, "window", check_count("the curriculum's window", self.window))

    @classmethod
    def of(cls, settings: bool | Mapping[str, Any]) -> CurriculumConfig:
        """Makes a config of an environment's argument `curriculum`.

        Args:
            settings: True for the defaults, or some of the fields.

        Returns:
            The config.

        Raises:
            TypeError: If it is neither, or a field is unknown or of the wrong type.
            ValueError: If a number is out of range.
        """
        if settings is True:
            return cls()
        if not isinstance(settings, Mapping):
            raise TypeError(f"Expected curriculum to be True, None or a dict of settings, got {settings!r}")
        known = list(cls.__dataclass_fields__)
        if unknown := [name for name in settings if name not in known]:
            raise TypeError(f"Expected settings of the curriculum from {known}, got {unknown}")
        return cls(**settings)


class Curriculum:
    """Draws examples of a level that depends on the success of earlier episodes.

    What a seed decides: an episode's draw is a pure function of (seed + lane, episode, current level). So at the same
    level, lane i draws the example that a single environment seeded s + i draws, and `reset(seed=)` goes on at the
    current level. The level is a function of the episodes that have ended: the same seed, actions and state give the
    same run. It changes where lanes are reset, never inside an episode; if lanes form groups, only when all lanes are
    reset together, so that no group has two levels.

    Args:
        levels: `(examples,)` whole numbers, the level of each example of the pool.
        config: The conditions at which the level changes.

    Attributes:
        levels: All levels, the easiest first.
        level: The current level.

    Example:
        >>> curriculum = Curriculum([1, 1, 2], CurriculumConfig(window=2, success_at=1.0))
        >>> curriculum.record([0, 1], [1.0, 1.0])
        >>> curriculum.settle()
        >>> curriculum.level
        2
    """

    def __init__(self, levels: Sequence[int] | NDArray[np.int64], config: CurriculumConfig) -> None:
        if config.success_at is None:
            raise ValueError(
                "Expected a curriculum to know which score is a success, got a task that does not say so for this "
                "reward: success_at=..., or curriculum={'success_at': ...}"
            )
        self.config = config
        self._success_at = config.success_at
        self._level_of = np.asarray(levels, dtype=np.int64)
        self._order = np.argsort(self._level_of, kind="stable")
        distinct, first = np.unique(self._level_of[self._order], return_index=True)
        self.levels: tuple[int, ...] = tuple(distinct.tolist())
        self._first = (*first.tolist(), len(self._order))  # the index in the order at which each level begins, and ends
        self.level = self.levels[0]
        self._outcomes: deque[bool] = deque(maxlen=config.window)

    @property
    def success_rate(self) -> float | None:
        """The share of successes over the latest episodes of the current level, at most a window; None without any."""
        return sum(self._outcomes) / len(self._outcomes) if self._outcomes else None

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Draws examples of the current level, or of easier ones for a review.

        Args:
            bits: `(k,)` uint64, uniform. The upper half picks the example; the lower half decides if it is a review.

        Returns:
            `(k,)` int64, indices into the pool.
        """
        rank = self.levels.index(self.level)
        first, end = self._first[rank], self._first[rank + 1]
        # One random number for both choices, so that a draw stays a function of (seed + lane, episode) and the level.
        upper, lower = bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)
        review = (lower < np.uint64(int(self.config.review * 2**32))) & (first > 0)
        size = np.where(review, first, end - first).astype(np.uint64)
        # The easier levels are before `first` in the order, so a review draws from the beginning of it.
        positions = (upper * size >> np.uint64(32)).astype(np.int64) + np.where(review, 0, first)
        drawn: NDArray[np.int64] = self._order[positions]
        return drawn

    def record(self, indices: Sequence[int] | NDArray[np.int64], scores: Sequence[float] | NDArray[np.float64]) -> None:
        """Records the outcomes of episodes. Episodes of other levels than the current one do not count.

        Args:
            indices: `(k,)` the indices of their examples in the pool.
            scores: `(k,)` their final scores.
        """
        scores = np.asarray(scores, dtype=np.float64)
        counted = self._level_of[np.asarray(indices, dtype=np.int64)] == self.level
        self._outcomes.extend((scores[counted] >= self._success_at).tolist())

    def settle(self) -> None:
        """Changes the level if the success rate asks for it: to the next one, or to the one before."""
        rate = self.success_rate
        if rate is None or len(self._outcomes) < self.config.window:
            return
        rank = self.levels.index(self.level)
        if rate >= self.config.raise_at:
            rank += 1
        elif self.config.lower_at is not None and rate < self.config.lower_at:
            rank -= 1
        if 0 <= rank < len(self.levels) and self.levels[rank] != self.level:
            self.level = self.levels[rank]
            self._outcomes.clear()  # the rate of the new level is over its own episodes

    def state_dict(self) -> dict[str, Any]:
        """Returns the level and the outcomes that count towards the next one, as JSON values."""
        return {"level": self.level, "outcomes": [int(success) for success in self._outcomes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: A state that `state_dict` of a curriculum over the same levels returned.

        Raises:
            ValueError: If it is the state of another curriculum.
        """
        level, outcomes = state.get("level"), state.get("outcomes")
        if level not in self.levels or not isinstance(outcomes, list):
            raise ValueError(f"Expected the state of a curriculum over levels {list(self.levels)}, got {dict(state)!r}")
        self.level = level
        self._outcomes = deque(map(bool, outcomes), maxlen=self.config.window)
