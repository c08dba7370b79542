"""N episodes behind Gymnasium's vector API: `TextGenVectorEnv` works on the arrays of all lanes at once.

A step has no loop over lanes: `textenvs.lanes` takes it, and this file knows the three autoreset modes, the seeds of
lanes and groups, and how Gymnasium lays out the infos of many environments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs import registration
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs import render
from textenvs.arguments import check_choice, check_count, names_arguments
from textenvs.env import HasSetting, Observation, TextGenEnv, chosen_examples
from textenvs.seeding import seeds_of
from textenvs.setting import RENDER_MODES, EnvArguments
from textenvs.tasks import Task


def check_env_id(env_id: str) -> None:
    """Checks that an id makes text environments, before it is given arguments that others do not have.

    An id that Gymnasium does not know, or whose entry point is a function, passes: only making it tells more.

    Args:
        env_id: The id.

    Raises:
        ValueError: If its class is of another kind.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)
    namespace, base, version = registration.parse_env_id(name)
    if version is None:  # the latest, as in gym.make
        version = registration.find_highest_version(namespace, base)
    spec = gym.registry.get(registration.get_env_id(namespace, base, version))
    entry_point = None if spec is None else spec.vector_entry_point or spec.entry_point
    creator: Any = registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if isinstance(creator, type) and not issubclass(creator, (TextGenEnv, TextGenVectorEnv)):
        raise ValueError(
            f"Expected the id of a text environment, got {env_id!r}, which makes a {creator.__name__}: "
            "`python -m textenvs list` shows the ids"
        )


