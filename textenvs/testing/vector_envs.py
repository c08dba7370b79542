"""The contract, as checks that anybody can run on a reward, a task or a vector environment of their own.

    from textenvs.testing import check_canaries, check_reward, check_task, check_vector_env
    check_reward(MyReward())
    check_task(MyTask())
    check_canaries(MyTask(), MyReward())
    check_vector_env("MyEnv-v0")

A check passes silently, or raises with the first thing that it found wrong.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


@contextmanager
def _other_global_generators() -> Iterator[None]:
    """Global random generators in another state, and back in their own afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a careless task would use
    random.seed(20_240_229)
    np.random.seed(20_240_229)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def check_vector_env(
    make: str | Callable[..., VectorEnv[Any, Any, Any]],
    make_single: Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    num_envs: int = 3,
    steps: int = 100,
    seed: int = 0,
) -> None:
    """Hold a vector environment to what it promises: to be Gymnasium's `SyncVectorEnv` of the single one, only faster.

    - In every autoreset mode, it returns what `SyncVectorEnv` does: values, dtypes, keys, `final_obs` and `final_info`.
      So lane i, seeded s, is the single environment seeded s + i.
    - What it returns lies in its spaces, which are those of the single environment, batched. Rewards are float64, flags
      bool, `truncated` is False, infos have the same keys at every step, and nothing returned changes afterwards
      (unless it says `copy = False`).
    - A reset mask resets its lanes alone, and the options stay as they were.
    - A seed decides everything, whatever the global random generators hold and whatever another environment does. A
      pickled copy goes on as the environment does.

    Actions are random tokens, with EOS often among them where the environment has a `tokenizer`.

    Args:
        make: An id that Gymnasium knows, or a function `make(num_envs=..., autoreset_mode=...)` that returns one.
        make_single: Makes the single environment; None where `make` is an id.
        num_envs: How many lanes to try.
        steps: How many steps to take in each mode. Some episodes have to end in that time.
        seed: What all that is drawn here, and the environments, are seeded with.

    Raises:
        AssertionError: If the environment breaks a promise.
        TypeError: If `make` is a function and `make_single` is missing.
        ValueError: If no episode ends, or a number is below 1.

    Example:
        >>> check_vector_env("TextGen-v0", steps=40)
    """
    if num_envs < 1 or steps < 1:
        raise ValueError(f"Expected num_envs and steps to be at least 1, got {num_envs} and {steps}")
    if isinstance(make, str):
        env_id = make
        checker = _VectorChecker(
            lambda **kwargs: gym.make_vec(env_id, **kwargs), lambda: gym.make(env_id), num_envs, steps, seed
        )
    elif make_single is None:
        raise TypeError("Expected make_single, which makes the single environment, where make is a function")
    else:
        checker = _VectorChecker(make, make_single, num_envs, steps, seed)
    for mode in AutoresetMode:
        checker.check_spaces(mode)
        checker.check_as_sync(mode)
        checker.check_reset_mask(mode)
        checker.check_seed(mode)
        checker.check_pickle(mode)


