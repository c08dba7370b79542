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
    the budget is the largest of all levels. The shifted split is that of the highest level.

    Args:
        task: A registered task with levels, by its name or as `{name: {argument: value}}`, without `level`.
        lowest: The first level.
        highest: The last level; None is the task's last one.

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
        specification = {task: {}} if isinstance(task, str) else task
        if not isinstance(specification, Mapping):
            raise TypeError(
                f"Expected a task's name or {{name: arguments}}, of which every level can be made, got {task!r}"
            )
        registered = make_task(specification)
        if registered.levels < 2:
            raise ValueError(f"Expected a task with several levels, got {registered.name!r}, which has one")
        ((name, arguments),) = specification.items()
        if "level" in arguments:
            raise ValueError(f"Expected a task without 'level', since all are made, got level={arguments['level']!r}")
        lowest = check_level(lowest, registered.levels)
        highest = check_level(registered.levels if highest is None else highest, registered.levels)
        if highest < lowest:
            raise ValueError(f"Expected highest to be at least lowest={lowest}, got {highest}")
        self.of = registered.name
        self._levels = {level: make_task({name: {**arguments, "level": level}}) for level in range(lowest, highest + 1)}
        tasks, top = list(self._levels.values()), self._levels[highest]
        self.splits = top.splits  # type: ignore[misc]  # those of the instance's task
        rewards = {level: make_reward(of_level.default_reward) for level, of_level in self._levels.items()}
        # `ByLevel` costs a look at every lane's level, so it is left out if the levels share one reward.
        same = all(of_level.default_reward == top.default_reward for of_level in tasks)
        self.default_reward = top.default_reward if same else ByLevel(rewards)
        self.default_tokenizer = top.default_tokenizer
        self.held_out_reward = top.held_out_reward
        self.default_max_new_tokens = max(of_level.default_max_new_tokens for of_level in tasks)
        self.max_turns = max(of_level.max_turns for of_level in tasks)
        self.max_reply_tokens = max(of_level.max_reply_tokens for of_level in tasks)
        # One score for all levels: those of the levels are close together, and not every level has one.
        known = [candidate.success_score for candidate in (*tasks, registered) if candidate.success_score is not None]
        self.success_score = max(known, default=None)

    def _tasks_of(self, split: str) -> list[tuple[int, Task]]:
        check_split(split, self.splits)
        levels = list(self._levels.items())
        return levels[-1:] if split == SHIFTED else levels

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split, over all levels."""
        return sum(task.num_examples(split) for _, task in self._tasks_of(split))

    def example(self, split: str, index: int) -> Example:
        """Returns the example at an index of a split, the examples of the easiest level first."""
        rest = index
        for level, task in self._tasks_of(split):
            count = task.num_examples(split)
            if 0 <= rest < count:
                return _with_level(level, task.example(split, rest))
            rest -= count
        raise IndexError(f"Expected an index in [0, {self.num_examples(split)}), got {index}")

    def _task_of(self, example: Example) -> Task:
        return self._levels[level_of(example, self._levels)]

    def demonstration(self, example: Example) -> str:
        """Returns the demonstration of the example's level."""
        return self._task_of(example).demonstration(example)

    def counterpart(self, example: Example) -> Example | None:
        """Returns the counterpart of the example's level, with the same level."""
        level = level_of(example, self._levels)
        other = self._levels[level].counterpart(example)
        return None if other is None else _with_level(level, other)

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        """Returns the texts that the example's level allows."""
        return self._task_of(example).allowed(example, turns)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the reply of the example's level, or None after as many turns as that level has."""
        task = self._task_of(example)
        return task.reply(example, turns) if len(turns) < task.max_turns else None

    def replies(self, example: Example) -> Iterable[str]:
        """Returns the replies of the example's level."""
        return self._task_of(example).replies(example)

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """Returns exact scores for diagnostic tasks, at the largest budget of the levels, and None for others.

        A level by itself has a smaller budget, and so another random score.
        """
        means, counts = [], []
        for _, task in self._tasks_of(split):
            if not isinstance(task, Diagnostic):
                return None
            means.append(task.random_score(split, self.default_max_new_tokens))
            counts.append(task.num_examples(split))
        return ReferenceScores(random=float(np.average(means, weights=counts)), demonstration=1.0, top=1.0)


def _with_level(level: int, example: Example) -> Example:
    """Returns an example with its level in its metadata."""
    return Example(example.prompt, example.references, {**example.metadata, "level": level})


class ByLevel(Wrapper):
    """Another score for each level: the score of the `level` in an example's metadata.

    Its parts are those that the scores of all levels have. Scores that change over a training run are all updated with
    all episodes, whatever their level.

    Cost: that of the scores.

    Args:
        rewards: Level to reward.

    Raises:
        ValueError: If a reward changes over a training run, and the rewards do not have the same parts.
    """

    name = "by_level"

    def __init__(self, rewards: Mapping[int, Reward]) -> None:
        super().__init__({f"level_{level}": reward for level, reward in rewards.items()})
        self.rewards = dict(rewards)
        self.low = min(reward.low for reward in self.rewards.values())
        self.high = max(reward.high for reward in self.rewards.values())
        parts = {level: sorted(reward.parts) for level, reward in self.rewards.items()}
        if self.changing and len(set(map(tuple, parts.values()))) > 1:
            raise ValueError(
                f"Expected the rewards of all levels to have the same parts, since they change over a run, got {parts}"
            )

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by the score of its example's level."""
        return self.rewards[level_of(example, self.rewards)].score(example, response)

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer with one scorer for each level, over all lanes."""
        return _ByLevelScorer(self, num_lanes, tokenizer)

    def wrapped(self, inner: Mapping[str, Reward]) -> Reward:
        """Returns this score with one part of each level's score."""
        return ByLevel(dict(zip(self.rewards, inner.values(), strict=True)))


class _ByLevelScorer(Scorer):
    def __init__(self, reward: ByLevel, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._levels = reward.rewards
        self._parts = list(reward.parts)
        self._scorers = {level: inner.scorer(num_lanes, tokenizer) for level, inner in reward.rewards.items()}
        self._level = np.full(num_lanes, next(iter(self._levels)), dtype=np.int64)

    def _rows(self, lanes: NDArray[np.intp]) -> Iterator[tuple[Scorer, NDArray[np.intp]]]:
        """Yields the scorer of each level, with the indices into `lanes` of the lanes at that level."""
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
            of_level = [(examples[row], responses[row]) for row in rows.tolist()]
            level_examples, level_responses = zip(*of_level, strict=True)
            scores[rows] = scorer.score_whole(lanes[rows], level_examples, level_responses)
        return scores

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        parts = {name: np.empty(len(lanes)) for name in self._parts}
        for scorer, rows in self._rows(lanes):
            scores = scorer.part_scores(lanes[rows])
            for name, values in parts.items():
                values[rows] = scores[name]
        return parts


def level_of(example: Example, levels: Mapping[int, Any]) -> int:
    """Returns the level in an example's metadata.

    Args:
        example: The example.
        levels: The known levels.

    Returns:
        The level.

    Raises:
        ValueError: If it has none, or there is no such level.
    """
    level: Any = example.metadata.get("level")
    if level not in levels:
        raise ValueError(f"Expected an example whose metadata has a 'level' of {list(levels)}, got {level!r}")
    return int(level)
