"""The progress bar of a run: tokens played, and the metrics that people look at first."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tqdm.auto import tqdm

_LABELS = {
    "score": "score",
    "level": "level",
    "held_out": "held-out",
    "alarm": "alarm",
    "kl": "KL",
    "entropy": "entropy",
    "response_length": "length",
    "distinct_2": "distinct-2",
    "tokens_per_second": "tokens/s",
}
"""Metrics that are shown, in this order, and what they are called there."""


class ProgressBar:
    """A bar over the tokens of a run.

    Args:
        total: Tokens of the whole run.
        done: Tokens that are played already.
        shown: If False, nothing is printed.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self._bar: Any = tqdm(
            total=total, initial=done, unit="token", unit_scale=True, disable=not shown, dynamic_ncols=True
        )

    def show(self, timesteps: int, row: Mapping[str, float]) -> None:
        """Moves the bar, and shows an update's metrics beside it.

        Args:
            timesteps: Tokens played so far.
            row: Name to number.
        """
        numbers = {label: f"{row[name]:.4g}" for name, label in _LABELS.items() if name in row}
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(timesteps - self._bar.n)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the bar."""
        self._bar.close()
