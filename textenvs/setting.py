"""An environment's arguments, and the setting that they resolve to.

`EnvArguments` is what a user passes: names, numbers and plain dicts. `Setting` is what they stand for: the task, the
tokenizer and the reward themselves, the pool of examples, every number filled in. Both environments, the one lane and
the many, resolve their arguments here and make their lanes and spaces from the setting.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium import spaces

from textenvs.action_masks import split_stops
from textenvs.arguments import check_choice, check_count, check_number, with_plain_numbers
from textenvs.lanes import Lanes
from textenvs.pool import Pool, PromptEncoder, build_pools, longest_row
from textenvs.rewards.base import Reward
from textenvs.rewards.registry import make_reward
from textenvs.tasks import Levels, Task
from textenvs.tasks.curriculum import Curriculum, CurriculumConfig
from textenvs.tasks.registry import make_task, with_data
from textenvs.tokenizer import Tokenizer, make_tokenizer

RENDER_MODES = ("ansi", "human", "rgb_array")


@dataclass(frozen=True, kw_only=True)
class EnvArguments:
    """The arguments of a text environment, as the user gave them; `TextGenEnv` describes each, with its default."""

    task: str | dict[str, Any] | Task
    reward: Any
    payout: Any
    tokenizer: Any
    max_new_tokens: int | None
    split: str
    max_prompt_length: int | None
    truncation_side: str | None
    min_new_tokens: int
    stop: str | Sequence[str] | None
    action_mask: Any
    chat_template: bool | Mapping[str, Any]
    curriculum: bool | Mapping[str, Any] | None
    success_at: float | None
    render_mode: str | None
    data: Any = None

    def __post_init__(self) -> None:
        """Takes numbers of NumPy's for Python's: `curriculum=np.True_` is a yes, not settings."""
        for field in fields(self):
            object.__setattr__(self, field.name, with_plain_numbers(getattr(self, field.name)))

    def resolve(self) -> Setting:
        """Looks every name up, fills in what the task decides, and checks that it all goes together.

        Returns:
            The setting.

        Raises:
            ValueError: If a name is unknown, a number is out of range, or two arguments exclude each other.
            TypeError: If an argument is of the wrong type.
        """
        check_choice("render_mode", self.render_mode, RENDER_MODES, optional=True)
        task = make_task(self._task) if self._curriculum is None else _with_all_levels(self._task)
        check_choice("split", self.split, task.splits)
        tokenizer = make_tokenizer(task.default_tokenizer if self.tokenizer is None else self.tokenizer)
        reward = make_reward(task.default_reward if self.reward is None else self.reward)
        budget = task.default_max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        max_new_tokens = check_count("max_new_tokens", budget)
        min_new_tokens = check_count("min_new_tokens", self.min_new_tokens, least=0)
        if min_new_tokens > max_new_tokens:
            raise ValueError(
                f"Expected min_new_tokens to be at most max_new_tokens={max_new_tokens}, got {min_new_tokens}"
            )
        if self.action_mask == "task" and type(task).allowed is Task.allowed:
            raise ValueError(f"Expected a task that says what is allowed for action_mask='task', got {task.name!r}")
        if task.max_turns > 1:
            self._check_turns(task, tokenizer)
        pools = self._pools(task, tokenizer)
        pool = pools[self.split]
        stop_ids, stop_texts = split_stops(self._stop, tokenizer, max_new_tokens)
        success_score = self._success_score(task)
        return Setting(
            task=task,
            tokenizer=tokenizer,
            reward=reward,
            payout=self.payout,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=self._stop,
            stop_texts=stop_texts,
            end_ids=tuple(dict.fromkeys((*pool.encoder.end_ids, *stop_ids))),
            action_mask=self.action_mask,
            split=self.split,
            splits=tuple(pools),
            pool=pool,
            success_score=success_score,
            has_default_reward=self._has_default_reward(task),
            curriculum=self._make_curriculum(task, pool, success_score),
            render_mode=self.render_mode,
        )

    @property
    def _task(self) -> str | Mapping[str, Any] | Task:
        """The task, with the data among its arguments."""
        return self.task if self.data is None else with_data(self.task, self.data)

    @property
    def _curriculum(self) -> bool | Mapping[str, Any] | None:
        """The curriculum's settings: False is none, while {} is one with the default settings."""
        return None if self.curriculum is False else self.curriculum

    @property
    def _stop(self) -> tuple[str, ...] | None:
        if self.stop is None:
            return None
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _check_turns(self, task: Task, tokenizer: Tokenizer) -> None:
        """Raises where the arguments do not fit a task of several turns."""
        if self.min_new_tokens or self.stop is not None:
            raise ValueError(
                f"Expected no min_new_tokens and no stop in task {task.name!r}, whose turns end with EOS or the end of "
                f"a turn that the model has, got {self.min_new_tokens} and {self._stop!r}"
            )
        if not self.chat_template and not hasattr(tokenizer, "encode_response"):
            raise ValueError(
                f"Expected a tokenizer with encode_response(text), which makes tokens of the replies of task "
                f"{task.name!r}, got {tokenizer!r}"
            )

    def _pools(self, task: Task, tokenizer: Tokenizer) -> dict[str, Pool]:
        max_length = task.max_prompt_tokens if self.max_prompt_length is None else self.max_prompt_length
        side = task.truncation_side if self.truncation_side is None else self.truncation_side
        encoder = PromptEncoder(tokenizer, max_length, side, self.chat_template)
        # A task that was given by name never changes, unless it reads data, and then it has a key for it.
        by_name = self.task if isinstance(self.task, str) else None
        contents = by_name if task.contents is None else task.contents
        if contents is None:
            pools = build_pools(task, encoder)
        else:
            pools = _shared_pools(contents, task, encoder, has_all_levels=self._curriculum is not None)
        if self.split not in pools:
            raise ValueError(
                f"Expected a split of task {task.name!r} that has examples, {list(pools)}, got {self.split!r}"
            )
        return pools

    def _success_score(self, task: Task) -> float | None:
        """The score from which an episode is a success; the task's own holds for the task's own reward alone."""
        given = check_number("success_at", self.success_at, optional=True)
        return task.success_score if given is None and self._has_default_reward(task) else given

    def _has_default_reward(self, task: Task) -> bool:
        return self.reward is None or bool(self.reward == task.default_reward)

    def _make_curriculum(self, task: Task, pool: Pool, success_score: float | None) -> Curriculum | None:
        """Makes the curriculum, on the train split alone: a measurement on another split is over all levels."""
        if self._curriculum is None or self.split != "train":
            return None
        config = CurriculumConfig.of(self._curriculum)
        if config.success_at is None:
            config = replace(config, success_at=success_score)
        return Curriculum(_levels_of(task, pool), config)


