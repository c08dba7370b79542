"""The interface of tasks: seeded sources of examples, with their rewards, demonstrations and reference scores.

A task knows text, and nothing of tokens, lanes or payouts. The environment tokenises its prompts once, into a pool
(`textenvs.pool.Pool`); from then on, a reset is an index into that pool.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from textenvs.arguments import check_count
from textenvs.example import Example as Example
from textenvs.rewards.registry import make_reward

SPLITS = ("train", "validation", "test")
"""The three splits of every task. No example is in two of them."""

SHIFTED = "shifted"
"""A fourth split that some tasks have: a test on other words or longer inputs than those of the train split."""

SOLVED = 0.9
"""The normalised score from which a task counts as solved."""

_FROZEN_SCORES = Path(__file__).parents[1] / "data" / "reference_scores.json"


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """The ends of a task's scale, for its own reward, tokenizer and budget.

    Attributes:
        random: The mean score of tokens drawn uniformly from the whole vocabulary, EOS included.
        demonstration: The mean score of the demonstrations.
        top: The best possible mean score, or that of the demonstrations if only reward hacking gives a higher one.
        random_interval: Half the width of the 95 % confidence interval of `random`; 0 if it is exact.
        blind: The mean score of the best constant that a search has found, one text for all prompts of a kind
            (`textenvs.testing.search`); None if nobody has searched.

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
    blind: float | None = None

    def __post_init__(self) -> None:
        if not self.random < self.top:
            raise ValueError(f"Expected a top score above the random score {self.random}, got {self.top}")
        if not self.random_interval >= 0:
            raise ValueError(f"Expected random_interval to be at least 0, got {self.random_interval}")

    def normalised(self, score: float) -> float:
        """Returns a score on the scale from 0 (random) to 1 (top). It may be below 0 or above 1."""
        return (score - self.random) / (self.top - self.random)

    @property
    def threshold(self) -> float:
        """The score from which the task counts as solved: `SOLVED` when normalised."""
        return self.random + SOLVED * (self.top - self.random)


class Task(ABC):
    """A seeded source of examples in three splits that do not overlap, and sometimes a fourth, shifted one.

    A subclass sets the class attributes and writes `num_examples`, `example` and `demonstration`. The same
    `(split, index)` gives the same example in every process, on every machine: examples are counter-based, not drawn
    from a stream.

    Attributes:
        name: The name in `gym.make(..., task=name)`.
        tests: The ability that the task tests, in a few words, for lists.
        splits: The splits: `SPLITS`, and `SHIFTED` if the task has it.
        levels: The number of levels of difficulty. If there are several, the constructor takes `level`.
        level: The level of this task, from 1 to `levels`.
        default_reward: The reward of an environment that names none, in a form that `textenvs.make_reward` takes.
        default_max_new_tokens: The budget of an environment that names none, in tokens of the default tokenizer.
        default_tokenizer: The tokenizer of an environment that names none, in a form that `textenvs.make_tokenizer`
            takes.
        max_prompt_tokens: The number of tokens to which longer prompts are cut; None keeps all of them whole.
        truncation_side: The part that is cut out: "left" keeps the last tokens, "right" the first, and "middle" half of
            them at either end.
        success_score: The score under the default reward from which an episode counts as a success, or None if no score
            does. If there are reference scores, it is their threshold.
        held_out_reward: A second score of the same quality, which is reported beside the reward and never trained on.
        kind_key: The key of the metadata that sorts prompts into a few kinds, of which a prompt says openly which it is
            ("mood"); None if all are of one kind. A constant of the blind score may differ by kind.
        max_turns: The largest number of turns of the agent. With more than one, the task replies after each (`reply`).
        contents: The key of the examples where they are read from data, and None where they are not: tasks with equal
            keys have equal examples, and environments share what they make of them.
        max_reply_tokens: The largest number of tokens of a reply. The observation has room for that many after each
            turn, and for the longest of `replies`.
    """

    name: str
    tests: str = ""
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
    kind_key: str | None = None
    max_turns: int = 1
    max_reply_tokens: int = 0
    contents: Hashable | None = None

    def __str__(self) -> str:
        """Says what the task is: a line for each fact of `facts`."""
        facts = {"task": f"{self.name}: {self.tests}" if self.tests else self.name, **self.facts()}
        width = max(map(len, facts))
        return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())

    def facts(self) -> dict[str, str]:
        """Returns what a person wants to know of a task: its examples, one of them, its reward and budget."""
        sizes = {split: self.num_examples(split) for split in self.splits}
        facts = {"examples": ", ".join(f"{size:,} {split}" for split, size in sizes.items())}
        split = next((split for split, size in sizes.items() if size), None)
        if split is not None:
            example = self.example(split, 0)
            facts["a prompt"] = _shortened(example.prompt)
            try:
                facts["a demonstration"] = _shortened(self.demonstration(example))
            except NotImplementedError:
                if example.references:
                    facts["a reference"] = _shortened(example.references[0])
        facts["reward"] = make_reward(self.default_reward).name
        if self.held_out_reward is not None:
            facts["held out"] = make_reward(self.held_out_reward).name
        facts["budget"] = f"{self.default_max_new_tokens} tokens"
        if self.max_turns > 1:
            facts["budget"] += f", in at most {self.max_turns} turns"
        return facts

    @abstractmethod
    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split.

        Args:
            split: One of `splits`.

        Returns:
            The number of examples, at least 1.

        Raises:
            ValueError: If the task has no such split.
        """

    @abstractmethod
    def example(self, split: str, index: int) -> Example:
        """Returns the example at an index of a split, the same at every call.

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
        """Returns a response that does the task well, for warm starts and as a yardstick.

        Args:
            example: One of this task's examples.

        Returns:
            The text of the response, without the prompt and without EOS.

        Raises:
            NotImplementedError: If the task has no demonstrations (a prompts file, say).
        """
        raise NotImplementedError(f"Task {type(self).__name__} has no demonstrations.")

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """Returns the ends of the task's scale. They hold for the default reward, tokenizer and budget only.

        Args:
            split: The split whose examples the means are over.

        Returns:
            The scores, or None if they are not known (of a prompts file, say).

        Raises:
            ValueError: If the task has no such split.
        """
        check_split(split, self.splits)
        return None

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same example with one name or group word exchanged, to measure bias.

        Args:
            example: One of this task's examples.

        Returns:
            The other example of the pair, whose counterpart is `example`; or None if there is no pair.
        """
        return None

    def weights(self, split: str) -> Sequence[float] | None:
        """Returns the relative frequency at which each example is drawn.

        Args:
            split: One of `splits`.

        Returns:
            A number from 0 for each example, or None if all are drawn equally often.
        """
        return None

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        """Returns the texts that are allowed as the agent's next turn, for `action_mask="task"`.

        Args:
            example: The example of the episode.
            turns: The agent's turns so far; empty in a task of one turn.

        Returns:
            A list of texts, `{"regex": pattern}`, or None if any text is allowed.
        """
        return None

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the environment's reply when the agent has ended a turn with EOS, and has budget and turns left.

        The score is still a function of the agent's text alone, in which each end of a turn is a newline.

        Args:
            example: The example of the episode.
            turns: The agent's turns so far, the latest last.

        Returns:
            The reply, with all characters that separate it from the turns around it; or None if the episode is over.
        """
        return None

    def replies(self, example: Example) -> Iterable[str]:
        """Returns all replies that an episode of an example can have, for tasks that know them.

        An environment tokenises them beforehand, so that there is room for each of them with any tokenizer.

        Args:
            example: The example of the episode.

        Returns:
            The replies, or nothing if `max_reply_tokens` says how much room they need.
        """
        return ()


