"""One episode behind the Gymnasium API: `TextGenEnv` is a view of one lane.

Nothing moves here: `textenvs.lanes` takes the step, and this file turns what the user passes into lanes, and what the
lanes hold into observations and infos.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from textenvs import render
from textenvs.arguments import names_arguments
from textenvs.lanes import Lanes
from textenvs.rewards.base import PartScores
from textenvs.seeding import seeds_of
from textenvs.setting import RENDER_MODES, EnvArguments, Setting
from textenvs.tasks import Example, Task
from textenvs.tasks.curriculum import Curriculum
from textenvs.tokenizer import Tokenizer

Observation = dict[str, NDArray[Any]]


class HasSetting:
    """The part that one lane and many have in common: what follows from their setting.

    Attributes:
        setting: The task, tokenizer, reward and numbers that the environment was made of.
        lanes: The lanes that hold its episodes.
    """

    setting: Setting
    lanes: Lanes

    @property
    def task(self) -> Task:
        """The task that the examples come from."""
        return self.setting.task

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, whose ids are the actions."""
        return self.setting.tokenizer

    @property
    def curriculum(self) -> Curriculum | None:
        """The choice of examples by level, or None where there is no curriculum."""
        return self.setting.curriculum

    def update_reward(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Moves a reward that changes over a training run: schedules, normalisers, constraints.

        Episodes under way are paid as they began; the next ones, anew. A training loop calls this between its updates.

        Args:
            progress: The share of the training that is over, from 0 to 1.
            scores: The `(episodes,)` final scores of each part, over episodes that ended. The keys are those of the
                infos without `score/`.
        """
        self.setting.reward.update(progress=progress, scores=scores)


class TextGenEnv(HasSetting, gym.Env[Observation, Any]):
    """Text generation as a token-level Markov decision process.

    - **State**: the prompt's tokens and the response's so far.
    - **Action**: one token id, `Discrete(vocab_size)`. EOS is one of them; it is counted and rewarded like the rest.
    - **Observation**: `Dict(input_ids: int32, attention_mask: int8, response_mask: int8)`, each `(max_length,)`,
      right-padded. `response_mask` marks the tokens that the agent wrote.
    - **Reward**: the score of the growing response, paid as the payout says; a Python float.
    - **End**: `terminated` at EOS (or another end of the model's turn) or when `max_new_tokens` are spent. `truncated`
      is always False. In a task of several turns, EOS ends a turn, and what the task replies joins the observation.
    - **Info**: always `score` (as far as the payout has asked for it), `response_length` and `example`; `is_success` if
      a score of success is known (`success_at`), `score/NAME` for each part of a combined reward, and `action_mask` if
      one was asked for.

    Args:
        task: A registered name, `{name: {argument: value}}`, or a `Task`.
        reward: Anything that `textenvs.make_reward` takes; None is the task's own.
        payout: "immediate", "sparse", "word", "sentence", `{"every": k}`, `{"delayed": k}` or
            `{"shaped": {"gamma": g}}`.
        tokenizer: Anything that `textenvs.make_tokenizer` takes; None is the task's own.
        max_new_tokens: The budget of an episode, in tokens; None is the task's own.
        split: "train", "validation", "test", or "shifted" where the task has that split.
        max_prompt_length: The number of tokens to cut prompts to; None is the task's own, which may be no cut.
        truncation_side: The part that a cut takes away, "left", "right" or "middle" (half of what is kept is the
            beginning, half the end); None is the task's own.
        min_new_tokens: The number of tokens that a response has before EOS or a stop sequence ends it. An earlier EOS
            is written like any other special token (and masked, see `action_mask`).
        stop: A text, or several: the token that completes one in the response ends the episode. It stays in the text.
            The name of a special token ("<|im_end|>") stands for that token, which prints nothing. EOS, the ends of
            turns that the model's `generation_config.json` lists, and the one that the chat template writes end an
            episode (or a turn) without being named here.
        action_mask: The texts that the agent is held to: a list of them, `{"regex": pattern}` (see
            `textenvs.grammars.Regex`), or "task" for those that the task allows. Infos then have `action_mask`,
            `(vocab_size,)` int8, 1 where a token may come next. The environment takes the other tokens, too, and after
            one of them nothing but EOS is left. With `min_new_tokens` and without this argument, the mask forbids EOS
            alone.
        chat_template: If True, prompts (and replies) go through the tokenizer's chat template; it must have one. A
            dict says more: `{"system": text, "date": "2026-01-01", "enable_thinking": False}` is a system message, the
            day that templates get when they ask for it, and variables of the template, by their names in it.
        curriculum: Examples of all levels of the task, harder as the success rate rises: True, or some settings of
            `textenvs.tasks.curriculum.CurriculumConfig`. It chooses on the train split; other splits have all levels.
            None: the task's own level.
        success_at: The score from which an ended episode is a success. None: the task's own, if the reward is its own;
            with another reward, infos have no `is_success`.
        render_mode: None, "ansi", "human" or "rgb_array".
        data: The data of a task that reads some: a file, a folder, the id of a data set on the Hugging Face Hub, or
            anything else that `textenvs.load_dataset` takes. None looks for the data of a public data set by itself.

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
        chat_template: bool | Mapping[str, Any] = False,
        curriculum: bool | Mapping[str, Any] | None = None,
        success_at: float | None = None,
        render_mode: str | None = None,
        data: Any = None,
    ) -> None:
        arguments = EnvArguments(
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
            data=data,
        )
        setting = arguments.resolve()
        self._attach(setting, setting.lanes(1), 0)

    @classmethod
    def of_lane(cls, setting: Setting, lanes: Lanes, lane: int) -> TextGenEnv:
        """Makes one of many lanes look like an environment of its own, for `TextGenVectorEnv.call`.

        Args:
            setting: The setting that the lanes were made of.
            lanes: The lanes.
            lane: The number of the lane.

        Returns:
            An environment that moves when the lane does, and moves the lane when it is stepped or reset.
        """
        env = cls.__new__(cls)
        env._attach(setting, lanes, lane)
        return env

    def _attach(self, setting: Setting, lanes: Lanes, lane: int) -> None:
        self.setting = setting
        self.metadata = dict(type(self).metadata)  # a copy, since Gymnasium 1.2's vector environments write into it
        self.render_mode = setting.render_mode
        self.observation_space = setting.observation_space()
        self.action_space = setting.action_space()
        self.lanes = lanes
        self._lane = lane
        self._rows = np.array([lane])
        self._largest_reward = 0.0

    @property
    def example(self) -> Example:
        """A copy of this episode's example: environments of a task share its examples, and nobody may change them.

        An episode about another example begins with `reset(options={"example": ...})`.
        """
        self._check_begun()
        return deepcopy(self.lanes.example(self._lane))

    @property
    def response(self) -> str:
        """The agent's text in this episode so far, as the reward reads it."""
        self._check_begun()
        return self.lanes.response(self._lane)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: The seed of every episode from here on; None goes on in the present stream.
            options: `{"example": index}` names an example of the split; `{"example": Example(...)}` gives one that need
                not be in any, whose index in the info is then -1.

        Returns:
            The observation (the prompt) and the info.

        Raises:
            ValueError: If an option is unknown, the example is not in the split or its prompt is too long.
        """
        super().reset(seed=seed)
        if seed is not None or not self.lanes.begun[self._lane]:
            self.lanes.seed(self._rows, seeds_of(self.np_random_seed, 1))
        self.lanes.reset(self._rows, chosen_examples(options, self.lanes, 1))
        self._largest_reward = 0.0
        if self.render_mode == "human":
            render.show(render.ansi(render.lane_segments(self.lanes, self._lane), color=render.takes_colors()), end="")
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Writes one token.

        Args:
            action: A token id.

        Returns:
            Observation, reward, terminated, truncated (always False), info.

        Raises:
            ResetNeeded: If no episode runs.
            ValueError: If the action is not a token id.
            TypeError: If the action is not a whole number.
            RewardError: If the reward fails.
        """
        self._check_begun()
        lanes, lane = self.lanes, self._lane
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
            # The token, and the task's reply behind it, if there is one: as many tokens as the context has grown.
            latest = render.lane_segments(lanes, lane)[context - lanes.context_length.item(lane) - 1 :]
            text = render.ansi(latest, scale=self._largest_reward or None, color=render.takes_colors())
            render.show(text, end="\n" if terminated else "")
        return self._observation(), reward, terminated, False, self._info()

    def render(self) -> Any:
        """Renders the episode so far.

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
        return render.render_lane(self.lanes, self._lane, self.render_mode, self.task.name)

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns the tokens that may come next, under the name that sb3-contrib's MaskablePPO calls.

        Returns:
            `(vocab_size,)` bool; all True if the environment has no mask.

        Raises:
            ResetNeeded: If no episode has begun.
        """
        self._check_begun()
        masks = self.lanes.action_masks(self._rows)
        return np.ones(self.tokenizer.vocab_size, dtype=np.bool_) if masks is None else masks[0] == 1

    def _check_begun(self) -> None:
        if not self.lanes.begun.item(self._lane):
            raise ResetNeeded("No episode has begun: call env.reset() first.")

    def _observation(self) -> Observation:
        lanes, lane = self.lanes, self._lane
        return {
            "input_ids": lanes.input_ids[lane].copy(),
            "attention_mask": lanes.attention_mask[lane].copy(),
            "response_mask": lanes.response_mask[lane].copy(),
        }

    def _info(self) -> dict[str, Any]:
        lanes, lane = self.lanes, self._lane
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
    """Reads the examples from a reset's options.

    Args:
        options: `{"example": index}`, `{"example": Example(...)}` or a list of either, or None.
        lanes: The lanes, whose pool the indices are of.
        count: The number of lanes that are reset.

    Returns:
        `(count,)` indices into the pool, or as many examples, or None if the options name none.

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
    if isinstance(given, (list, tuple)) and len(given) == count and _are_examples(given):
        return list(given)
    indices = np.asarray(given)
    if indices.dtype.kind not in "iu" or indices.shape not in ((), (count,)):
        raise ValueError(
            f"Expected options['example'] to be one index, one Example, or {count} of either, got {given!r}"
        )
    if indices.min() < 0 or indices.max() >= len(lanes.pool):
        raise ValueError(f"Expected options['example'] from 0 to {len(lanes.pool) - 1}, got {given!r}")
    return np.broadcast_to(indices.astype(np.int64), (count,))


def _are_examples(values: Iterable[Any]) -> bool:
    return all(isinstance(value, Example) for value in values)