@dataclass(frozen=True)
class Setting:
    """The parts of an environment, after every name has been looked up. Both environments build on it.

    Attributes:
        task: The task that the examples come from.
        tokenizer: The tokenizer, whose ids are the actions.
        reward: The score.
        payout: The payout, as the user wrote it.
        max_new_tokens: The budget of an episode, in actions.
        min_new_tokens: The number of tokens in an episode before EOS or a stop sequence ends it.
        stop: Texts and special tokens that end an episode, as the user wrote them, or None.
        stop_texts: Those of them that are texts.
        end_ids: The tokens that end an episode, or a turn: EOS first, then what else ends a turn of the model or of
            its chat template, and the special tokens in `stop`.
        action_mask: The texts that the agent is held to, as the user wrote it, or None.
        split: The split that the examples are drawn from.
        splits: The splits of the task that have examples.
        pool: Those examples, tokenised.
        success_score: The score from which an ended episode is a success, or None if nobody has said; then infos have
            no `is_success`.
        has_default_reward: True if the reward is the task's own, which its reference scores are of.
        curriculum: The choice of examples by level, or None for all of them alike.
        render_mode: One of `RENDER_MODES`, or None.
    """

    task: Task
    tokenizer: Tokenizer
    reward: Reward
    payout: Any
    max_new_tokens: int
    min_new_tokens: int
    stop: tuple[str, ...] | None
    stop_texts: tuple[str, ...]
    end_ids: tuple[int, ...]
    action_mask: Any
    split: str
    splits: tuple[str, ...]
    pool: Pool
    success_score: float | None
    has_default_reward: bool
    curriculum: Curriculum | None
    render_mode: str | None

    def lanes(self, num_lanes: int, group_size: int = 1) -> Lanes:
        """Makes fresh lanes of this setting.

        Args:
            num_lanes: The number of lanes.
            group_size: The number of lanes in a row that share their examples.

        Returns:
            The lanes.
        """
        return Lanes(
            num_lanes,
            self.task,
            self.pool,
            self.tokenizer,
            self.reward,
            self.payout,
            self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            stop=self.stop_texts or None,
            end_ids=self.end_ids,
            action_mask=self.action_mask,
            success_score=self.success_score,
            keep_rewards=self.render_mode is not None,
            curriculum=self.curriculum,
            group_size=group_size,
        )

    @property
    def turn_end_id(self) -> int:
        """The token that a demonstration's turn ends with: the chat template's, where there is one, else EOS."""
        end = self.pool.encoder.turn_end_id
        return self.tokenizer.eos_token_id if end is None else end

    def observation_space(self) -> spaces.Space[Any]:
        """Returns the space of `input_ids`, `attention_mask` and `response_mask`, each `(max_length,)`."""
        shape = (longest_row(self.task, self.pool, self.max_new_tokens),)
        return spaces.Dict(
            {
                "input_ids": spaces.Box(0, self.tokenizer.vocab_size - 1, shape, np.int32),
                "attention_mask": spaces.Box(0, 1, shape, np.int8),
                "response_mask": spaces.Box(0, 1, shape, np.int8),
            }
        )

    def action_space(self) -> spaces.Discrete:
        """Returns the space of one token id."""
        return spaces.Discrete(self.tokenizer.vocab_size)


