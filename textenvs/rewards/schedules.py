"""Weights that change over a training run: with its progress (`Schedule`), or to keep a bound (`Constraint`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import pairwise
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice, check_number


class Schedule:
    """A weight as a function of the training progress.

    Args:
        points: (progress, weight) pairs, progress from 0 to 1 and rising. Before the first point and after the last,
            the weight is constant.
        shape: The curve from one point to the next: "linear", or "cosine", which begins and ends level.

    Raises:
        ValueError: If there is no point, progress does not rise from 0 to 1, or a number is not finite.

    Attributes:
        value: The current weight.
        span: The smallest and the largest weight over the run.

    Example:
        >>> schedule = Schedule([(0, 0), (1, 1)])
        >>> schedule.update(0.25)
        >>> schedule.value
        0.25
    """

    def __init__(self, points: Sequence[Sequence[float]], shape: str = "linear") -> None:
        self.shape = check_choice("the shape of a schedule", shape, ("linear", "cosine"))
        if not points or not all(_is_pair(point) for point in points):
            raise ValueError(f"Expected the points of a schedule as [[progress, weight], ...], got {points!r}")
        self.points = tuple((float(progress), float(weight)) for progress, weight in points)
        times = [progress for progress, _ in self.points]
        if times[0] < 0 or times[-1] > 1 or any(earlier >= later for earlier, later in pairwise(times)):
            raise ValueError(f"Expected the progress of a schedule's points to rise, from 0 to 1, got {times}")
        weights = [weight for _, weight in self.points]
        self.span = (min(weights), max(weights))
        self.value = weights[0]

    def update(self, progress: float) -> None:
        """Sets the weight of a time of the training.

        Args:
            progress: The share of the training that is over, from 0 to 1.

        Raises:
            ValueError: If it is outside.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"Expected the progress of training from 0 to 1, got {progress}")
        (time, weight), *later_points = self.points
        for next_time, next_weight in later_points:
            if progress <= time:
                break
            if progress < next_time:
                share = (progress - time) / (next_time - time)
                if self.shape == "cosine":
                    share = (1 - math.cos(math.pi * share)) / 2
                weight += share * (next_weight - weight)
                break
            time, weight = next_time, next_weight
        self.value = weight

    def __str__(self) -> str:
        """Writes its shape and weights, for the name of a sum."""
        return f"{self.shape}({', '.join(f'{weight:g}' for _, weight in self.points)})"


class Constraint:
    """A weight that rises while the mean of a part breaks its bound, and falls while the bound holds.

    After each batch of finished episodes, `multiplier += rate * excess`, kept from 0 to `most`, where the excess is the
    distance of the mean beyond the bound (negative while the bound holds). The weight is the multiplier for a floor
    (more of the part is better), and minus the multiplier for a cap.

    Args:
        at_least: The floor of the part's mean; or
        at_most: its cap. One of the two.
        part: The name of the watched part, as in infos without `score/`. None watches the term of this weight.
        rate: The change of the multiplier at each update for an excess of 1; above 0.
        start: The multiplier at the start.
        most: The largest multiplier.

    Raises:
        ValueError: If not exactly one bound is given, or a number is out of range.
        TypeError: If a number is not one.

    Attributes:
        value: The current weight.
        span: The smallest and the largest possible weight.

    Source: dual ascent on the Lagrangian, as in Tessler, Mankowitz & Mannor (2019), Reward constrained policy
        optimization, arXiv:1805.11074, section 4.
    """

    def __init__(
        self,
        at_least: float | None = None,
        at_most: float | None = None,
        part: str | None = None,
        rate: float = 0.1,
        start: float = 0.0,
        most: float = 10.0,
    ) -> None:
        if (at_least is None) == (at_most is None):
            raise ValueError(f"Expected one of at_least and at_most of a constraint, got {at_least} and {at_most}")
        if part is not None and not isinstance(part, str):
            raise ValueError(f"Expected the part of a constraint as a name, got {part!r}")
        self.part = part
        self.rate = check_number("rate of a constraint", rate, low=0, open_low=True)
        self.most = check_number("most of a constraint", most, low=0, open_low=True)
        start = check_number("start of a constraint", start, low=0, high=self.most)
        self.bound = check_number("the bound of a constraint", at_most if at_least is None else at_least)
        self.is_floor = at_least is not None
        self.value = start if self.is_floor else -start
        self.span = (0.0, self.most) if self.is_floor else (-self.most, 0.0)

    def update(self, scores: NDArray[np.float64]) -> None:
        """Moves the weight after a batch of episodes.

        Args:
            scores: `(episodes,)` the final scores of the watched part.
        """
        if not len(scores):
            return
        # One formula for both bounds: a mean below a floor moves the weight up, one above a cap moves it down.
        value = self.value + self.rate * (self.bound - float(np.mean(scores)))
        self.value = min(max(value, self.span[0]), self.span[1])

    def renamed(self, names: Mapping[str, str]) -> Constraint:
        """Returns the same constraint for a sum whose terms have got other names.

        Args:
            names: Old name of a term to its new name.

        Returns:
            This constraint if the name of the part that it watches is unchanged, else a copy with the new name.
        """
        for old, new in names.items():
            if self.part is not None and old != new and f"{self.part}/".startswith(f"{old}/"):
                renamed = copy(self)
                renamed.part = new + self.part.removeprefix(old)
                return renamed
        return self

    def __str__(self) -> str:
        """Writes its bound, for the name of a sum."""
        return f"constraint({'>=' if self.is_floor else '<='} {self.bound:g})"


Weight: TypeAlias = float | Schedule | Constraint

_FORMS = "{'linear': [a, b]}, {'cosine': [a, b]}, {'piecewise': [[progress, weight], ...]} or {'constraint': {...}}"


def make_weight(name: str, weight: Any) -> Weight:
    """Makes a weight of any form in which a user may write one.

    Args:
        name: The name of the weighted reward, for errors.
        weight: A finite number, `{"linear": [a, b]}` or `{"cosine": [a, b]}` (from a at the start of training to b at
            its end), `{"piecewise": [[progress, weight], ...]}`, `{"constraint": {arguments of Constraint}}`, or one of
            the objects.

    Returns:
        A number, or an object whose `value` changes between episodes.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(weight, (Schedule, Constraint)):
        return weight
    if _is_number(weight):
        return float(weight)
    if not isinstance(weight, Mapping):
        raise ValueError(
            f"Expected the weight of reward {name!r} to be a finite number, got {weight!r}. Weights that change are "
            f"written as {_FORMS}"
        )
    kind: Any
    setting: Any
    kind, setting = next(iter(weight.items())) if len(weight) == 1 else (None, None)
    try:
        if kind in ("linear", "cosine") and _is_pair(setting):
            return Schedule([(0.0, setting[0]), (1.0, setting[1])], shape=kind)
        if kind == "piecewise" and isinstance(setting, (list, tuple)):
            return Schedule(setting)
        if kind == "constraint" and isinstance(setting, Mapping):
            return Constraint(**setting)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The weight of reward {name!r} could not be made of {dict(weight)!r}: {error}") from error
    raise ValueError(f"Expected the weight of reward {name!r} as a number or {_FORMS}, got {dict(weight)!r}")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
