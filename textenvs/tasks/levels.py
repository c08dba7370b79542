"""All levels of a task in one, for a curriculum (`textenvs.tasks.curriculum`) and for scores over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards import Reward
from textenvs.rewards.base import Scorer, Wrapper
from textenvs.rewards.registry import make_reward
from textenvs.tasks.base import SHIFTED, Example, ReferenceScores, Task, check_level, check_split
from textenvs.tasks.diagnostic import Diagnostic
from textenvs.tasks.registry import make_task
from textenvs.tokenizer import Tokenizer


class Levels(Task):
    """The examples of all levels of a task, the easiest first.

    Each example's metadata has its `level`. Demonstrations, replies and rewards are those of the example's level, and
    the budget has room for the longest. The shifted split is that of the highest level.

    Args:
        task: A registered task with levels, by its name or as `{name: {argument: value}}`, without `level`.
        lowest: The first level.
        highest: The last one; None: as many as there are.

    Raises:
        ValueError: If the task has no levels, or there is no such level.
        TypeError: If the task is not given by its name.

    Example:
        >>> task = Levels("copy")
        >>> task.example("train", 0).metadata["level"], task.example("train", 3071).metadata["level"]
        (1, 3)
    """

    name = "levels"
    tests = "a task at all of its levels"

    def __init__(
        self, task: str | Mapping[str, Mapping[str, Any]] = "copy", lowest: int = 1, highest: int | None = None
    ) -> None:

        given = {task: {}} if isinstance(task, str) else task
        if not isinstance(given, Mapping):
            raise TypeError(
                f"Expected a task's name or {{name: arguments}}, of which every level can be made, got {task!r}"
            )
        whole = make_task(given)
        if whole.levels < 2:
            raise ValueError(f"Expected a task with several levels, got {whole.name!r}, which has one")
        ((name, arguments),) = given.items()
        if "level" in arguments:
            raise ValueError(f"Expected a task without 'level', since all are made, got level={arguments['level']!r}")
        check_level(lowest, whole.levels)
        highest = whole.levels if highest is None else highest
        check_level(highest, whole.levels)
        if highest < lowest:
            raise ValueError(f"Expected highest to be at least lowest={lowest}, got {highest}")
        self.of = whole.name
        self._levels = {level: make_task({name: {**arguments, "level": level}}) for level in range(lowest, highest + 1)}
        top = self._top = self._levels[highest]
        self.splits = top.splits  # type: ignore[misc]  # an instance has its task's
        rewards = {level: make_reward(one.default_reward) for level, one in self._levels.items()}
        same = all(one.default_reward == top.default_reward for one in self._levels.values())
        self.default_reward = top.default_reward if same else ByLevel(rewards)
        self.default_tokenizer = top.default_tokenizer
        self.held_out_reward = top.held_out_reward
        self.default_max_new_tokens = max(one.default_max_new_tokens for one in self._levels.values())
        self.max_turns = max(one.max_turns for one in self._levels.values())
        self.max_reply_tokens = max(one.max_reply_tokens for one in self._levels.values())
        # One number for all levels. Theirs lie close together, and not every level has one.
        known = [one.success_score for one in (*self._levels.values(), whole) if one.success_score is not None]
        self.success_score = max(known, default=None)

    def _places(self, split: str) -> list[tuple[int, Task]]:
        check_split(split, self.splits)
        if split == SHIFTED:
            return [(max(self._levels), self._top)]
        return list(self._levels.items())

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        return sum(task.num_examples(split) for _, task in self._places(split))

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        rest = index
        for level, task in self._places(split):
            count = task.num_examples(split)
            if 0 <= rest < count:
                found = task.example(split, rest)
                return _at(level, found)
            rest -= count
        raise IndexError(f"Expected an index in [0, {self.num_examples(split)}), got {index}")

    def _task_of(self, example: Example) -> Task:
        return self._levels[level_of(example, self._levels)]

    def demonstration(self, example: Example) -> str:
        """See `Task.demonstration`."""
        return self._task_of(example).demonstration(example)

    def counterpart(self, example: Example) -> Example | None:
        """See `Task.counterpart`. It is of the same level."""
        level = level_of(example, self._levels)
        found = self._levels[level].counterpart(example)
        return None if found is None else _at(level, found)

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        """See `Task.allowed`."""
        return self._task_of(example).allowed(example, turns)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """See `Task.reply`."""
        task = self._task_of(example)
        return task.reply(example, turns) if len(turns) < task.max_turns else None

    def replies(self, example: Example) -> Iterable[str]:
        """See `Task.replies`."""
        return self._task_of(example).replies(example)

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """See `Task.reference_scores`. Exact for diagnostic tasks, at the budget of the longest level; None for others.

        A level by itself has a smaller budget, and so another random score.
        """
        means, counts = [], []
        for _, task in self._places(split):
            if not isinstance(task, Diagnostic):
                return None
            means.append(task.random_score(split, self.default_max_new_tokens))
            counts.append(task.num_examples(split))
        return ReferenceScores(random=float(np.average(means, weights=counts)), demonstration=1.0, top=1.0)


def _at(level: int, example: Example) -> Example:
    """An example of a level, with that in its metadata."""
    return Example(example.prompt, example.references, {**example.metadata, "level": level})


class ByLevel(Wrapper):
    """Another score for each level: that of the `level` in an example's metadata.

    Parts are those that the scores of all levels have. Where scores change over a training run, each is told of all
    episodes, whatever their level.

    Cost: that of the scores.

    Args:
        rewards: Level to reward.

    Raises:
        ValueError: If a reward changes over a training run, and others have not the same parts.
    """

    name = "by_level"

    def __init__(self, rewards: Mapping[int, Reward]) -> None:
        super().__init__({f"level_{level}": reward for level, reward in rewards.items()})
        self.rewards = dict(rewards)
        self.low = min(one.low for one in self.rewards.values())
        self.high = max(one.high for one in self.rewards.values())
        parts = {level: sorted(one.parts) for level, one in self.rewards.items()}
        if self.changing and len(set(map(tuple, parts.values()))) > 1:
            raise ValueError(
                f"Expected the rewards of all levels to have the same parts, since they change over a run, got {parts}"
            )

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        return self.rewards[level_of(example, self.rewards)].score(example, response)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`. One for each level, over all lanes: a lane is in that of its example."""
        return _ByLevelScorer(self, num_lanes, tokenizer)

    def wrapped(self, inner: Mapping[str, Reward]) -> Reward:
        """See `Wrapper.wrapped`."""
        return ByLevel(dict(zip(self.rewards, inner.values(), strict=True)))


