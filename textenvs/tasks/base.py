"""What a task is: a seeded source of examples, and what goes with them.

A task says nothing about tokens, lanes or payouts: it deals in text. The environment tokenises its prompts once,
into a pool (`textenvs.pool.Pool`), and from then on a reset is an index into that pool.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from textenvs.example import Example as Example

SPLITS = ("train", "validation", "test")
"""The three splits of every task. No example is in two of them."""

SHIFTED = "shifted"
"""A fourth split that some tasks have: a test of what was never trained on, other words or longer inputs."""

SOLVED = 0.9
"""The share of the way from random to top from which a task counts as solved."""

_FROZEN_SCORES = Path(__file__).parents[1] / "data" / "reference_scores.json"


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Where the scale of a task begins and ends, under its own reward, tokenizer and budget.

    Attributes:
        random: The mean score of tokens drawn uniformly from the whole vocabulary, EOS included.
        demonstration: The mean score of the demonstrations.
        top: The best mean score there is; the demonstrations' where a higher one would only come from hacking the
            reward.
        random_interval: Half the width of the 95 % confidence interval of `random`; 0 where it is exact.

    Raises:
        ValueError: If the top is not above the random score, or the interval is negative.

    Example:
        >>> scores = ReferenceScores(random=0.2, demonstration=0.9, top=1.0)
        >>> round(scores.normalised(0.6), 9), round(scores.threshold, 9)
        (0.5, 0.92)
    """

    random: float
    demonstration: float
    top: float
    random_interval: float = 0.0

    def __post_init__(self) -> None:
        if not self.random < self.top:
            raise ValueError(f"Expected a top score above the random score {self.random}, got {self.top}")
        if not self.random_interval >= 0:
            raise ValueError(f"Expected random_interval to be at least 0, got {self.random_interval}")

    def normalised(self, score: float) -> float:
        """A score on the scale from random, 0, to top, 1. Below and beyond are possible."""
        return (score - self.random) / (self.top - self.random)

    @property
    def threshold(self) -> float:
        """The score from which the task counts as solved: normalised, it is `SOLVED`."""
        return self.random + SOLVED * (self.top - self.random)


