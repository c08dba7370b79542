"""What generated tasks have in common: a level of difficulty, and as many examples a split as one asks for."""

from __future__ import annotations

from typing import ClassVar

from textenvs.tasks.base import SHIFTED, SPLITS, Task, check_level, check_split


class Sized(Task):
    """A task that makes its examples, at a level, and has a shifted split.

    Args:
        level: How hard, from 1 to `levels`; None is the level of the registered id.
        sizes: How many examples each of `splits` has.

    Raises:
        ValueError: If there is no such level, or a number is below 1.
    """

    splits: ClassVar[tuple[str, ...]] = (*SPLITS, SHIFTED)

    def __init__(self, level: int | None, sizes: tuple[int, ...]) -> None:
        self.level = type(self).level if level is None else level
        check_level(self.level, self.levels)
        self._sizes = dict(zip(self.splits, sizes, strict=True))
        for split, size in self._sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"Expected {split} to be a whole number of at least 1, got {size!r}")

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        check_split(split, self.splits)
        return self._sizes[split]

    def check_place(self, split: str, index: int) -> None:
        """Raise what `Task.example` should where there is no such split (ValueError) or place in it (IndexError)."""
        if not 0 <= index < self.num_examples(split):
            raise IndexError(f"Expected an index in [0, {self._sizes[split]}), got {index}")
