"""An environment's resolved settings."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces

from textenvs.arguments import check_count
from textenvs.lanes import Lanes
from textenvs.pool import Pool, PromptEncoder, build_pools, longest_row
from textenvs.rewards.base import Reward
from textenvs.rewards.registry import make_reward
from textenvs.tasks import Levels, Task
from textenvs.tasks.curriculum import Curriculum, CurriculumConfig
from textenvs.tasks.registry import make_task
from textenvs.tokenizer import Tokenizer, make_tokenizer

RENDER_MODES = ("ansi", "human", "rgb_array")


@dataclass(frozen=True)
class Setting:
    """What an environment is made of, after every name has been looked up. Both environments build on it.

    Attributes:
        task: Where the examples come from.
        tokenizer: Whose ids are the actions.
        reward: The score.
        payout: When it is paid, as the user wrote it.
        max_new_tokens: The budget of an episode, in actions.
        min_new_tokens: How many tokens an episode has before EOS or a stop sequence ends it.
        stop: Texts that end an episode, or None.
        action_mask: What the agent may say, as the user wrote it, or None.
        split: Which examples.
        pool: Those examples, tokenised.
        success_score: From which score on an ended episode is a success, or None: nobody has said, and infos do not.
        curriculum: Which of those examples are drawn, or None: all of them.
        render_mode: One of `RENDER_MODES`, or None.
    """

    task: Task
    tokenizer: Tokenizer
    reward: Reward
    payout: Any
    max_new_tokens: int
    min_new_tokens: int
    stop: tuple[str, ...] | None
    action_mask: Any
    split: str
    pool: Pool
    success_score: float | None
    curriculum: Curriculum | None
    render_mode: str | None

    @classmethod
    def resolve(
        cls,
        task: str | dict[str, Any] | Task,
        reward: Any,
        payout: Any,
        tokenizer: Any,
        max_new_tokens: int | None,
        split: str,
        max_prompt_length: int | None,
        truncation_side: str | None,
        min_new_tokens: int,
        stop: str | Sequence[str] | None,
        action_mask: Any,
        chat_template: bool,
        curriculum: bool | Mapping[str, Any] | None,
        success_at: float | None,
        render_mode: str | None,
    ) -> Setting:
        """Look every name up. See `TextGenEnv` for the arguments and errors."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"Expected render_mode to be None or one of {list(RENDER_MODES)}, got {render_mode!r}")
        if curriculum is False:
            curriculum = None  # while {} is one, with the default settings
        found = make_task(task) if curriculum is None else _levelled(task)
        if split not in found.splits:
            raise ValueError(f"Expected split to be one of {list(found.splits)}, got {split!r}")
        made_tokenizer = make_tokenizer(found.default_tokenizer if tokenizer is None else tokenizer)
        made_reward = make_reward(found.default_reward if reward is None else reward)
        budget = found.default_max_new_tokens if max_new_tokens is None else max_new_tokens
        check_count("max_new_tokens", budget)
        check_count("min_new_tokens", min_new_tokens, least=0)
        if min_new_tokens > budget:
            raise ValueError(f"Expected min_new_tokens to be at most max_new_tokens={budget}, got {min_new_tokens}")
        if isinstance(stop, str):
            stop = (stop,)
        if found.max_turns > 1:
            if min_new_tokens or stop is not None:
                raise ValueError(
                    f"Expected no min_new_tokens and no stop in task {found.name!r}, whose turns end with EOS alone, "
                    f"got {min_new_tokens} and {stop!r}"
                )
            if not chat_template and not hasattr(made_tokenizer, "encode_response"):
                raise ValueError(
                    f"Expected a tokenizer with encode_response(text), which makes tokens of the replies of task "
                    f"{found.name!r}, got {made_tokenizer!r}"
                )
        if action_mask == "task" and type(found).allowed is Task.allowed:
            raise ValueError(f"Expected a task that says what is allowed for action_mask='task', got {found.name!r}")
        if max_prompt_length is None:
            max_prompt_length = found.max_prompt_tokens
        side = found.truncation_side if truncation_side is None else truncation_side
        encoder = PromptEncoder(made_tokenizer, max_prompt_length, side, chat_template)
        pools = _pools(task, found, encoder, levelled=curriculum is not None)
        if split not in pools:
            raise ValueError(f"Expected a split of task {found.name!r} that has examples, {list(pools)}, got {split!r}")
        is_default = reward is None or reward == found.default_reward
        success_score = _finite("success_at", success_at)
        if success_score is None and is_default:
            success_score = found.success_score
        chosen = None
        if curriculum is not None and split == "train":  # what is measured on another split is all levels
            config = CurriculumConfig.of(curriculum)
            if config.success_at is None:
                config = replace(config, success_at=success_score)
            chosen = Curriculum(_levels_of(found, pools[split]), config)
        return cls(
            task=found,
            tokenizer=made_tokenizer,
            reward=made_reward,
            payout=payout,
            max_new_tokens=budget,
            min_new_tokens=min_new_tokens,
            stop=None if stop is None else tuple(stop),
            action_mask=action_mask,
            split=split,
            pool=pools[split],
            success_score=success_score,
            curriculum=chosen,
            render_mode=render_mode,
        )

    def lanes(self, num_lanes: int, group_size: int = 1) -> Lanes:
        """`num_lanes` fresh lanes of this setting, of which `group_size` in a row share their examples."""
        return Lanes(
            num_lanes,
            self.task,
            self.pool,
            self.tokenizer,
            self.reward,
            self.payout,
            self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            stop=self.stop,
            action_mask=self.action_mask,
            success_score=self.success_score,
            keep_rewards=self.render_mode is not None,
            curriculum=self.curriculum,
            group_size=group_size,
        )

    def observation_space(self) -> spaces.Space[Any]:
        """`input_ids`, `attention_mask` and `response_mask`, each `(max_length,)`."""
        shape = (longest_row(self.task, self.pool, self.max_new_tokens),)
        return spaces.Dict(
            {
                "input_ids": spaces.Box(0, self.tokenizer.vocab_size - 1, shape, np.int32),
                "attention_mask": spaces.Box(0, 1, shape, np.int8),
                "response_mask": spaces.Box(0, 1, shape, np.int8),
            }
        )

    def action_space(self) -> spaces.Discrete:
        """One token id."""
        return spaces.Discrete(self.tokenizer.vocab_size)


