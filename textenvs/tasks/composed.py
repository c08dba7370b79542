"""Tasks whose examples are put together from a composition, by which the splits differ, and free choices beside it.

A composition is a tuple of words: who does what to whom. Each belongs to one split, so that what is tested was never
seen in training, although each of its words was: not a new seed, but a new sentence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from textenvs.tasks.base import SHIFTED, Example, ReferenceScores, check_split, frozen_scores
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.sized import Sized

Composition = tuple[str, ...]


_SIZES = {"train": 4096, "validation": 512, "test": 512, SHIFTED: 512}


class Composed(Sized):
    """A task over compositions. A subclass writes `compositions`, `compose` and `demonstration`.

    Four fifths of the compositions are the train split's, a tenth each the validation and the test split's. The
    shifted split has the test split's compositions in examples that `compose` makes longer or harder.

    Args:
        level: How hard, from 1 to `levels`; None is the level of the registered id.
        train: How many examples the train split has.
        validation: How many the validation split has.
        test: How many the test split has.
        shifted: How many the shifted split has.

    Raises:
        ValueError: If there is no such level, or a number is below 1.
    """

    def __init__(
        self, level: int | None = None, train: int = 4096, validation: int = 512, test: int = 512, shifted: int = 512
    ) -> None:
        super().__init__(level, (train, validation, test, shifted))
        self._compositions: dict[str, list[Composition]] = {split: [] for split in self.splits}
        for key, composition in sorted((text_key("|".join((self.name, *one))), one) for one in self.compositions()):
            tenth = key % 10
            self._compositions["validation" if tenth == 8 else "test" if tenth == 9 else "train"].append(composition)
        self._compositions[SHIFTED] = self._compositions["test"]
        self._is_standard = self.level == type(self).level and self._sizes == _SIZES
        self._streams = {split: text_key(f"{self.name}|{split}") for split in self.splits}

    @abstractmethod
    def compositions(self) -> Sequence[Composition]:
        """All compositions, of every split."""

    @abstractmethod
    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """An example.

        Args:
            composition: What decides its split; whoever reads the prompt can tell it.
            dice: The source of everything else.
            shifted: Whether it is to be longer or harder than those of the other splits.

        Returns:
            The example; its first reference is its demonstration.
        """

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        self.check_place(split, index)
        compositions = self._compositions[split]
        composition = compositions[index % len(compositions)]
        return self.compose(composition, Dice(self._streams[split], self.level, index), split == SHIFTED)

    def demonstration(self, example: Example) -> str:
        """The example's first reference."""
        if not example.references:
            raise ValueError(f"Expected an example of task {self.name!r}, got one without references")
        return example.references[0]

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """See `Task.reference_scores`. Measured for the settings of the registered id, and None for others."""
        check_split(split, self.splits)
        return frozen_scores(self.name, split) if self._is_standard else None

    @property
    def success_score(self) -> float | None:  # type: ignore[override]  # looked up when it is asked for
        """See `Task`."""
        scores = self.reference_scores()
        return None if scores is None else scores.threshold
