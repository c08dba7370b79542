"""What a task is: a seeded source of examples, and what goes with them.

A task says nothing about tokens, lanes or payouts: it deals in text. The environment tokenises its prompts once,
into a pool (`textenvs.lanes.Pool`), and from then on a reset is an index into that pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

SPLITS = ("train", "validation", "test")
"""The three splits of every task. No example is in two of them."""


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to write about: where every episode starts.

    Attributes:
        prompt: The text that the policy continues. May be empty: the environment then starts from BOS.
        references: Texts that a good response resembles. Several are allowed, none is too.
        metadata: Whatever a reward needs to know beyond the texts (the wanted mood, a label, a budget). JSON values.
    """

    prompt: str
    references: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A seeded source of examples in three splits that do not overlap.

    A subclass sets the class attributes and writes `num_examples`, `example` and `demonstration`. The same
    `(split, index)` gives the same example in every process, on every machine: examples are counter-based, not drawn
    from a stream.

    Attributes:
        name: What the task is called in `gym.make(..., task=name)`.
        default_reward: The reward of an environment that names none, as `textenvs.make_reward` takes it.
        default_max_new_tokens: The budget of an environment that names none, in tokens of the default tokenizer.
        default_tokenizer: The tokenizer of an environment that names none, as `textenvs.make_tokenizer` takes it.
        max_prompt_tokens: Longer prompts are cut to this many tokens, or None to keep all of them whole.
        truncation_side: Which end such a cut takes away: "left" keeps the last tokens, "right" the first.
        success_score: The score from which an episode under the default reward counts as a success, or None: never.
        held_out_reward: A second score of the same quality, reported beside the reward but never trained on.
        max_turns: How often the agent speaks at most. With more than one, the task replies in between (see `reply`).
        max_reply_tokens: The most tokens that a reply has; the observation has room for that many after each turn.
    """

    name: ClassVar[str]
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
            split: One of `SPLITS`.

        Returns:
            The number of examples, at least 1.

        Raises:
            ValueError: If the task has no such split.
        """

    @abstractmethod
    def example(self, split: str, index: int) -> Example:
        """The example at one place of one split, the same at every call.

        Args:
            split: One of `SPLITS`.
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

    def weights(self, split: str) -> Sequence[float] | None:
        """How often each example is drawn, in relation to the others.

        Args:
            split: One of `SPLITS`.

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


def check_split(split: str) -> None:
    """Raise a clear error when `split` is not one of `SPLITS`.

    Args:
        split: The name to check.

    Raises:
        ValueError: If it is not one of them.
    """
    if split not in SPLITS:
        raise ValueError(f"Expected a split from {list(SPLITS)}, got {split!r}")
