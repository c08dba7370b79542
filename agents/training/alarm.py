"""The alarm: a score that rises while the held-out metric falls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def parted(scores: Sequence[float], held_out: Sequence[float], *, window: int = 20, deviations: float = 3.0) -> bool:
    """Whether a score has risen while a held-out metric has fallen: what over-optimisation looks like.

    Over the last `window` updates, a line is fitted to either; each slope must be `deviations` of its standard errors
    from 0, the first above it and the second below, so that noise alone hardly ever does it.

    Args:
        scores: What is trained on, one mean an update, the latest last.
        held_out: What is not, alike.
        window: How many updates, at least 3. With fewer, nothing has parted yet.
        deviations: How clear both trends must be.

    Returns:
        Whether the two have parted.

    Raises:
        ValueError: If they are not as many, or the window is too small.

    Source: Gao, Schulman & Hilton (2023), Scaling laws for reward model overoptimization, arXiv:2210.10760: there the
        held-out metric is the gold reward.

    Example:
        >>> parted([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], window=4)
        True
    """
    if len(scores) != len(held_out):
        raise ValueError(f"Expected as many held-out metrics as scores, {len(scores)}, got {len(held_out)}")
    if window < 3:
        raise ValueError(f"Expected a window of at least 3 updates, got {window}")
    if len(scores) < window:
        return False
    return _trend(scores[-window:]) > deviations and _trend(held_out[-window:]) < -deviations


def _trend(values: Sequence[float]) -> float:
    """The slope of the least-squares line, in its standard errors; 0 for a constant."""
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (len(y) - 2) / float(x @ x))
    # A line without noise has no error but what rounding leaves.
    error = max(error, 1e-12 * max(1.0, float(np.abs(y).max())))
    return slope / error
