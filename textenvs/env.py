"""One episode behind the Gymnasium API: `TextGenEnv` is one lane (see `lanes.py`)."""

from __future__ import annotations

import codecs
import operator
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from textenvs import render as views
from textenvs.lanes import Lanes, Pool, build_pools, check_count, seeds_of
from textenvs.rewards import make_reward
from textenvs.rewards.base import Reward
from textenvs.tasks import SPLITS, Example, Task, make_task
from textenvs.tokenizer import Tokenizer, fingerprint, make_tokenizer

RENDER_MODES = ("ansi", "human", "rgb_array")

Observation = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Setting:
    """What an environment is made of, after every name has been looked up. Both environments build on it.

    Attributes:
        task: Where the examples come from.
        tokenizer: Whose ids are the actions.
        reward: The score.
        payout: When it is paid, as the user wrote it.
        max_new_tokens: The budget of an episode, in actions.
        split: Which examples.
        pool: Those examples, tokenised.
        success_score: From which score on an ended episode is a success, or None.
        render_mode: One of `RENDER_MODES`, or None.
    """

    task: Task
    tokenizer: Tokenizer
    reward: Reward
    payout: Any
    max_new_tokens: int
    split: str
    pool: Pool
    success_score: float | None
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
        render_mode: str | None,
    ) -> Setting:
        """Look every name up. See `TextGenEnv` for the arguments and errors."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"Expected render_mode to be None or one of {list(RENDER_MODES)}, got {render_mode!r}")
        if split not in SPLITS:
            raise ValueError(f"Expected split to be one of {list(SPLITS)}, got {split!r}")
        found = make_task(task)
        made_tokenizer = make_tokenizer(found.default_tokenizer if tokenizer is None else tokenizer)
        made_reward = make_reward(found.default_reward if reward is None else reward)
        budget = found.default_max_new_tokens if max_new_tokens is None else max_new_tokens
        check_count("max_new_tokens", budget)
        if max_prompt_length is None:
            max_prompt_length = found.max_prompt_tokens
        side = found.truncation_side if truncation_side is None else truncation_side
        pools = _pools(task, found, made_tokenizer, max_prompt_length, side)
        if split not in pools:
            raise ValueError(f"Expected a split of task {found.name!r} that has examples, {list(pools)}, got {split!r}")
        is_default = reward is None or reward == found.default_reward
        return cls(
            task=found,
            tokenizer=made_tokenizer,
            reward=made_reward,
            payout=payout,
            max_new_tokens=budget,
            split=split,
            pool=pools[split],
            success_score=found.success_score if is_default else None,
            render_mode=render_mode,
        )

    def lanes(self, num_lanes: int) -> Lanes:
        """`num_lanes` fresh lanes of this setting."""
        return Lanes(
            num_lanes,
            self.pool,
            self.tokenizer,
            self.reward,
            self.payout,
            self.max_new_tokens,
            self.success_score,
            keep_rewards=self.render_mode is not None,
        )

    def observation_space(self) -> spaces.Dict:
        """`input_ids`, `attention_mask` and `response_mask`, each `(max_length,)`."""
        shape = (self.pool.prompts.shape[1] + self.max_new_tokens,)
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


_POOL_CACHE: OrderedDict[Any, dict[str, Pool]] = OrderedDict()
_POOL_CACHE_SIZE = 8


def _pools(
    name: Any, task: Task, tokenizer: Tokenizer, max_prompt_length: int | None, truncation_side: str
) -> dict[str, Pool]:
    """The pools of a task; those of a task that was given by name are shared, since nothing can change them."""
    if not isinstance(name, str):
        return build_pools(task, tokenizer, max_prompt_length, truncation_side)
    key = (name, type(task), fingerprint(tokenizer), max_prompt_length, truncation_side)
    if key not in _POOL_CACHE:
        _POOL_CACHE[key] = build_pools(task, tokenizer, max_prompt_length, truncation_side)
        if len(_POOL_CACHE) > _POOL_CACHE_SIZE:
            _POOL_CACHE.popitem(last=False)
    _POOL_CACHE.move_to_end(key)
    return _POOL_CACHE[key]


def segments(lanes: Lanes, lane: int) -> list[views.Segment]:
    """What one lane has to show: its prompt and each token of its response, with the reward that each was paid.

    Args:
        lanes: Lanes that keep rewards.
        lane: Which one.

    Returns:
        Segments for `textenvs.render`.
    """
    prompt_ids = lanes.input_ids[lane][(lanes.attention_mask[lane] == 1) & (lanes.response_mask[lane] == 0)]
    prompt = b"".join([lanes.tokenizer.pieces[token] for token in prompt_ids.tolist()])
    shown = [views.Segment(prompt.decode("utf-8", "replace").removeprefix(" "), "prompt", None)]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character shows with the token that completes it
    for step, token in enumerate(lanes.response_ids(lane)):
        piece = lanes.tokenizer.pieces[token]
        reward = None if lanes.token_rewards is None else float(lanes.token_rewards[lane, step])
        shown.append(views.Segment(decoder.decode(piece), "response", reward, special=not piece))
    return shown


def render_lane(lanes: Lanes, lane: int, render_mode: str, title: str) -> Any:
    """One lane as text ("ansi") or as a picture ("rgb_array").

    Args:
        lanes: Lanes that keep rewards.
        lane: Which one.
        render_mode: "ansi" or "rgb_array".
        title: What to write above a picture.

    Returns:
        A string, or `(height, width, 3)` uint8.
    """
    shown = segments(lanes, lane)
    if render_mode == "ansi":
        return views.ansi(shown)
    return views.rgb_array(shown, title=f"{title}   score {lanes.score[lane]:+.3f}")


class TextGenEnv(gym.Env[Observation, Any]):
    """Text generation as a token-level Markov decision process.

    - **State**: the prompt's tokens and the response's so far.
    - **Action**: one token id, `Discrete(vocab_size)`. EOS is one of them; it is counted and rewarded like the rest.
    - **Observation**: `Dict(input_ids: int32, attention_mask: int8, response_mask: int8)`, each `(max_length,)`,
      right-padded. `response_mask` marks the tokens that the agent wrote.
    - **Reward**: the score of the growing response, paid as the payout says; a Python float.
    - **End**: `terminated` at EOS or when `max_new_tokens` are spent. `truncated` is always False.
    - **Info**: always `score` (as far as the payout has asked for it), `is_success`, `response_length`, `example`,
      and `score/NAME` for each part of a combined reward.

    Args:
        task: A registered name, `{name: {argument: value}}`, or a `Task`.
        reward: What `textenvs.make_reward` takes; None is the task's own.
        payout: "immediate", "sparse", "word", "sentence", `{"every": k}`, `{"delayed": k}` or
            `{"shaped": {"gamma": g}}`.
        tokenizer: What `textenvs.make_tokenizer` takes; None is the task's own.
        max_new_tokens: The budget of an episode, in tokens; None is the task's own.
        split: "train", "validation" or "test".
        max_prompt_length: Cut prompts to this many tokens; None is the task's own, which may be no cut.
        truncation_side: Which end a cut takes away, "left" or "right"; None is the task's own.
        render_mode: None, "ansi", "human" or "rgb_array".

    Raises:
        ValueError: If a name is unknown or a number out of range.
        TypeError: If an argument is of the wrong kind.

    Example:
        >>> import gymnasium as gym, textenvs
        >>> env = gym.make("TextGen-v0", max_new_tokens=8)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> sorted(info)
        ['example', 'is_success', 'response_length', 'score']
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 10}

    def __init__(
        self,
        task: str | dict[str, Any] | Task = "stories",
        reward: Any = None,
        payout: Any = "immediate",
        tokenizer: Any = None,
        max_new_tokens: int | None = None,
        split: str = "train",
        max_prompt_length: int | None = None,
        truncation_side: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.setting = Setting.resolve(
            task, reward, payout, tokenizer, max_new_tokens, split, max_prompt_length, truncation_side, render_mode
        )
        self.render_mode = render_mode
        self.observation_space = self.setting.observation_space()
        self.action_space = self.setting.action_space()
        self._lanes = self.setting.lanes(1)
        self._begun = False
        self._largest_reward = 0.0

    @property
    def task(self) -> Task:
        """Where the examples come from."""
        return self.setting.task

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose ids are the actions."""
        return self.setting.tokenizer

    @property
    def example(self) -> Example:
        """The example of this episode."""
        self._check_begun()
        return self._lanes.example(0)

    @property
    def response(self) -> str:
        """What the agent has written in this episode, special tokens left out."""
        self._check_begun()
        return self._lanes.response(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Decides every episode from here on; None goes on in the present stream.
            options: `{"example": index}` names the example, by its place in the split.

        Returns:
            The observation (the prompt) and the info.

        Raises:
            ValueError: If an option is unknown or the example is not in the split.
        """
        super().reset(seed=seed)
        if seed is not None or not self._begun:
            assert self.np_random_seed is not None
            self._lanes.seed(self._lanes.all, seeds_of(self.np_random_seed, 1))
        self._lanes.reset(self._lanes.all, chosen_examples(options, self._lanes, 1))
        self._begun = True
        self._largest_reward = 0.0
        if self.render_mode == "human":
            print(views.ansi(segments(self._lanes, 0)), end="", flush=True)
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Write one token.

        Args:
            action: A token id.

        Returns:
            Observation, reward, terminated, truncated (always False), info.

        Raises:
            ResetNeeded: If no episode runs.
            ValueError: If the action is no token id.
            TypeError: If the action is not a whole number.
            RewardError: If the reward fails.
        """
        self._check_begun()
        lanes = self._lanes
        if lanes.terminated[0]:
            raise ResetNeeded("This episode is over: call env.reset() before the next env.step().")
        try:
            token = operator.index(action.item() if isinstance(action, np.ndarray) else action)
        except (TypeError, ValueError) as error:
            raise TypeError(f"Expected an action to be one token id, a whole number, got {action!r}") from error
        reward = float(lanes.step(lanes.all, np.array([token], dtype=np.int64))[0])
        terminated = bool(lanes.terminated[0])
        if self.render_mode == "human":
            self._largest_reward = max(self._largest_reward, abs(reward))
            latest = segments(lanes, 0)[-1:]
            print(views.ansi(latest, scale=self._largest_reward), end="\n" if terminated else "", flush=True)
        return self._observation(), reward, terminated, False, self._info()

    def render(self) -> Any:
        """The episode so far.

        Returns:
            A string ("ansi"), a `(height, width, 3)` uint8 picture ("rgb_array") or None ("human", which prints by
            itself while the episode runs).

        Raises:
            ResetNeeded: If no episode has begun.
        """
        if self.render_mode is None:
            gym.logger.warn("No render_mode was given: gym.make(id, render_mode='ansi') makes render() return text.")
            return None
        self._check_begun()
        if self.render_mode == "human":
            return None
        return render_lane(self._lanes, 0, self.render_mode, self.task.name)

    def _check_begun(self) -> None:
        if not self._begun:
            raise ResetNeeded("No episode has begun: call env.reset() first.")

    def _observation(self) -> Observation:
        lanes = self._lanes
        return {
            "input_ids": lanes.input_ids[0].copy(),
            "attention_mask": lanes.attention_mask[0].copy(),
            "response_mask": lanes.response_mask[0].copy(),
        }

    def _info(self) -> dict[str, Any]:
        lanes = self._lanes
        info: dict[str, Any] = {
            "score": float(lanes.score[0]),
            "is_success": bool(lanes.success[0]),
            "response_length": int(lanes.response_length[0]),
            "example": int(lanes.example_index[0]),
        }
        for name, scores in lanes.part_scores(lanes.all).items():
            info[f"score/{name}"] = float(scores[0])
        return info


def chosen_examples(options: dict[str, Any] | None, lanes: Lanes, count: int) -> NDArray[np.int64] | None:
    """The examples that a reset's options name.

    Args:
        options: `{"example": index}` or `{"example": [index, ...]}`, or None.
        lanes: Whose pool they index.
        count: How many lanes are reset.

    Returns:
        `(count,)` places in the pool, or None where the options name none.

    Raises:
        ValueError: If an option is unknown, or an index is outside the pool.
    """
    if not options:
        return None
    unknown = set(options) - {"example"}
    if unknown:
        raise ValueError(f"Expected reset options from ['example', 'reset_mask'], got {sorted(unknown)}")
    chosen = np.asarray(options["example"])
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (count,)):
        raise ValueError(f"Expected options['example'] to be one index or {count} of them, got {options['example']!r}")
    if chosen.min() < 0 or chosen.max() >= len(lanes.pool):
        raise ValueError(f"Expected options['example'] from 0 to {len(lanes.pool) - 1}, got {options['example']!r}")
    return np.broadcast_to(chosen.astype(np.int64), (count,))