class TextGenVectorEnv(HasSetting, gym.vector.VectorEnv[Observation, NDArray[Any], NDArray[Any]]):
    """`num_envs` lanes of `TextGenEnv`: lane i, seeded s, equals a `TextGenEnv` seeded s + i, bit for bit.

    `task` and all other arguments of `TextGenEnv` mean here what they mean there. A curriculum is one for all lanes,
    which count together. The vector environment's own arguments are these:

    Args:
        num_envs: The number of lanes.
        autoreset_mode: The time when a finished lane gets its next episode: "NextStep" (Gymnasium's default),
            "SameStep" or "Disabled", or the enum. Disabled: a finished lane idles, its action ignored and its reward 0,
            until `reset(options={"reset_mask": ...})` names it.
        group_size: The number of lanes in a row that share their examples: lane i's come from seed + i // group_size.
            The n-th episodes of a group's lanes are of the same example, whenever each begins; a reset of all lanes,
            without a mask, begins the same one in all lanes of a group, wherever they were.
        copy: If True, observations are copies. False gives views that the next step changes, and costs nothing.

    Raises:
        ValueError: If a name is unknown or a number out of range.
        TypeError: If an argument is of the wrong kind.

    Example:
        >>> import gymnasium as gym, textenvs
        >>> envs = gym.make_vec("TextGen-v0", num_envs=4, autoreset_mode="SameStep")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations["input_ids"].shape[0]
        4
    """

    @names_arguments
    def __init__(
        self,
        num_envs: int = 1,
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
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        copy: bool = True,
        render_mode: str | None = None,
        data: Any = None,
    ) -> None:
        self.num_envs = check_count("num_envs", num_envs)
        self.group_size = check_count("group_size", group_size)
        if num_envs % group_size:
            raise ValueError(f"Expected num_envs to be a multiple of group_size={group_size}, got {num_envs}")
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        self.autoreset_mode = AutoresetMode(
            check_choice("autoreset_mode", mode, [each.value for each in AutoresetMode])
        )
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
        self.setting = arguments.resolve()
        self.metadata = {**TextGenEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.copy = copy
        self.single_observation_space = self.setting.observation_space()
        self.single_action_space = self.setting.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.lanes = self.setting.lanes(num_envs, group_size)
        self._views: list[TextGenEnv] = []
        self._begun = False
        self._all_lanes = np.ones(num_envs, dtype=np.bool_)
        self._all_lanes.setflags(write=False)

    @property
    def score_seconds(self) -> float:
        """Wall-clock seconds that scores and payouts have taken in steps so far."""
        return self.lanes.score_seconds

    @property
    def responses(self) -> tuple[str, ...]:
        """The agent's text in each lane so far, as the reward reads it."""
        return tuple(self.lanes.response(lane) for lane in range(self.num_envs))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode in every lane, or in those of a mask.

        Args:
            seed: The seed of every episode from here on: lane i gets seed + i // group_size; or one seed for each lane.
                None goes on in the present streams.
            options: `{"reset_mask": (num_envs,) bool}` resets only those lanes; `{"example": ...}` names or gives one
                example as `TextGenEnv.reset` takes it, or a list with one for each lane that is reset. The dict is left
                as it is.

        Returns:
            Observations of all lanes, and the infos of those that were reset.

        Raises:
            ValueError: If an option is unknown or of the wrong shape, the seeds are not one a lane, or one is below 0.
            TypeError: If the mask is not a boolean array, or a lane's seed not a whole number.
        """
        mask = self._reset_mask(options)
        lanes = np.flatnonzero(mask)
        self._seed(seed, lanes)
        if mask is self._all_lanes:
            self.lanes.join_groups()
        other_options = {key: value for key, value in (options or {}).items() if key != "reset_mask"}
        self.lanes.reset(lanes, chosen_examples(other_options, self.lanes, len(lanes)))
        return self._observations(), self._infos(mask)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Writes one token in every lane.

        Args:
            actions: `(num_envs,)` token ids.

        Returns:
            Observations, rewards `(num_envs,)` float64, terminated, truncated (all False) `(num_envs,)` bool, infos.

        Raises:
            ResetNeeded: If a lane's first episode has not begun.
            ValueError: If an action is not a token id, or there is not one for each lane.
            TypeError: If the actions are not whole numbers.
            RewardError: If the reward fails.
        """
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu":
            raise TypeError(f"Expected actions to be whole numbers, got an array of {actions.dtype}")
        if actions.shape != (self.num_envs,):
            raise ValueError(f"Expected actions of shape ({self.num_envs},), one a lane, got {actions.shape}")
        actions = actions.astype(np.int64, copy=False)
        every_lane = self.lanes.all
        return self.advance(lambda lanes: self.lanes.step(lanes, actions if lanes is every_lane else actions[lanes]))

    def advance(
        self, move: Callable[[NDArray[np.intp]], NDArray[np.float64]]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Does all of a step but write the tokens. `step` and `VectorTextAction` share it.

        Args:
            move: A function that takes the lanes `(k,)` whose episodes run, writes in each of them, and returns their
                rewards `(k,)`.

        Returns:
            The same five as `step`.

        Raises:
            ResetNeeded: If a lane's first episode has not begun.
        """
        self._check_begun()
        lanes = self.lanes
        if not np.count_nonzero(lanes.terminated):
            rewards = move(lanes.all)
        else:  # NEXT_STEP: the lanes that ended begin anew, in place of a step; DISABLED: they idle
            over, running = np.flatnonzero(lanes.terminated), np.flatnonzero(~lanes.terminated)
            rewards = np.zeros(self.num_envs)
            rewards[running] = move(running)
            if self.autoreset_mode == AutoresetMode.NEXT_STEP:
                lanes.reset(over)

        terminated = lanes.terminated.copy()
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and np.count_nonzero(terminated):
            final = self._final(terminated)
            lanes.reset(np.flatnonzero(terminated))
        infos = self._infos(self._all_lanes)
        infos.update(final)
        return self._observations(), rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), infos

    def render(self) -> tuple[Any, ...] | None:
        """Renders every lane's episode so far, each as `TextGenEnv.render` does."""
        if self.render_mode is None:
            gym.logger.warn(
                "No render_mode was given: gym.make_vec(id, render_mode='ansi') makes render() return text."
            )
            return None
        if self.render_mode == "human":
            color = render.takes_colors()
            texts = (render.ansi(render.lane_segments(self.lanes, lane), color=color) for lane in range(self.num_envs))
            render.show("\n".join(texts))
            return None
        rendered = tuple(
            render.render_lane(self.lanes, lane, self.render_mode, self.task.name) for lane in range(self.num_envs)
        )
        return rendered

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns the tokens that may come next in each lane, under the name that sb3-contrib's MaskablePPO calls.

        Returns:
            `(num_envs, vocab_size)` bool; all True if the environment has no mask.

        Raises:
            ResetNeeded: If a lane's first episode has not begun.
        """
        self._check_begun()
        masks = self.lanes.action_masks(self.lanes.all)
        return np.ones((self.num_envs, self.tokenizer.vocab_size), dtype=np.bool_) if masks is None else masks == 1

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of each lane, seen as a `TextGenEnv`, or reads an attribute, as `SyncVectorEnv.call` does.

        Args:
            name: The method or attribute.
            *args: For the method.
            **kwargs: For the method.

        Returns:
            One result for each lane.
        """
        members = [getattr(view, name) for view in self._lane_views()]
        return tuple(member(*args, **kwargs) if callable(member) else member for member in members)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Reads an attribute of each lane, seen as a `TextGenEnv`."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each lane, seen as a `TextGenEnv`.

        Args:
            name: The attribute.
            values: A list or tuple with one value for each lane, or one value for all.

        Raises:
            ValueError: If the list is of another length.
        """
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"Expected one value a lane, {self.num_envs} of them, got {len(values)}")
        for view, value in zip(self._lane_views(), values, strict=True):
            setattr(view, name, value)

    def _check_begun(self) -> None:
        if not self._begun:
            self._begun = bool(self.lanes.begun.all())  # once true, it stays so
            if not self._begun:
                raise ResetNeeded("No episode has begun in some lanes: call envs.reset() first.")

    def _lane_views(self) -> list[TextGenEnv]:
        if not self._views:
            self._views = [TextGenEnv.of_lane(self.setting, self.lanes, lane) for lane in range(self.num_envs)]
        return self._views

    def _reset_mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        if not options or "reset_mask" not in options:
            return self._all_lanes
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"Expected options['reset_mask'] to be an array of bool, got {mask!r}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"Expected options['reset_mask'] of shape ({self.num_envs},), got {mask.shape}")
        if not mask.any():
            raise ValueError("Expected options['reset_mask'] to name at least one lane, got none")
        return mask

    def _seed(self, seed: int | Sequence[int | None] | None, lanes: NDArray[np.intp]) -> None:
        if seed is not None and not isinstance(seed, (Sequence, np.ndarray)):
            base_seed: Any = seed
            if isinstance(base_seed, np.integer):
                base_seed = int(base_seed)
            super().reset(seed=base_seed)  # raises unless it is a whole number
            self.lanes.seed(lanes, seeds_of(int(seed), self.num_envs, self.group_size)[lanes])
            return
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"Expected one seed a lane, {self.num_envs} of them, got {len(seed)}")
            given = {lane: lane_seed for lane in lanes.tolist() if (lane_seed := seed[lane]) is not None}
            self.lanes.seed(np.array(list(given), dtype=np.intp), seeds_of(list(given.values()), len(given)))
            lanes = np.array([lane for lane in lanes.tolist() if seed[lane] is None], dtype=np.intp)
        never_seeded = lanes[~self.lanes.begun[lanes]]
        if len(never_seeded):  # then Gymnasium's generator, itself seeded from the system, draws the seed
            drawn = int(self.np_random.integers(2**32))
            self.lanes.seed(never_seeded, seeds_of(drawn, self.num_envs, self.group_size)[never_seeded])

    def _observations(self) -> Observation:
        lanes = self.lanes
        arrays: Observation = {
            "input_ids": lanes.input_ids,
            "attention_mask": lanes.attention_mask,
            "response_mask": lanes.response_mask,
        }
        return {key: array.copy() for key, array in arrays.items()} if self.copy else arrays

    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Lays out the infos of the lanes in a mask as Gymnasium's `SyncVectorEnv` does."""
        lanes = self.lanes
        values: dict[str, NDArray[Any]] = {
            "score": lanes.score,
            "response_length": lanes.response_length,
            "example": lanes.example_index,
        }
        if self.setting.success_score is not None:
            values["is_success"] = lanes.success
        for name, scores in lanes.part_scores(lanes.all).items():
            values[f"score/{name}"] = scores
        masks = lanes.action_masks(lanes.all)
        if masks is not None:
            values["action_mask"] = masks
        infos: dict[str, Any] = {}
        others = None if mask is self._all_lanes else ~mask
        for key, value in values.items():
            infos[key] = value.copy()
            if others is not None:
                infos[key][others] = 0
            infos[f"_{key}"] = mask.copy()
        return infos

    def _final(self, ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Returns `final_obs` and `final_info` of the lanes that ended in this step."""
        lanes = self.lanes
        rows = np.flatnonzero(ended)
        input_ids, attention, response = lanes.input_ids[rows], lanes.attention_mask[rows], lanes.response_mask[rows]
        observations = np.full(self.num_envs, None, dtype=object)
        for index, row in enumerate(rows.tolist()):
            observations[row] = {
                "input_ids": input_ids[index],
                "attention_mask": attention[index],
                "response_mask": response[index],
            }
        return {
            "final_obs": observations,
            "_final_obs": ended.copy(),
            "final_info": self._infos(ended),
            "_final_info": ended.copy(),
        }


__all__ = ["RENDER_MODES", "TextGenVectorEnv", "check_env_id"]
