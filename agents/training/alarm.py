"""The alarm: a score that rises while the held-out metric falls, or while the responses become alike."""

from __future__ import annotations

import logging
import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np

ALARM_WINDOW = 20
"""Updates over which the score and the held-out metric are compared."""

ALARM_FALL = 0.1
"""The share of what a held-out metric has gained since the first update that it must lose within the window. A metric
near its best falls and rises by a few per cent in healthy runs."""

ALARM_DIVERSITY = 0.4
"""The share of its first distinct-2 below which a batch's responses have become alike."""
_FIRST = 5  # updates that are the start

_LOG = logging.getLogger(__name__)


def watch(
    carried: MutableMapping[str, Any], score: float, held_out: float, timesteps: int, *, window: int = ALARM_WINDOW
) -> bool:
    """Adds one update's means to those of the updates before it, and compares their trends.

    The first time that they diverge, a warning is logged, and `carried["alarm_at"]` keeps the number of tokens.

    Args:
        carried: Where the means are kept, as JSON values: the agent's.
        score: The update's mean score.
        held_out: The update's mean held-out metric.
        timesteps: Tokens played before the update.
        window: Number of updates that are compared.

    Returns:
        True while the score rises and the held-out metric falls, by a tenth or more of what it has gained.
    """
    carried.setdefault("held_out_start", held_out)
    watched = carried["watched"] = [*carried.get("watched", []), [score, held_out]][-window:]
    scores, metrics = zip(*watched, strict=True)
    if not diverged(scores, metrics, window=window):
        return False
    if _fall(metrics) < ALARM_FALL * (float(np.mean(metrics)) - carried["held_out_start"]):
        return False
    if "alarm_at" not in carried:
        carried["alarm_at"] = timesteps
        _LOG.warning(
            "At %s tokens the score rises while the held-out metric falls: the policy may be learning to please the "
            "score and not to write well. Look at samples; a guard, a larger kl_coef or fewer tokens may help.",
            f"{timesteps:,}",
        )
    return True


def watch_diversity(carried: MutableMapping[str, Any], score: float, distinct: float, timesteps: int) -> bool:
    """Compares the diversity of one update's responses with that of the first ones.

    A policy that writes the same few texts for every prompt may please a held-out metric as well as the score: each of
    them looks at one text at a time. The first time that it happens, a warning is logged, and `carried["alike_at"]`
    keeps the number of tokens.

    Args:
        carried: Where the first updates' means are kept, as JSON values: the agent's.
        score: The update's mean score.
        distinct: The distinct-2 of the update's responses.
        timesteps: Tokens played before the update.

    Returns:
        True while the score is above that of the first updates, and distinct-2 below `ALARM_DIVERSITY` of theirs.
    """
    first = carried.setdefault("first_updates", [])
    if len(first) < _FIRST:
        carried["first_updates"] = [*first, [score, distinct]]
        return False
    first_score, first_distinct = np.mean(first, axis=0).tolist()
    if score <= first_score or distinct >= ALARM_DIVERSITY * first_distinct:
        return False
    if "alike_at" not in carried:
        carried["alike_at"] = timesteps
        _LOG.warning(
            "At %s tokens the responses have become alike: distinct-2 is %.3f, and was %.3f at first. Look at samples; "
            "a larger kl_coef, a bonus for novelty or fewer tokens may help.",
            f"{timesteps:,}",
            distinct,
            first_distinct,
        )
    return True


def diverged(
    scores: Sequence[float], held_out: Sequence[float], *, window: int = ALARM_WINDOW, deviations: float = 3.0
) -> bool:
    """Tells if a score has risen while a held-out metric has fallen, the mark of over-optimisation.

    A line is fitted to each over the last `window` updates. The slope of the scores must be `deviations` of its
    standard errors above 0, that of the held-out metric as many below, so that noise alone hardly ever raises the
    alarm.

    Args:
        scores: The mean score of each update, the latest last.
        held_out: The mean held-out metric of each update, likewise.
        window: Number of updates, at least 3. With fewer, nothing has diverged yet.
        deviations: Standard errors that both slopes must be from 0.

    Returns:
        True if the two have diverged.

    Raises:
        ValueError: If the two lengths differ, or the window is too small.

    Source: Gao, Schulman & Hilton (2023), Scaling laws for reward model overoptimization, arXiv:2210.10760: there the
        held-out metric is the gold reward.

    Example:
        >>> diverged([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], window=4)
        True
    """
    if len(scores) != len(held_out):
        raise ValueError(f"Expected as many held-out metrics as scores, {len(scores)}, got {len(held_out)}")
    if window < 3:
        raise ValueError(f"Expected a window of at least 3 updates, got {window}")
    if len(scores) < window:
        return False
    return _trend(scores[-window:]) > deviations and _trend(held_out[-window:]) < -deviations


def _fall(values: Sequence[float]) -> float:
    """Returns how far the least-squares line falls from the first value to the last."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    return -float(x @ np.asarray(values, dtype=np.float64) / (x @ x)) * (len(values) - 1)


def _trend(values: Sequence[float]) -> float:
    """Returns the slope of the least-squares line, in its standard errors; 0 for a constant."""
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (len(y) - 2) / float(x @ x))
    # Where the line fits exactly, the error is 0 up to rounding, and must not be divided by.
    error = max(error, 1e-12 * max(1.0, float(np.abs(y).max())))
    return slope / error