def _with_all_levels(task: str | Mapping[str, Any] | Task) -> Task:
    """Returns a task over all of its levels. A task object is taken as it is: its examples must have levels."""
    if isinstance(task, Task):
        return task
    name = task if isinstance(task, str) else next(iter(task), "")
    return make_task(task) if make_task(task).levels < 2 or name == Levels.name else Levels(task)


def _levels_of(task: Task, pool: Pool) -> list[int]:
    levels = [example.metadata.get("level") for example in pool.examples]
    wrong = next((level for level in levels if isinstance(level, bool) or not isinstance(level, Integral)), None)
    if None in levels or wrong is not None:
        raise ValueError(
            f"Expected a task with levels for a curriculum, by its name, or examples whose metadata has a whole number "
            f"'level', got task {task.name!r} with an example whose level is {wrong!r}"
        )
    return [int(level) for level in levels if level is not None]


_POOL_CACHE: OrderedDict[Any, dict[str, Pool]] = OrderedDict()
_POOL_CACHE_SIZE = 32


def _shared_pools(contents: Hashable, task: Task, encoder: PromptEncoder, has_all_levels: bool) -> dict[str, Pool]:
    """Returns the pools of a task whose examples are told by a key. Environments share them."""
    # By the tokenizer's identity, which the pools keep alive: two with one vocabulary may still cut a text differently.
    tokenizer_id = id(encoder.tokenizer)
    chat = json.dumps(encoder.chat_template, sort_keys=True, default=repr)
    key = (contents, has_all_levels, tokenizer_id, encoder.max_length, encoder.truncation_side, chat)
    if key not in _POOL_CACHE:
        _POOL_CACHE[key] = build_pools(task, encoder)
        if len(_POOL_CACHE) > _POOL_CACHE_SIZE:
            _POOL_CACHE.popitem(last=False)
    _POOL_CACHE.move_to_end(key)
    return _POOL_CACHE[key]
