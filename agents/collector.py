"""Collects episodes: lanes of an environment, a policy that acts in them, and the `Rollout` that results."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from agents.devices import on_device
from agents.policy.policy import Policy
from agents.policy.sampling import Truncation
from agents.rollout import Rollout
from textenvs import TextGenVectorEnv
from textenvs.pool import CUT
from textenvs.tokenizer import fingerprint
from textenvs.vector_env import check_env_id


def make_env(env: str, policy: Policy, num_envs: int = 64, **kwargs: Any) -> TextGenVectorEnv:
    """Makes lanes of an environment for `collect`, with the tokenizer of a policy, and resets left to their user.

    Prompts of public data sets, which are cut in their middle where they are too long, are cut to what the policy can
    read. The environment warns of how many there are.

    Args:
        env: The id.
        policy: The policy, whose tokenizer they get.
        num_envs: Number of lanes.
        **kwargs: Arguments of the environment, `split="test"` say.

    Returns:
        The lanes. Their observations are not copied.

    Raises:
        ValueError: If the id is of no environment of textenvs.
    """
    check_env_id(env)
    kwargs = {**kwargs, "autoreset_mode": "Disabled", "copy": False, "tokenizer": policy.tokenizer}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = gym.make_vec(env, num_envs=num_envs, **kwargs)
    if not isinstance(made, TextGenVectorEnv):
        raise ValueError(f"Expected the id of a textenvs environment, got {env!r}, a {type(made).__name__}")
    prompt, row = made.setting.pool.prompts.shape[1], _max_length(made)
    has_limit = kwargs.get("max_prompt_length") is None and made.setting.pool.encoder.truncation_side == "middle"
    room = prompt - int(max(row - policy.trunk.most_tokens, 0))
    is_too_long = has_limit and 0 < room < prompt
    for warning in caught:
        if not (is_too_long and CUT in str(warning.message)):  # the cut that counts is the one below
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if is_too_long:  # prompts that may be cut are cut to what the model can read
        made = gym.make_vec(env, num_envs=num_envs, **{**kwargs, "max_prompt_length": room})
    return made  # type: ignore[return-value]  # of the same id as the first


def collect(
    env: TextGenVectorEnv,
    policy: Policy,
    num_episodes: int,
    *,
    seed: int | None = None,
    temperature: float = 1.0,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
    examples: Sequence[int] | None = None,
    truncation: Truncation | None = None,
) -> Rollout:
    """Plays whole episodes in an environment, all its lanes at once.

    Where the environment's infos have an `action_mask`, only what it allows is sampled, and log-probs are those of the
    masked distribution.

    Args:
        env: A vector environment whose `autoreset_mode` is DISABLED: `collect` says which lane gets a new episode.
        policy: The policy that plays. Its tokenizer is the environment's.
        num_episodes: Number of episodes to play.
        seed: Seeds the environment; None continues its present streams.
        temperature: Divisor of the logits.
        deterministic: If True, the likeliest token instead of a sample.
        generator: Source of the policy's randomness, on its device.
        examples: `(num_episodes,)` indices into the pool, one for each episode; None lets the environment draw them.
        truncation: Leaves unlikely tokens out. For evaluation only: see `agents.policy.sampling`.

    Returns:
        The rollout: exactly `num_episodes` rows, on the policy's device.

    Raises:
        ValueError: If the environment resets itself, its groups cannot be filled, or a number is out of range.
    """
    _check_env(env, policy, num_episodes, examples)
    recorder = _Recorder(env, num_episodes)
    num_lanes = env.num_envs
    rows = np.arange(num_lanes)  # the lanes that the policy still computes
    context = policy.context(num_lanes, _max_length(env))
    seconds = {"policy": 0.0, "environment": 0.0, "score": -env.score_seconds}
    started = time.perf_counter()

    playing = np.arange(num_lanes) < num_episodes
    begun = int(playing.sum())
    options: dict[str, Any] = {} if examples is None else {"example": _padded(examples[:begun], num_lanes)}
    observation, infos = env.reset(seed=seed, options=options)  # lanes that do not play are reset too, and idle
    recorder.begin(np.flatnonzero(playing), np.arange(begun), infos)
    masks: NDArray[np.int8] | None = infos.get("action_mask")  # (lanes, vocab_size), what each lane may write next
    while playing.any():
        if 2 * np.count_nonzero(playing[rows]) <= len(rows):  # the tail: stop computing lanes with nothing left to do
            kept = np.flatnonzero(playing[rows])
            context.keep(kept)
            rows = rows[kept]
        computes_all = len(rows) == num_lanes
        input_ids, attention_mask = observation["input_ids"], observation["attention_mask"]
        lengths = (attention_mask if computes_all else attention_mask[rows]).sum(axis=1, dtype=np.int64)
        allowed = None if masks is None else masks[rows] == 1
        step = policy.step(
            context,
            input_ids if computes_all else input_ids[rows],
            lengths,
            temperature=temperature,
            deterministic=deterministic,
            generator=generator,
            allowed=allowed,
            truncation=truncation,
        )
        actions = step.actions_on_host()
        if not computes_all:  # the environment wants an action for every lane; those that idle do nothing with it
            computed, actions = actions, np.full(num_lanes, env.tokenizer.eos_token_id)
            actions[rows] = computed
        seconds["policy"] += (now := time.perf_counter()) - started

        observation, rewards, terminated, truncated, infos = env.step(actions)
        recorder.step(playing, rows, lengths, step.log_probs, step.values, rewards, allowed)
        masks = infos.get("action_mask")
        over = playing & (terminated | truncated)
        if over.any():
            lanes = np.flatnonzero(over)
            recorder.end(lanes, terminated, truncated, observation, infos)
            playing[lanes] = False
            if env.group_size > 1:  # as many episodes for every lane, so that every group is filled
                lanes = lanes[recorder.turns[lanes] < num_episodes // num_lanes]
            lanes = lanes[: num_episodes - begun]
            if len(lanes):
                episodes = begun + np.arange(len(lanes))
                observation, infos = _reset_lanes(
                    env, lanes, None if examples is None else np.asarray(examples)[episodes]
                )
                recorder.begin(lanes, episodes, infos)
                if masks is not None:  # infos of a reset are those of the lanes that were reset
                    masks[lanes] = infos["action_mask"][lanes]
                context.reset(np.flatnonzero(np.isin(rows, lanes)))
                playing[lanes] = True
                begun += len(lanes)
        seconds["environment"] += (started := time.perf_counter()) - now
    seconds["score"] += env.score_seconds
    return recorder.rollout(policy, seconds)


def _reset_lanes(
    env: TextGenVectorEnv, lanes: NDArray[np.intp], examples: NDArray[np.int64] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Begins a new episode in some lanes, of an example each, or of what the environment draws."""
    mask = np.zeros(env.num_envs, dtype=np.bool_)
    mask[lanes] = True
    options: dict[str, Any] = {"reset_mask": mask}
    if examples is not None:
        options["example"] = examples
    return env.reset(options=options)


