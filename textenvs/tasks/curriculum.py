"""A curriculum: examples become harder as the success rate rises.

    gym.make("TextGen/Copy-v0", curriculum=True)
    gym.make_vec("TextGen/Copy-v0", num_envs=64, curriculum={"raise_at": 0.9, "lower_at": 0.3})

The examples of all levels lie in one pool, and an episode draws from those of the level in force, and now and then from
an easier one. What was drawn depends on the successes before, so a curriculum's environment is no Markov decision
process over its lifetime: see `Curriculum` for what a seed still decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """When a level is over."""

    raise_at: float = 0.8
    """The success rate from which the next level begins."""
    lower_at: float | None = None
    """The success rate below which the level before begins again; None: levels never fall."""
    window: int = 200
    """Over how many of the level's latest episodes the rate is taken. Before there are as many, nothing moves."""
    review: float = 0.2
    """The share of episodes that are drawn from the easier levels, against forgetting. They do not count."""
    success_at: float | None = None
    """The score from which an episode counts as a success here; None: the environment's own `success_at`."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        for name in ("raise_at", "lower_at", "review", "success_at"):
            value = getattr(self, name)
            if value is None and name in ("lower_at", "success_at"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Expected the curriculum's {name} to be a number, got {value!r}")
        if not 0 < self.raise_at <= 1:
            raise ValueError(f"Expected the curriculum's raise_at in (0, 1], got {self.raise_at}")
        if self.lower_at is not None and not 0 <= self.lower_at < self.raise_at:
            raise ValueError(
                f"Expected the curriculum's lower_at from 0 to below raise_at={self.raise_at}, got {self.lower_at}"
            )
        if not 0 <= self.review < 1:
            raise ValueError(f"Expected the curriculum's review in [0, 1), got {self.review}")
        if isinstance(self.window, bool) or not isinstance(self.window, int):
            raise TypeError(f"Expected the curriculum's window to be a whole number, got {self.window!r}")
        if self.window < 1:
            raise ValueError(f"Expected the curriculum's window to be at least 1, got {self.window}")

    @classmethod
    def of(cls, settings: bool | Mapping[str, Any]) -> CurriculumConfig:
        """A config as an environment's `curriculum` says it.

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
    """Which examples episodes draw, from how the episodes before went.

    What a seed decides: an episode's draw is a pure function of (seed + lane, episode, level in force), so with the
    same level, lane i draws what a single environment seeded s + i draws, and `reset(seed=)` goes on at the level in
    force. The level is a function of the episodes that ended: the same seed, actions and state give the same run. It
    moves where lanes are reset, never inside an episode; where lanes form groups, only when all of them are reset
    together, so that no group has two levels.

    Args:
        levels: `(examples,)` whole numbers, the level of each example of the pool.
        config: When a level is over.

    Attributes:
        levels: The levels that there are, the easiest first.
        level: The level in force.

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
        found, first = np.unique(self._level_of[self._order], return_index=True)
        self.levels: tuple[int, ...] = tuple(found.tolist())
        self._first = (*first.tolist(), len(self._order))  # where in the order each level begins, and the end
        self.level = self.levels[0]
        self._outcomes: deque[bool] = deque(maxlen=config.window)

    @property
    def success_rate(self) -> float | None:
        """The share of successes over the latest episodes of the level in force, at most a window; None without any."""
        return sum(self._outcomes) / len(self._outcomes) if self._outcomes else None

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places in the pool, from random bits.

        Args:
            bits: `(k,)` uint64, uniform. The upper half finds a place, and the lower half says whether it is a review.

        Returns:
            `(k,)` int64.
        """
        rank = self.levels.index(self.level)
        first, end = self._first[rank], self._first[rank + 1]
        upper, lower = bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)
        review = (lower < np.uint64(int(self.config.review * 2**32))) & (first > 0)
        size = np.where(review, first, end - first).astype(np.uint64)
        places = (upper * size >> np.uint64(32)).astype(np.int64) + np.where(review, 0, first)
        drawn: NDArray[np.int64] = self._order[places]
        return drawn

    def record(self, places: Sequence[int] | NDArray[np.int64], scores: Sequence[float] | NDArray[np.float64]) -> None:
        """Tell how episodes ended. Those of other levels than the one in force do not count.

        Args:
            places: `(k,)` the places of their examples in the pool.
            scores: `(k,)` their final scores.
        """
        scores = np.asarray(scores, dtype=np.float64)
        counted = self._level_of[np.asarray(places, dtype=np.int64)] == self.level
        self._outcomes.extend((scores[counted] >= self._success_at).tolist())

    def settle(self) -> None:
        """Move on to the next level, or back to the one before, where the success rate asks for it."""
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
            self._outcomes.clear()

    def state_dict(self) -> dict[str, Any]:
        """The level and what counts towards the next one, as JSON values."""
        return {"level": self.level, "outcomes": [int(one) for one in self._outcomes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state.

        Args:
            state: What `state_dict` of a curriculum over the same levels gave.

        Raises:
            ValueError: If it is another curriculum's.
        """
        level, outcomes = state.get("level"), state.get("outcomes")
        if level not in self.levels or not isinstance(outcomes, list):
            raise ValueError(f"Expected the state of a curriculum over levels {list(self.levels)}, got {dict(state)!r}")
        self.level = level
        self._outcomes = deque(map(bool, outcomes), maxlen=self.config.window)
