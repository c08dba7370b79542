"""One episode behind the Gymnasium API: `TextGenEnv` is one lane (see `lanes.py`)."""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from textenvs import render as views
from textenvs.arguments import names_arguments
from textenvs.curriculum import Curriculum, CurriculumConfig
from textenvs.lanes import Lanes, Pool, PromptEncoder, build_pools, check_count, longest_row, seeds_of
from textenvs.rewards import make_reward
from textenvs.rewards.base import PartScores, Reward
from textenvs.tasks import Example, Levels, Task, make_task
from textenvs.tokenizer import Tokenizer, decode_prompt, decode_tokens, make_tokenizer

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


def segments(lanes: Lanes, lane: int) -> list[views.Segment]:
    """What one lane has to show: its prompt, each token of the agent with the reward that it was paid, and replies.

    Args:
        lanes: Lanes that keep rewards.
        lane: Which one.

    Returns:
        Segments for `textenvs.render`.
    """
    pieces = lanes.tokenizer.pieces
    ids = lanes.input_ids[lane, : lanes.length[lane]].tolist()
    begin = int(lanes.prompt_length[lane])
    shown = [views.Segment(decode_prompt(lanes.tokenizer, ids[:begin]), "prompt", None)]
    texts = decode_tokens(lanes.tokenizer, ids[begin:])
    step = 0
    for token, text, mine in zip(ids[begin:], texts, lanes.response_mask[lane, begin:].tolist(), strict=False):
        if not mine:
            shown.append(views.Segment(text, "environment", None, special=not pieces[token]))
            continue
        reward = None if lanes.token_rewards is None else float(lanes.token_rewards[lane, step])
        shown.append(views.Segment(text, "response", reward, special=not pieces[token]))
        step += 1
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


def encoder_decoder(observation: Observation, decoder_start_token_id: int) -> Observation:
    """Prompt and response apart, as a Transformers encoder-decoder takes them: `model(**encoder_decoder(obs, start))`.

    Args:
        observation: One observation, or a batch of them.
        decoder_start_token_id: What the decoder reads before the response.

    Returns:
        `input_ids` and `attention_mask` with what the agent did not write (the prompt, and replies), and
        `decoder_input_ids` and `decoder_attention_mask` with the start token and what it did. Each has the shape of the
        observation's arrays and is right-padded with 0.
    """
    ids, mine = observation["input_ids"], observation["response_mask"] == 1
    prompt, prompt_mask = _packed(ids, (observation["attention_mask"] == 1) & ~mine)
    response, response_mask = _packed(ids, mine)
    # Every prompt has a token, so the response and its start fit into the same width.
    response, response_mask = np.roll(response, 1, axis=-1), np.roll(response_mask, 1, axis=-1)
    response[..., 0], response_mask[..., 0] = decoder_start_token_id, 1
    return {
        "input_ids": prompt,
        "attention_mask": prompt_mask,
        "decoder_input_ids": response,
        "decoder_attention_mask": response_mask,
    }


def _packed(ids: NDArray[Any], kept: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """The kept tokens moved to the front of their rows, and their mask."""
    order = np.argsort(~kept, axis=-1, kind="stable")
    mask = np.take_along_axis(kept, order, axis=-1)
    return np.where(mask, np.take_along_axis(ids, order, axis=-1), 0), mask.astype(np.int8)