class Task(ABC):
    """A seeded source of examples in three splits that do not overlap, and sometimes a fourth, shifted one.

    A subclass sets the class attributes and writes `num_examples`, `example` and `demonstration`. The same
    `(split, index)` gives the same example in every process, on every machine: examples are counter-based, not drawn
    from a stream.

    Attributes:
        name: What the task is called in `gym.make(..., task=name)`.
        tests: What the task tests, in a few words, for lists.
        splits: Its splits: `SPLITS`, and `SHIFTED` behind them where it has one.
        levels: How many levels of difficulty it has. Where there are several, the constructor takes `level`.
        level: The one that it is made at, from 1 to `levels`.
        default_reward: The reward of an environment that names none, as `textenvs.make_reward` takes it.
        default_max_new_tokens: The budget of an environment that names none, in tokens of the default tokenizer.
        default_tokenizer: The tokenizer of an environment that names none, as `textenvs.make_tokenizer` takes it.
        max_prompt_tokens: Longer prompts are cut to this many tokens, or None to keep all of them whole.
        truncation_side: Which end such a cut takes away: "left" keeps the last tokens, "right" the first.
        success_score: The score from which an episode under the default reward counts as a success, or None: never.
            Where there are reference scores, it is their threshold.
        held_out_reward: A second score of the same quality, reported beside the reward but never trained on.
        max_turns: How often the agent speaks at most. With more than one, the task replies in between (see `reply`).
        max_reply_tokens: The most tokens that a reply has. After each turn the observation has room for that many, and
            for the longest of `replies`.
    """

    name: ClassVar[str]
    tests: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = SPLITS
    levels: ClassVar[int] = 1
    level: int = 1
    default_reward: Any
    default_max_new_tokens: int = 32
    default_tokenizer: Any = "stories"
    max_prompt_tokens: int | None = None
    truncation_side: str = "left"
    success_score: float | None = None
    held_out_reward: Any = None
    max_turns: int = 1
    max_reply_tokens: int = 0

    @abstractmethod
    def num_examples(self, split: str) -> int:
        """How many examples a split has.

        Args:
            split: One of `splits`.

        Returns:
            The number of examples, at least 1.

        Raises:
            ValueError: If the task has no such split.
        """

    @abstractmethod
    def example(self, split: str, index: int) -> Example:
        """The example at one place of one split, the same at every call.

        Args:
            split: One of `splits`.
            index: From 0 to `num_examples(split) - 1`.

        Returns:
            The example.

        Raises:
            ValueError: If the task has no such split.
            IndexError: If the index is outside the split.
        """

    def demonstration(self, example: Example) -> str:
        """A response that does the task well, for warm starts and as a yardstick.

        Args:
            example: One of this task's examples.

        Returns:
            The text of the response, without the prompt and without EOS.

        Raises:
            NotImplementedError: If the task has no demonstrations (a prompts file, say).
        """
        raise NotImplementedError(f"Task {type(self).__name__} has no demonstrations.")

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """Where the task's scale begins and ends. It holds for the default reward, tokenizer and budget alone.

        Args:
            split: Over whose examples the means are taken.

        Returns:
            The scores, or None: nobody has worked them out (a prompts file, say).

        Raises:
            ValueError: If the task has no such split.
        """
        check_split(split, self.splits)
        return None

    def counterpart(self, example: Example) -> Example | None:
        """The same example with one name or group word exchanged, for measuring bias. Its counterpart is the example.

        Args:
            example: One of this task's examples.

        Returns:
            The other example of the pair, or None: this task has no pairs.
        """
        return None

    def weights(self, split: str) -> Sequence[float] | None:
        """How often each example is drawn, in relation to the others.

        Args:
            split: One of `splits`.

        Returns:
            A number from 0 for each example, or None: all are drawn alike.
        """
        return None

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        """What the agent may say in its next turn: `action_mask="task"` makes a mask of tokens of it.

        Args:
            example: What the episode is about.
            turns: What the agent said in its turns before, none in a task of one turn.

        Returns:
            A list of texts, `{"regex": pattern}`, or None: anything.
        """
        return None

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """What the environment says back when the agent has ended a turn with EOS, and has budget and turns left.

        The score stays a function of the agent's text alone, in which each end of a turn is a newline.

        Args:
            example: What the episode is about.
            turns: What the agent said in its turns so far, the latest last.

        Returns:
            The reply, with all that is to separate it from the turns around it; or None: the episode is over.
        """
        return None

    def replies(self, example: Example) -> Iterable[str]:
        """All that `reply` may say in an episode of this example, for tasks that can tell.

        An environment makes tokens of them beforehand, so that there is room for each whatever the tokenizer.

        Args:
            example: What the episode is about.

        Returns:
            The replies; none where `max_reply_tokens` alone says how much room they need.
        """
        return ()


def check_split(split: str, splits: Sequence[str] = SPLITS) -> None:
    """Raise a clear error when `split` is not one of `splits`.

    Args:
        split: The name to check.
        splits: The names that there are.

    Raises:
        ValueError: If it is not one of them.
    """
    if split not in splits:
        raise ValueError(f"Expected a split from {list(splits)}, got {split!r}")


def check_level(level: int, levels: int) -> None:
    """Raise a clear error when a task has no such level.

    Args:
        level: The number to check.
        levels: How many levels there are.

    Raises:
        ValueError: If it is not a whole number from 1 to `levels`.
    """
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= levels:
        raise ValueError(f"Expected level to be a whole number from 1 to {levels}, got {level!r}")


@lru_cache(maxsize=1)
def _all_frozen_scores() -> dict[str, dict[str, ReferenceScores]]:
    names = ("random", "demonstration", "top", "random_interval")
    table = json.loads(_FROZEN_SCORES.read_text(encoding="utf-8"))
    return {
        task: {split: ReferenceScores(**{name: row[name] for name in names}) for split, row in rows.items()}
        for task, rows in table.items()
    }


def frozen_scores(task: str, split: str) -> ReferenceScores | None:
    """The reference scores that `textenvs.data.make_reference_scores` measured once, by a simulation.

    Args:
        task: The task's name.
        split: Over whose examples.

    Returns:
        The scores, or None where they were not measured.
    """
    return _all_frozen_scores().get(task, {}).get(split)
