"""The base class of tasks whose examples are made of a composition, by which the splits differ, and free choices.

A composition is a tuple of words: who does what to whom. Each belongs to one split. So a test example was never seen in
training, although each of its words was: it is a new sentence, and not just a new seed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from textenvs.tasks.base import SHIFTED, Example, ReferenceScores, check_split, frozen_scores
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.sized import Sized

Composition: TypeAlias = tuple[str, ...]

_SIZES = {"train": 4096, "validation": 512, "test": 512, SHIFTED: 512}


class Composed(Sized):
    """A task over compositions. A subclass writes `compositions`, `compose` and `demonstration`.

    The train split has four fifths of the compositions, the validation and the test split a tenth each. The shifted
    split has those of the test split, in examples that `compose` makes longer or harder.

    Args:
        level: The difficulty, from 1 to `levels`; None is the level of the registered id.
        train: The number of examples of the train split.
        validation: The number of examples of the validation split.
        test: The number of examples of the test split.
        shifted: The number of examples of the shifted split.

    Raises:
        ValueError: If there is no such level, or a number is below 1.
        TypeError: If a number is not whole.
    """

    def __init__(
        self, level: int | None = None, train: int = 4096, validation: int = 512, test: int = 512, shifted: int = 512
    ) -> None:
        super().__init__(level, (train, validation, test, shifted))
        self._compositions: dict[str, list[Composition]] = {split: [] for split in self.splits}
        keyed = ((text_key("|".join((self.name, *words))), words) for words in self.compositions())
        for key, composition in sorted(keyed):  # by their hashes, so that neighbours in a split have nothing in common
            tenth = key % 10
            self._compositions["validation" if tenth == 8 else "test" if tenth == 9 else "train"].append(composition)
        self._compositions[SHIFTED] = self._compositions["test"]
        # The reference scores were measured with these settings, and hold for no others.
        self._is_standard = self.level == type(self).level and self._sizes == _SIZES
        self._streams = {split: text_key(f"{self.name}|{split}") for split in self.splits}

    @abstractmethod
    def compositions(self) -> Sequence[Composition]:
        """Returns all compositions, of every split."""

    @abstractmethod
    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Makes an example.

        Args:
            composition: The composition, by which the splits differ. The prompt has to tell it.
            dice: The source of all other choices.
            shifted: If True, the example is to be longer or harder than those of the other splits.

        Returns:
            The example; its first reference is its demonstration.
        """

    def example(self, split: str, index: int) -> Example:
        """Composes the example at an index of a split."""
        self.check_index(split, index)
        compositions = self._compositions[split]
        composition = compositions[index % len(compositions)]
        return self.compose(composition, Dice(self._streams[split], self.level, index), split == SHIFTED)

    def demonstration(self, example: Example) -> str:
        """Returns the example's first reference."""
        if not example.references:
            raise ValueError(f"Expected an example of task {self.name!r}, got one without references")
        return example.references[0]

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """Returns the measured scores for the settings of the registered id, and None for others."""
        check_split(split, self.splits)
        return frozen_scores(self.name, split) if self._is_standard else None

    @property
    def success_score(self) -> float | None:  # type: ignore[override]  # a property: looked up when it is needed
        """The threshold of the reference scores, if they are known."""
        scores = self.reference_scores()
        return None if scores is None else scores.threshold