class _ByLevelScorer(Scorer):
    def __init__(self, reward: ByLevel, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._levels = reward.rewards
        self._parts = list(reward.parts)
        self._scorers = {level: one.scorer(num_lanes, tokenizer) for level, one in reward.rewards.items()}
        self._level = np.full(num_lanes, next(iter(self._levels)), dtype=np.int64)

    def _rows(self, lanes: NDArray[np.intp]) -> Iterator[tuple[Scorer, NDArray[np.intp]]]:
        """Each level's scorer, and the places in `lanes` that are at its level."""
        for level, scorer in self._scorers.items():
            rows = np.flatnonzero(self._level[lanes] == level)
            if len(rows):
                yield scorer, rows

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        self._level[lanes] = [level_of(example, self._levels) for example in examples]
        for scorer, rows in self._rows(lanes):
            scorer.reset(lanes[rows], [examples[row] for row in rows.tolist()])

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        scores = np.empty(len(lanes))
        for scorer, rows in self._rows(lanes):
            scores[rows] = scorer.push(lanes[rows], tokens[rows])
        return scores

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        self._level[lanes] = [level_of(example, self._levels) for example in examples]
        scores = np.empty(len(lanes))
        for scorer, rows in self._rows(lanes):
            at = rows.tolist()
            scores[rows] = scorer.score_whole(lanes[rows], [examples[i] for i in at], [responses[i] for i in at])
        return scores

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        found = {name: np.empty(len(lanes)) for name in self._parts}
        for scorer, rows in self._rows(lanes):
            scores = scorer.part_scores(lanes[rows])
            for name in found:
                found[name][rows] = scores[name]
        return found


def level_of(example: Example, levels: Mapping[int, Any]) -> int:
    """The level in an example's metadata.

    Args:
        example: The example.
        levels: The levels that there are.

    Returns:
        The level.

    Raises:
        ValueError: If it has none, or there is no such level.
    """
    level: Any = example.metadata.get("level")
    if level not in levels:
        raise ValueError(f"Expected an example whose metadata has a 'level' of {list(levels)}, got {level!r}")
    return int(level)
