"""The base class of generated tasks: they have a level of difficulty, and splits of any size."""

from __future__ import annotations

from typing import ClassVar

from textenvs.arguments import check_count
from textenvs.tasks.base import SHIFTED, SPLITS, Task, check_level, check_split


class Sized(Task):
    """A task that generates its examples, at a level, and has a shifted split.

    Args:
        level: The difficulty, from 1 to `levels`; None is the level of the registered id.
        sizes: The number of examples of each of `splits`.

    Raises:
        ValueError: If there is no such level, or a number is below 1.
        TypeError: If a number is not whole.
    """

    splits: ClassVar[tuple[str, ...]] = (*SPLITS, SHIFTED)

    def __init__(self, level: int | None, sizes: tuple[int, ...]) -> None:
        self.level = check_level(type(self).level if level is None else level, self.levels)
        self._sizes = {split: check_count(split, size) for split, size in zip(self.splits, sizes, strict=True)}

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split."""
        check_split(split, self.splits)
        return self._sizes[split]

    def check_index(self, split: str, index: int) -> None:
        """Checks the arguments of `example`.

        Raises:
            ValueError: If the task has no such split.
            IndexError: If the index is outside the split.
        """
        if not 0 <= index < self.num_examples(split):
            raise IndexError(f"Expected an index in [0, {self._sizes[split]}), got {index}")