def _finite(name: str, value: Any) -> float | None:
    """A finite number, or None where none was given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Expected {name} to be a number or None, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"Expected {name} to be finite, got {value!r}")
    return float(value)


_POOL_CACHE: OrderedDict[Any, dict[str, Pool]] = OrderedDict()


_POOL_CACHE_SIZE = 32


def _levelled(task: str | Mapping[str, Any] | Task) -> Task:
    """A task at all of its levels; one that has several levels already, or examples with a level, as it is."""
    if isinstance(task, Task):
        return task
    name = task if isinstance(task, str) else next(iter(task), "")
    return make_task(task) if make_task(task).levels < 2 or name == Levels.name else Levels(task)


def _levels_of(task: Task, pool: Pool) -> list[int]:
    levels = [example.metadata.get("level") for example in pool.examples]
    wrong = next((one for one in levels if isinstance(one, bool) or not isinstance(one, int)), None)
    if None in levels or wrong is not None:
        raise ValueError(
            f"Expected a task with levels for a curriculum, by its name, or examples whose metadata has a whole number "
            f"'level', got task {task.name!r} with an example whose level is {wrong!r}"
        )
    return [one for one in levels if one is not None]


def _pools(name: Any, task: Task, encoder: PromptEncoder, levelled: bool) -> dict[str, Pool]:
    """The pools of a task; those of a task that was given by name are shared, since nothing can change them."""
    if not isinstance(name, str):
        return build_pools(task, encoder)
    # By the tokenizer's identity, which the pools keep alive: two with one vocabulary may still cut a text differently.
    key = (name, levelled, id(encoder.tokenizer), encoder.max_length, encoder.truncation_side, encoder.chat_template)
    if key not in _POOL_CACHE:
        _POOL_CACHE[key] = build_pools(task, encoder)
        if len(_POOL_CACHE) > _POOL_CACHE_SIZE:
            _POOL_CACHE.popitem(last=False)
    _POOL_CACHE.move_to_end(key)
    return _POOL_CACHE[key]