_SHOWN_CHARACTERS = 300


def _shortened(text: str) -> str:
    """Returns a text in one line, with its middle left out where it is long."""
    shown = repr(text)
    half = _SHOWN_CHARACTERS // 2
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:half]} ... {shown[-half:]}"


def check_split(split: str, splits: Sequence[str] = SPLITS) -> None:
    """Checks that a split is one of some splits.

    Args:
        split: The name to check.
        splits: The known names.

    Raises:
        ValueError: If it is not one of them.
    """
    if split not in splits:
        raise ValueError(f"Expected a split from {list(splits)}, got {split!r}")


def check_level(level: int, levels: int) -> int:
    """Checks that a task has a level.

    Args:
        level: The number to check.
        levels: The number of levels.

    Returns:
        The level as a Python int.

    Raises:
        ValueError: If it is not from 1 to `levels`.
        TypeError: If it is not a whole number.
    """
    return check_count("level", level, most=levels)


@lru_cache(maxsize=1)
def _frozen_rows() -> dict[str, dict[str, dict[str, Any]]]:
    rows: dict[str, dict[str, dict[str, Any]]] = json.loads(_FROZEN_SCORES.read_text(encoding="utf-8"))
    return rows


def frozen_scores(task: str, split: str) -> ReferenceScores | None:
    """Returns the reference scores that `textenvs.data.make_reference_scores` has measured by a simulation.

    Args:
        task: The task's name.
        split: The split whose examples the means are over.

    Returns:
        The scores, or None if they have not been measured.
    """
    row = _frozen_rows().get(task, {}).get(split, {})
    names = ("random", "demonstration", "top", "random_interval", "blind")
    return ReferenceScores(**{name: row[name] for name in names if name in row}) if "top" in row else None


def frozen_blind(task: str, split: str) -> float | None:
    """Returns the mean score of the best constant that `textenvs.data.make_reference_scores` has found.

    Args:
        task: The task's name.
        split: The split whose examples the mean is over.

    Returns:
        The score, or None if nobody has searched.
    """
    return _frozen_rows().get(task, {}).get(split, {}).get("blind")


def blind_texts(task: str) -> dict[str, str]:
    """Returns the constants of the blind score.

    Args:
        task: The task's name.

    Returns:
        The text for each kind of prompt; the kind is "" where there is only one. Empty if nobody has searched.
    """
    return dict(_frozen_rows().get(task, {}).get("test", {}).get("blind_texts", {}))
