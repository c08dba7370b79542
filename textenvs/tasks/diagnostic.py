"""The base class of the diagnostic tasks: levels, splits, and scores that are worked out exactly.

A diagnostic task tests one ability. Its vocabulary is a few symbols, its response is short, and its default reward is a
function of a finite memory (`textenvs.rewards.AutomatonReward`). So an episode is a small Markov decision process, of
which the random and the optimal score are known exactly (`textenvs.tasks.exact`). A subclass draws examples, whose
first reference is the demonstration, and says which of them are alike for the random policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, ClassVar

from textenvs.rewards.incremental.automaton import AutomatonReward
from textenvs.tasks.base import SHIFTED, SPLITS, Example, ReferenceScores, check_split, frozen_blind
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.exact import random_score
from textenvs.tasks.sized import Sized
from textenvs.tokenizer import make_tokenizer

# The streams of random choices of the splits differ, so that the same index gives other examples in another split.
_STREAMS = {split: number for number, split in enumerate((*SPLITS, SHIFTED), start=1)}
# The split of a prompt, by its hash modulo ten.
_SHARES = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2


class Diagnostic(Sized):
    """A task over a few symbols, whose scores are known exactly.

    The splits differ by their prompts: a hash of the prompt decides the split that it may be in. If there are few
    prompts, one may be in its split several times. The shifted split is harder than the others, mostly by longer
    inputs.

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

    default_reward: AutomatonReward
    symbols: ClassVar[str]
    """All characters of prompts and responses."""

    def __init__(
        self,
        level: int | None = None,
        train: int = 1024,
        validation: int = 128,
        test: int = 256,
        shifted: int = 256,
    ) -> None:
        super().__init__(level, (train, validation, test, shifted))
        self.default_tokenizer = {"symbols": self.symbols}

    @abstractmethod
    def draw(self, dice: Dice, shifted: bool) -> Example:
        """Draws an example of this level. Its first reference is a response that scores 1.

        Args:
            dice: The source of random choices.
            shifted: True for an example of the shifted split.

        Returns:
            The example.
        """

    def alike(self, example: Example) -> Hashable:
        """Returns a key that examples share if random tokens score the same: by default, the length of the response."""
        return len(example.references[0])

    def example(self, split: str, index: int) -> Example:
        """Draws the example at an index of a split: the first one whose prompt belongs to the split."""
        self.check_index(split, index)
        dice = Dice(self.level, _STREAMS[split], index)
        while True:  # until a prompt belongs to this split; the shifted split has prompts that no other split can draw
            example = self.draw(dice, split == SHIFTED)
            if split == SHIFTED or _SHARES[text_key(example.prompt) % len(_SHARES)] == split:
                return example

    def demonstration(self, example: Example) -> str:
        """Returns the first reference, which scores 1."""
        return example.references[0]

    def random_score(self, split: str, max_new_tokens: int) -> float:
        """Computes the exact mean score of random tokens over a split's examples.

        Args:
            split: One of `splits`.
            max_new_tokens: The budget of an episode.

        Returns:
            The mean score.
        """
        tokenizer = make_tokenizer(self.default_tokenizer)
        examples = [self.example(split, index) for index in range(self.num_examples(split))]
        # Dynamic programming once for each kind of example, instead of for each example.
        counts = Counter(self.alike(example) for example in examples)
        representative = {self.alike(example): example for example in examples}
        total = sum(
            count * random_score(self.default_reward, tokenizer, representative[kind], max_new_tokens)
            for kind, count in counts.items()
        )
        return total / len(examples)

    def reference_scores(self, split: str = "test") -> ReferenceScores:
        """Returns the exact scores: random by dynamic programming, and a top of 1."""
        check_split(split, self.splits)
        return _reference_scores(type(self), self.level, tuple(self._sizes.items()), split)

    @property
    def success_score(self) -> float:  # type: ignore[override]  # a property: worked out when it is first needed
        """The threshold of the reference scores."""
        return self.reference_scores().threshold


@lru_cache(maxsize=256)
def _reference_scores(
    kind: type[Diagnostic], level: int, sizes: tuple[tuple[str, int], ...], split: str
) -> ReferenceScores:
    settings: dict[str, Any] = dict(sizes)
    task = kind(level, **settings)
    random = task.random_score(split, task.default_max_new_tokens)
    examples = [task.example(split, index) for index in range(task.num_examples(split))]
    total = sum(task.default_reward.score(example, task.demonstration(example)) for example in examples)
    # The constant was searched for with the settings of the registered id.
    blind = frozen_blind(kind.name, split) if level == kind.level and task._sizes == kind()._sizes else None
    return ReferenceScores(random=random, demonstration=total / len(examples), top=1.0, blind=blind)