class _ActionNumbers:
    """A number for every action, such as its log-prob, in the order in which they were computed.

    On a CPU they are copied as they come. A tensor of a few bytes that is kept from each step would lie among the
    step's logits, and glibc's malloc would then have no room there for the next ones: with a vocabulary of 50,000 the
    process grew by all logits of some rollouts (see docs/log.md).

    Args:
        most: Room for so many numbers. There are less than twice as many as actions, since lanes are dropped when half
            of them idle.
    """

    def __init__(self, most: int) -> None:
        self._on_cpu = np.empty(most, dtype=np.float32)
        self._count = 0
        self._on_device: list[Tensor] = []

    def append(self, numbers: Tensor) -> None:
        if numbers.device.type != "cpu":  # where PyTorch manages the memory itself
            self._on_device.append(numbers)
            return
        self._on_cpu[self._count : self._count + len(numbers)] = numbers.numpy()
        self._count += len(numbers)

    def read(self) -> Tensor:
        return torch.cat(self._on_device) if self._on_device else torch.from_numpy(self._on_cpu[: self._count])


class _Recorder:
    """Records episodes while lanes move on to the next ones. Rows are episodes, in the order in which they began."""

    def __init__(self, env: TextGenVectorEnv, num_episodes: int) -> None:
        length = _max_length(env)
        steps = env.setting.max_new_tokens
        self._group_size = env.group_size
        self._input_ids = np.full((num_episodes, length), env.tokenizer.pad_token_id, dtype=np.int64)
        self._shape = (num_episodes, steps)
        # Of every step, for each lane that plays: the flat index of its action in that shape, the action's position in
        # its row, its reward, and its index in the policy's numbers. All of them are put in place once, at the end.
        self._written: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
        self._terminated = np.zeros(num_episodes, dtype=np.bool_)
        self._truncated = np.zeros(num_episodes, dtype=np.bool_)
        self._scores = np.zeros(num_episodes)
        self._part_scores: dict[str, NDArray[np.float64]] = {}
        self._examples = np.zeros(num_episodes, dtype=np.int64)
        self._group = np.zeros(num_episodes, dtype=np.int64)
        self._lengths = np.zeros(num_episodes, dtype=np.int64)
        self._episode = np.zeros(env.num_envs, dtype=np.int64)  # which episode each lane is playing
        self.turns = np.zeros(env.num_envs, dtype=np.int64)  # how many each lane has begun
        self._steps = np.zeros(env.num_envs, dtype=np.int64)
        self._recorded = 0
        self._masks: NDArray[np.uint8] | None = None  # (episodes, steps, ceil(vocab_size / 8)), a bit a token
        self._log_probs = _ActionNumbers(2 * num_episodes * steps)
        self._values = _ActionNumbers(2 * num_episodes * steps)

    def begin(self, lanes: NDArray[np.intp], episodes: NDArray[np.intp], infos: dict[str, Any]) -> None:
        self._episode[lanes] = episodes
        self._steps[lanes] = 0
        self._examples[episodes] = infos["example"][lanes]
        # Lanes of a group play the same examples in the same order: (group, turn) names an example drawn.
        self._group[episodes] = lanes // self._group_size + self.turns[lanes] * len(self.turns)
        self.turns[lanes] += 1

    def step(
        self,
        playing: NDArray[np.bool_],
        rows: NDArray[np.intp],
        lengths: NDArray[np.int64],
        log_probs: Tensor,
        values: Tensor,
        rewards: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None,
    ) -> None:
        computed = np.flatnonzero(playing[rows])  # indices of the playing lanes among those that were computed
        lanes = rows[computed]
        episodes, steps = self._episode[lanes], self._steps[lanes]
        # An action stands where its row ended before it: at position `lengths`.
        self._written.append(
            (episodes * self._shape[1] + steps, lengths[computed], rewards[lanes], computed + self._recorded)
        )
        if allowed is not None:
            if self._masks is None:
                width = -(-allowed.shape[1] // 8)
                self._masks = np.zeros((*self._shape, width), dtype=np.uint8)
            self._masks[episodes, steps] = np.packbits(allowed[computed], axis=1, bitorder="little")
        self._steps[lanes] += 1
        self._recorded += len(rows)
        self._log_probs.append(log_probs)
        self._values.append(values)

    def end(
        self,
        lanes: NDArray[np.intp],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: dict[str, Any],
        infos: dict[str, Any],
    ) -> None:
        episodes = self._episode[lanes]
        self._input_ids[episodes] = observation["input_ids"][lanes]
        self._lengths[episodes] = observation["attention_mask"][lanes].sum(axis=1)
        self._terminated[episodes] = terminated[lanes]
        self._truncated[episodes] = truncated[lanes]
        self._scores[episodes] = infos["score"][lanes]
        for key in infos:
            if key.startswith("score/"):
                name = key.removeprefix("score/")
                self._part_scores.setdefault(name, np.zeros(len(self._scores)))[episodes] = infos[key][lanes]

    @torch.no_grad()
    def rollout(self, policy: Policy, seconds: dict[str, float]) -> Rollout:
        cells, lengths, paid, sources = (np.concatenate(parts) for parts in zip(*self._written, strict=True))
        steps = int((cells % self._shape[1]).max()) + 1
        length = int(self._lengths.max())
        device = policy.device

        def tensor(array: NDArray[Any]) -> Tensor:
            return on_device(np.ascontiguousarray(array), device)

        def on_grid(written: Any, padding: Any, dtype: Any) -> Tensor:
            grid = np.full(self._shape, padding, dtype=dtype)
            grid.ravel()[cells] = written
            return tensor(grid[:, :steps])

        mask, source = on_grid(True, False, np.bool_), on_grid(sources, 0, np.int64)
        log_probs = torch.where(mask, self._log_probs.read()[source], 0.0)
        values = torch.where(mask, self._values.read()[source], 0.0)
        input_ids, positions = tensor(self._input_ids[:, :length]), on_grid(lengths, 1, np.int64)
        if policy.critic is not None:  # a trunk of its own: one pass over whole episodes, rather than a second cache
            values = policy.state_values(input_ids, positions, mask)
        last_values = torch.zeros(len(input_ids), device=device)
        if self._truncated.any():
            cut = tensor(np.flatnonzero(self._truncated))
            ends = tensor(self._lengths)[cut, None]  # where the next action would stand
            is_state = torch.ones_like(ends, dtype=torch.bool)
            last_values[cut] = policy.state_values(input_ids[cut], ends, is_state, prompts=positions[cut, 0])[:, 0]
        return Rollout(
            input_ids=input_ids,
            positions=positions,
            response_mask=mask,
            rewards=on_grid(paid, 0.0, np.float32),
            log_probs=log_probs,
            values=values,
            terminated=tensor(self._terminated),
            truncated=tensor(self._truncated),
            last_values=last_values,
            group=tensor(self._group),
            scores=tensor(self._scores.astype(np.float32)),
            examples=tensor(self._examples),
            part_scores=self._part_scores,
            action_masks=None if self._masks is None else tensor(self._masks[:, :steps]),
            seconds=seconds,
        )


def _max_length(env: TextGenVectorEnv) -> int:
    space = env.single_observation_space
    assert isinstance(space, spaces.Dict)
    shape = space["input_ids"].shape
    assert shape is not None
    return shape[0]


def _padded(examples: Sequence[int], size: int) -> NDArray[np.int64]:
    """Returns an example for each lane; the lanes that will not play take the first one's."""
    return np.array([*examples, *[examples[0]] * (size - len(examples))], dtype=np.int64)


def _check_env(env: TextGenVectorEnv, policy: Policy, num_episodes: int, examples: Sequence[int] | None) -> None:
    if env.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
        raise ValueError(
            "Expected a vector environment that leaves resets to collect, "
            f'gym.make_vec(id, autoreset_mode="Disabled"), got {env.metadata.get("autoreset_mode")}'
        )
    if num_episodes < 1:
        raise ValueError(f"Expected num_episodes to be at least 1, got {num_episodes}")
    if env.group_size > 1 and num_episodes % env.num_envs:
        raise ValueError(
            f"Expected num_episodes to be a multiple of num_envs={env.num_envs}, so that every group of "
            f"{env.group_size} is filled, got {num_episodes}"
        )
    if examples is not None and len(examples) != num_episodes:
        raise ValueError(f"Expected one example for each of {num_episodes} episodes, got {len(examples)}")
    if env.tokenizer is not policy.tokenizer and fingerprint(env.tokenizer) != fingerprint(policy.tokenizer):
        raise ValueError(
            f"Expected an environment with the policy's tokenizer ({policy.tokenizer!r}), got one with "
            f"{env.tokenizer!r}: pass tokenizer=policy.tokenizer when you make it"
        )
