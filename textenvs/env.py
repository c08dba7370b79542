"""One episode behind the Gymnasium API: `TextGenEnv` is one lane (see `lanes.py`)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from textenvs import render as views
from textenvs.arguments import names_arguments
from textenvs.lanes import Lanes, render_lane, segments
from textenvs.rewards.base import PartScores
from textenvs.seeding import seeds_of
from textenvs.setting import RENDER_MODES, Setting
from textenvs.tasks import Example, Task
from textenvs.tasks.curriculum import Curriculum
from textenvs.tokenizer import Tokenizer

Observation = dict[str, NDArray[Any]]


class TextGenEnv(gym.Env[Observation, Any]):
    """Text generation as a token-level Markov decision process.

    - **State**: the prompt's tokens and the response's so far.
    - **Action**: one token id, `Discrete(vocab_size)`. EOS is one of them; it is counted and rewarded like the rest.
    - **Observation**: `Dict(input_ids: int32, attention_mask: int8, response_mask: int8)`, each `(max_length,)`,
      right-padded. `response_mask` marks the tokens that the agent wrote.
    - **Reward**: the score of the growing response, paid as the payout says; a Python float.
    - **End**: `terminated` at EOS or when `max_new_tokens` are spent. `truncated` is always False.
      In a task of several turns, EOS ends a turn, and what the task replies joins the observation.
    - **Info**: always `score` (as far as the payout has asked for it), `response_length`, `example`, `is_success` where
      a score is known from which an episode is one (see `success_at`), `score/NAME` for each part of a combined reward,
      and `action_mask` where one was asked for.

    Args:
        task: A registered name, `{name: {argument: value}}`, or a `Task`.
        reward: What `textenvs.make_reward` takes; None is the task's own.
        payout: "immediate", "sparse", "word", "sentence", `{"every": k}`, `{"delayed": k}` or
            `{"shaped": {"gamma": g}}`.
        tokenizer: What `textenvs.make_tokenizer` takes; None is the task's own.
        max_new_tokens: The budget of an episode, in tokens; None is the task's own.
        split: "train", "validation", "test", or "shifted" where the task has that split.
        max_prompt_length: Cut prompts to this many tokens; None is the task's own, which may be no cut.
        truncation_side: Which end a cut takes away, "left" or "right"; None is the task's own.
        min_new_tokens: How many tokens a response has before EOS or a stop sequence ends it. An EOS that comes earlier
            is written like any other special token (and masked, see `action_mask`).
        stop: A text, or several: the token that completes one in the response ends the episode. It stays in the text.
        action_mask: What the agent may say, as a list of texts, `{"regex": pattern}` (see `textenvs.automata.Regex`) or
            "task", what the task allows. Infos then have `action_mask`, `(vocab_size,)` int8, 1 where a token may come
            next. The environment takes the others, too: then nothing but EOS is left. With `min_new_tokens` and
            without this, the mask is there and forbids EOS alone.
        chat_template: Whether prompts (and replies) go through the chat template of the tokenizer, which must have one.
        curriculum: Examples of all levels of the task, harder as the success rate rises: True, or some settings of
            `textenvs.curriculum.CurriculumConfig`. It chooses on the train split; other splits have all levels. None:
            the task's own level.
        success_at: The score from which an ended episode is a success. None: the task's own, where the reward is its
            own; with another reward, no score is, and infos have no `is_success`.
        render_mode: None, "ansi", "human" or "rgb_array".

    Raises:
        ValueError: If a name is unknown or a number out of range.
        TypeError: If an argument is of the wrong kind.

    Example:
        >>> import gymnasium as gym, textenvs
        >>> env = gym.make("TextGen-v0", reward="length", max_new_tokens=8)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> sorted(info)
        ['example', 'response_length', 'score']
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012 - as in gym.Env

    @names_arguments
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
        min_new_tokens: int = 0,
        stop: str | Sequence[str] | None = None,
        action_mask: Any = None,
        chat_template: bool = False,
        curriculum: bool | Mapping[str, Any] | None = None,
        success_at: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        setting = Setting.resolve(
            task=task,
            reward=reward,
            payout=payout,
            tokenizer=tokenizer,
            max_new_tokens=max_new_tokens,
            split=split,
            max_prompt_length=max_prompt_length,
            truncation_side=truncation_side,
            min_new_tokens=min_new_tokens,
            stop=stop,
            action_mask=action_mask,
            chat_template=chat_template,
            curriculum=curriculum,
            success_at=success_at,
            render_mode=render_mode,
        )
        self._show(setting, setting.lanes(1), 0)

    @classmethod
    def of_lane(cls, setting: Setting, lanes: Lanes, lane: int) -> TextGenEnv:
        """One of many lanes, as an environment of its own: what `TextGenVectorEnv.call` calls.

        Args:
            setting: What the lanes were made of.
            lanes: The lanes.
            lane: Which one.

        Returns:
            An environment that moves when the lane does, and moves the lane when it is stepped or reset.
        """
        env = cls.__new__(cls)
        env._show(setting, lanes, lane)
        return env

    def _show(self, setting: Setting, lanes: Lanes, lane: int) -> None:
        self.setting = setting
        self.render_mode = setting.render_mode
        self.observation_space = setting.observation_space()
        self.action_space = setting.action_space()
        self._lanes = lanes
        self._lane = lane
        self._rows = np.array([lane])
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
    def curriculum(self) -> Curriculum | None:
        """Which examples are drawn at present, where there is a curriculum."""
        return self.setting.curriculum

    @property
    def example(self) -> Example:
        """The example of this episode, as a copy: environments of a task share its examples.

        What is changed in it changes nothing. An episode about another example begins with
        `reset(options={"example": ...})`.
        """
        self._check_begun()
        return deepcopy(self._lanes.example(self._lane))

    @property
    def response(self) -> str:
        """What the agent has written in this episode, as the reward reads it."""
        self._check_begun()
        return self._lanes.response(self._lane)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Decides every episode from here on; None goes on in the present stream.
            options: `{"example": index}` names the example by its place in the split; `{"example": Example(...)}` gives
                one that need not be in any, whose place in the info is then -1.

        Returns:
            The observation (the prompt) and the info.

        Raises:
            ValueError: If an option is unknown, the example is not in the split or its prompt is too long.
        """
        super().reset(seed=seed)
        if seed is not None or not self._lanes.begun[self._lane]:
            self._lanes.seed(self._rows, seeds_of(self.np_random_seed, 1))
        self._lanes.reset(self._rows, chosen_examples(options, self._lanes, 1))
        self._largest_reward = 0.0
        if self.render_mode == "human":
            print(views.ansi(segments(self._lanes, self._lane)), end="", flush=True)
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
        lanes, lane = self._lanes, self._lane
        if lanes.terminated.item(lane):
            raise ResetNeeded("This episode is over: call env.reset() before the next env.step().")
        try:
            token = int(operator.index(action.item() if isinstance(action, np.ndarray) else action))
        except (TypeError, ValueError) as error:
            raise TypeError(f"Expected an action to be one token id, a whole number, got {action!r}") from error
        context = lanes.context_length.item(lane)
        reward = lanes.step(lane, token)
        terminated = lanes.terminated.item(lane)
        if self.render_mode == "human":
            self._largest_reward = max(self._largest_reward, abs(reward))
            latest = segments(lanes, lane)[context - lanes.context_length.item(lane) - 1 :]  # the token, and a reply
            print(views.ansi(latest, scale=self._largest_reward or None), end="\n" if terminated else "", flush=True)
        return self._observation(), reward, terminated, False, self._info()

    def update_reward(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Move a reward that changes over a training run: schedules, normalisers, constraints.

        Episodes under way are paid as they began; the next ones, anew. A training loop calls this between its updates.

        Args:
            progress: How much of the training is over, from 0 to 1.
            scores: Part to the `(episodes,)` final scores of episodes that ended: infos' `score/NAME` without
                `score/`.
        """
        self.setting.reward.update(progress=progress, scores=scores)

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
        return render_lane(self._lanes, self._lane, self.render_mode, self.task.name)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which tokens may come next, as sb3-contrib's MaskablePPO asks for it.

        Returns:
            `(vocab_size,)` bool; all True where nothing was masked.

        Raises:
            ResetNeeded: If no episode has begun.
        """
        self._check_begun()
        masks = self._lanes.action_masks(self._rows)
        return np.ones(self.tokenizer.vocab_size, dtype=np.bool_) if masks is None else masks[0] == 1

    def _check_begun(self) -> None:
        if not self._lanes.begun.item(self._lane):
            raise ResetNeeded("No episode has begun: call env.reset() first.")

    def _observation(self) -> Observation:
        lanes, lane = self._lanes, self._lane
        return {
            "input_ids": lanes.input_ids[lane].copy(),
            "attention_mask": lanes.attention_mask[lane].copy(),
            "response_mask": lanes.response_mask[lane].copy(),
        }

    def _info(self) -> dict[str, Any]:
        lanes, lane = self._lanes, self._lane
        info: dict[str, Any] = {
            "score": lanes.score.item(lane),
            "response_length": lanes.response_length.item(lane),
            "example": lanes.example_index.item(lane),
        }
        if self.setting.success_score is not None:
            info["is_success"] = lanes.success.item(lane)
        if lanes.reports_more:
            for name, scores in lanes.part_scores(self._rows).items():
                info[f"score/{name}"] = scores.item()
            masks = lanes.action_masks(self._rows)
            if masks is not None:
                info["action_mask"] = masks[0]
        return info


def chosen_examples(
    options: dict[str, Any] | None, lanes: Lanes, count: int
) -> NDArray[np.int64] | list[Example] | None:
    """The examples that a reset's options name or give.

    Args:
        options: `{"example": index}`, `{"example": Example(...)}` or a list of either, or None.
        lanes: Whose pool the indices are of.
        count: How many lanes are reset.

    Returns:
        `(count,)` places in the pool, or as many examples, or None where the options name none.

    Raises:
        ValueError: If an option is unknown, an index is outside the pool, or there is not one for each lane.
    """
    if not options:
        return None
    unknown = set(options) - {"example"}
    if unknown:
        raise ValueError(f"Expected reset options from ['example', 'reset_mask'], got {sorted(unknown)}")
    given = options["example"]
    if isinstance(given, Example):
        return [given] * count
    if isinstance(given, (list, tuple)) and len(given) == count and all(isinstance(one, Example) for one in given):
        return list(given)
    chosen = np.asarray(given)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (count,)):
        raise ValueError(
            f"Expected options['example'] to be one index, one Example, or {count} of either, got {given!r}"
        )
    if chosen.min() < 0 or chosen.max() >= len(lanes.pool):
        raise ValueError(f"Expected options['example'] from 0 to {len(lanes.pool) - 1}, got {given!r}")
    return np.broadcast_to(chosen.astype(np.int64), (count,))