class _VectorChecker:
    """The promises of one vector environment."""

    def __init__(
        self,
        make: Callable[..., VectorEnv[Any, Any, Any]],
        make_single: Callable[[], gym.Env[Any, Any]],
        num_envs: int,
        steps: int,
        seed: int,
    ) -> None:
        self._make, self.make_single = make, make_single
        self.num_envs, self.steps, self.seed = num_envs, steps, seed
        self.eos = getattr(getattr(make_single().unwrapped, "tokenizer", None), "eos_token_id", None)

    def make(self, mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        """A fresh one."""
        return self._make(num_envs=self.num_envs, autoreset_mode=mode)

    def actions(self, envs: VectorEnv[Any, Any, Any]) -> Iterator[NDArray[np.int64]]:
        """Random tokens for each step, the same at every call."""
        rng = np.random.default_rng(self.seed)
        space: Any = envs.single_action_space
        for _ in range(self.steps):
            drawn = space.start + rng.integers(space.n, size=self.num_envs)
            ends = rng.random(self.num_envs) < 0.15
            yield drawn if self.eos is None else np.where(ends, self.eos, drawn)

    def played(self, mode: AutoresetMode, envs: VectorEnv[Any, Any, Any]) -> Iterator[tuple[str, Any]]:
        """All that an environment returns in some episodes, and where. Ended lanes are reset when that is asked for."""
        yield "reset", envs.reset(seed=self.seed)
        for step, actions in enumerate(self.actions(envs)):
            result = envs.step(actions)
            yield f"step {step}", result
            over = result[2] | result[3]
            if mode == AutoresetMode.DISABLED and over.any():
                yield f"reset after step {step}", envs.reset(options={"reset_mask": over.copy()})

    def check_spaces(self, mode: AutoresetMode) -> None:
        """Spaces, numbers and metadata."""
        envs, single = self.make(mode), self.make_single()
        if envs.num_envs != self.num_envs:
            raise AssertionError(f"num_envs should be {self.num_envs}, got {envs.num_envs}")
        if envs.metadata.get("autoreset_mode") != mode:
            raise AssertionError(
                f"metadata['autoreset_mode'] should be {mode}, got {envs.metadata.get('autoreset_mode')!r}"
            )
        for name in ("observation_space", "action_space"):
            one, batched = getattr(single, name), getattr(envs, name)
            if getattr(envs, f"single_{name}") != one:
                raise AssertionError(f"single_{name} should be {one}, got {getattr(envs, f'single_{name}')}")
            if batched != batch_space(one, self.num_envs):
                raise AssertionError(f"{name} should be single_{name}, batched, got {batched}")

    def check_as_sync(self, mode: AutoresetMode) -> None:
        """Everything is as Gymnasium's `SyncVectorEnv` has it."""
        envs = self.make(mode)
        sync = SyncVectorEnv([self.make_single] * self.num_envs, autoreset_mode=mode)
        kept: list[tuple[str, Any, Any]] = []
        keys: set[str] | None = None
        endings = 0
        for (where, ours), (_, theirs) in zip(self.played(mode, envs), self.played(mode, sync), strict=True):
            at = f"{mode.value}, {where}"
            self.check_types(envs, ours, at)
            _check_same(ours, theirs, f"{at}: ", "as SyncVectorEnv has it")
            now = set(ours[-1]) - {"final_obs", "_final_obs", "final_info", "_final_info"}
            keys = now if keys is None else keys
            if now != keys:
                raise AssertionError(
                    f"{at}: infos should have the same keys at every step, {sorted(keys ^ now)} changed"
                )
            if len(ours) == 5:
                endings += int(ours[2].sum())
            if getattr(envs.unwrapped, "copy", True):
                kept.append((at, ours, _snapshot(ours)))
        if not endings:
            raise ValueError(f"Expected an episode to end in {self.steps} steps: try more, or a smaller budget")
        for at, ours, copy in kept:
            _check_same(ours, copy, f"{at}: ", "as it was returned, after later steps")

    def check_types(self, envs: VectorEnv[Any, Any, Any], result: tuple[Any, ...], where: str) -> None:
        """What is returned lies in the spaces, and has the types that it should."""
        if result[0] not in envs.observation_space:
            raise AssertionError(f"{where}: observations should lie in observation_space, got {result[0]!r}")
        if len(result) == 2:
            return
        for name, array, dtype in zip(
            ("rewards", "terminated", "truncated"), result[1:4], (np.float64, np.bool_, np.bool_), strict=True
        ):
            if not isinstance(array, np.ndarray) or array.shape != (self.num_envs,) or array.dtype != dtype:
                raise AssertionError(f"{where}: {name} should be ({self.num_envs},) {dtype.__name__}, got {array!r}")
        if result[3].any():
            raise AssertionError(f"{where}: truncated should be False: spending a budget is an end of the task")

    def check_reset_mask(self, mode: AutoresetMode) -> None:
        """A mask resets its lanes alone."""
        envs = self.make(mode)
        envs.reset(seed=self.seed)
        actions = next(self.actions(envs))
        actions[actions == self.eos] = 1 if self.eos == 0 else 0
        before = _snapshot(envs.step(actions)[0])
        mask = np.arange(self.num_envs) % 2 == 0
        options = {"reset_mask": mask}
        after, _ = envs.reset(options=options)
        if (
            list(options) != ["reset_mask"]
            or options["reset_mask"] is not mask
            or mask.tolist() != [lane % 2 == 0 for lane in range(self.num_envs)]
        ):
            raise AssertionError(f"{mode.value}: a reset should leave its options as they are, got {options}")
        one, other = _rows(after, ~mask), _rows(before, ~mask)
        _check_same(one, other, f"{mode.value}, lanes outside a reset mask: ", "as they were")

    def check_seed(self, mode: AutoresetMode) -> None:
        """A seed decides everything, and other environments nothing."""
        alone = [(where, _snapshot(result)) for where, result in self.played(mode, self.make(mode))]
        with _other_global_generators():
            both = zip(self.played(mode, self.make(mode)), self.played(mode, self.make(mode)), strict=True)
            for (where, expected), ((_, one), (_, other)) in zip(alone, both, strict=True):
                for got in (one, other):
                    _check_same(got, expected, f"{mode.value}, {where}, again: ", "as the same seed gave it before")

    def check_pickle(self, mode: AutoresetMode) -> None:
        """A pickled copy goes on alike."""
        envs = self.make(mode)
        envs.reset(seed=self.seed)
        rest = list(self.actions(envs))
        first = envs.step(rest[0])
        if mode == AutoresetMode.DISABLED and (over := first[2]).any():
            envs.reset(options={"reset_mask": over.copy()})
        try:
            again = pickle.loads(pickle.dumps(envs))
        except Exception as error:
            raise AssertionError(f"{mode.value}: the environment should pickle, but {error!r}") from error
        for step, actions in enumerate(rest[1:20]):
            one, other = envs.step(actions), again.step(actions)
            _check_same(other, one, f"{mode.value}, step {step} of a pickled copy: ", "as in the original")


def _snapshot(value: Any) -> Any:
    """What was returned, as it was at that time."""
    return pickle.loads(pickle.dumps(value))


def _rows(value: Any, kept: NDArray[np.bool_]) -> Any:
    """Some lanes of what is batched."""
    return {key: _rows(part, kept) for key, part in value.items()} if isinstance(value, dict) else value[kept]


def _check_same(one: Any, other: Any, where: str, should: str) -> None:
    """Equal in value, type, dtype and keys, all the way down."""
    if type(one) is type(other):
        if isinstance(one, dict) and one.keys() == other.keys():
            for key in one:
                _check_same(one[key], other[key], f"{where}[{key!r}]", should)
            return
        if isinstance(one, np.ndarray) and one.dtype == other.dtype == object:
            one, other = one.tolist(), other.tolist()
        if isinstance(one, (list, tuple)) and len(one) == len(other):
            for place, (left, right) in enumerate(zip(one, other, strict=True)):
                _check_same(left, right, f"{where}[{place}]", should)
            return
        if isinstance(one, np.ndarray):
            if one.dtype == other.dtype and np.array_equal(one, other):
                return
        elif not isinstance(one, (dict, list, tuple)) and one == other:
            return
    raise AssertionError(f"{where} should be {should}, {_short(other)}, got {_short(one)}")


def _short(value: Any) -> str:
    """What it is, in a line or two."""
    shown = repr(sorted(value) if isinstance(value, dict) else value)
    shown = shown if len(shown) < 400 else f"{shown[:200]} ... {shown[-200:]}"
    return f"{type(value).__name__} {shown}" if not isinstance(value, np.ndarray) else f"{value.dtype} {shown}"
