"""`check_vector_env`: the contract of a vector environment."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.testing.global_generators import reseeded_global_generators


def check_vector_env(
    make: str | Callable[..., VectorEnv[Any, Any, Any]],
    make_single: Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    num_envs: int = 3,
    steps: int = 100,
    seed: int = 0,
) -> None:
    """Checks that a vector environment is Gymnasium's `SyncVectorEnv` of the single one, only faster.

    - In every autoreset mode, it returns the same as `SyncVectorEnv`: values, dtypes, keys, `final_obs` and
      `final_info`. So lane i, seeded s, is the single environment seeded s + i.
    - Observations lie in its space, and its spaces are those of the single environment, batched. Rewards are float64,
      flags bool, `truncated` is False, infos have the same keys at every step, and returned arrays never change
      afterwards (unless it says `copy = False`).
    - A reset mask resets its lanes alone, and the options stay as they were.
    - A seed decides everything, whatever the global random generators hold and whatever another environment does. A
      pickled copy goes on as the environment does.

    Actions are random tokens, with EOS often among them where the environment has a `tokenizer`.

    Args:
        make: An id that Gymnasium knows, or a function `make(num_envs=..., autoreset_mode=...)` that returns one.
        make_single: A function that makes the single environment; None if `make` is an id.
        num_envs: The number of lanes to try.
        steps: The number of steps in each mode. Some episodes have to end in that time.
        seed: The seed of the environments and of the actions.

    Raises:
        AssertionError: If the environment breaks a promise.
        TypeError: If `make` is a function and `make_single` is missing, or a number is not whole.
        ValueError: If no episode ends, or a number is below 1.

    Example:
        >>> check_vector_env("TextGen-v0", steps=40)
    """
    num_envs, steps = check_count("num_envs", num_envs), check_count("steps", steps)
    if isinstance(make, str):
        env_id = make
        checker = _VectorChecker(
            lambda **kwargs: gym.make_vec(env_id, **kwargs), lambda: gym.make(env_id), num_envs, steps, seed
        )
    elif make_single is None:
        raise TypeError("Expected make_single, which makes the single environment, since make is a function")
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
        """Makes a fresh environment."""
        return self._make(num_envs=self.num_envs, autoreset_mode=mode)

    def actions(self, envs: VectorEnv[Any, Any, Any]) -> Iterator[NDArray[np.int64]]:
        """Yields random tokens for each step, the same at every call."""
        rng = np.random.default_rng(self.seed)
        space: Any = envs.single_action_space
        for _ in range(self.steps):
            drawn = space.start + rng.integers(space.n, size=self.num_envs)
            ends = rng.random(self.num_envs) < 0.15
            yield drawn if self.eos is None else np.where(ends, self.eos, drawn)

    def played(self, mode: AutoresetMode, envs: VectorEnv[Any, Any, Any]) -> Iterator[tuple[str, Any]]:
        """Yields all that an environment returns in some episodes, each with a name for errors.

        With DISABLED, lanes that ended are reset.
        """
        yield "reset", envs.reset(seed=self.seed)
        for step, actions in enumerate(self.actions(envs)):
            result = envs.step(actions)
            yield f"step {step}", result
            over = result[2] | result[3]
            if mode == AutoresetMode.DISABLED and over.any():
                yield f"reset after step {step}", envs.reset(options={"reset_mask": over.copy()})

    def check_spaces(self, mode: AutoresetMode) -> None:
        """Checks the spaces, the number of lanes and the metadata."""
        envs, single = self.make(mode), self.make_single()
        if envs.num_envs != self.num_envs:
            raise AssertionError(f"num_envs should be {self.num_envs}, got {envs.num_envs}")
        if envs.metadata.get("autoreset_mode") != mode:
            raise AssertionError(
                f"metadata['autoreset_mode'] should be {mode}, got {envs.metadata.get('autoreset_mode')!r}"
            )
        for name in ("observation_space", "action_space"):
            space, batched = getattr(single, name), getattr(envs, name)
            if getattr(envs, f"single_{name}") != space:
                raise AssertionError(f"single_{name} should be {space}, got {getattr(envs, f'single_{name}')}")
            if batched != batch_space(space, self.num_envs):
                raise AssertionError(f"{name} should be single_{name}, batched, got {batched}")

    def check_as_sync(self, mode: AutoresetMode) -> None:
        """Checks that everything is as in Gymnasium's `SyncVectorEnv`."""
        envs = self.make(mode)
        sync = SyncVectorEnv([self.make_single] * self.num_envs, autoreset_mode=mode)
        kept: list[tuple[str, Any, Any]] = []
        keys: set[str] | None = None
        endings = 0
        for (where, ours), (_, theirs) in zip(self.played(mode, envs), self.played(mode, sync), strict=True):
            where = f"{mode.value}, {where}"
            self.check_types(envs, ours, where)
            _check_same(ours, theirs, f"{where}: ", "as SyncVectorEnv has it")
            now = set(ours[-1]) - {"final_obs", "_final_obs", "final_info", "_final_info"}
            keys = now if keys is None else keys
            if now != keys:
                raise AssertionError(
                    f"{where}: infos should have the same keys at every step, {sorted(keys ^ now)} changed"
                )
            if len(ours) == 5:
                endings += int(ours[2].sum())
            if getattr(envs.unwrapped, "copy", True):
                kept.append((where, ours, _snapshot(ours)))
        if not endings:
            raise ValueError(f"Expected an episode to end in {self.steps} steps: try more, or a smaller budget")
        for where, ours, copy in kept:
            _check_same(ours, copy, f"{where}: ", "as it was returned, after later steps")

    def check_types(self, envs: VectorEnv[Any, Any, Any], result: tuple[Any, ...], where: str) -> None:
        """Checks the types of all that is returned, and that observations lie in the space."""
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
        """Checks that a mask resets its lanes alone."""
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
        _check_same(
            _rows(after, ~mask), _rows(before, ~mask), f"{mode.value}, lanes outside a reset mask: ", "as they were"
        )

    def check_seed(self, mode: AutoresetMode) -> None:
        """Checks that the seed decides everything, and other environments nothing."""
        alone = [(where, _snapshot(result)) for where, result in self.played(mode, self.make(mode))]
        with reseeded_global_generators():
            both = zip(self.played(mode, self.make(mode)), self.played(mode, self.make(mode)), strict=True)
            for (where, expected), ((_, first), (_, second)) in zip(alone, both, strict=True):
                for got in (first, second):
                    _check_same(got, expected, f"{mode.value}, {where}, again: ", "as the same seed gave it before")

    def check_pickle(self, mode: AutoresetMode) -> None:
        """Checks that a pickled copy goes on alike."""
        envs = self.make(mode)
        envs.reset(seed=self.seed)
        actions_of_steps = list(self.actions(envs))
        first = envs.step(actions_of_steps[0])
        if mode == AutoresetMode.DISABLED and (over := first[2]).any():
            envs.reset(options={"reset_mask": over.copy()})
        try:
            copied = pickle.loads(pickle.dumps(envs))
        except Exception as error:
            raise AssertionError(f"{mode.value}: the environment should pickle, but {error!r}") from error
        for step, actions in enumerate(actions_of_steps[1:20]):
            expected, got = envs.step(actions), copied.step(actions)
            _check_same(got, expected, f"{mode.value}, step {step} of a pickled copy: ", "as in the original")


def _snapshot(value: Any) -> Any:
    """Copies a result, to compare it with later on."""
    return pickle.loads(pickle.dumps(value))


def _rows(value: Any, kept: NDArray[np.bool_]) -> Any:
    """Selects some lanes of a batch."""
    return {key: _rows(part, kept) for key, part in value.items()} if isinstance(value, dict) else value[kept]


def _check_same(got: Any, expected: Any, where: str, should: str) -> None:
    """Checks equality in value, type, dtype and keys, all the way down."""
    if type(got) is type(expected):
        if isinstance(got, dict) and got.keys() == expected.keys():
            for key in got:
                _check_same(got[key], expected[key], f"{where}[{key!r}]", should)
            return
        if isinstance(got, np.ndarray) and got.dtype == expected.dtype == object:
            got, expected = got.tolist(), expected.tolist()
        if isinstance(got, (list, tuple)) and len(got) == len(expected):
            for index, (left, right) in enumerate(zip(got, expected, strict=True)):
                _check_same(left, right, f"{where}[{index}]", should)
            return
        if isinstance(got, np.ndarray):
            if got.dtype == expected.dtype and np.array_equal(got, expected):
                return
        elif not isinstance(got, (dict, list, tuple)) and got == expected:
            return
    raise AssertionError(f"{where} should be {should}, {_short(expected)}, got {_short(got)}")


def _short(value: Any) -> str:
    """Describes a value in a line or two, for errors."""
    shown = repr(sorted(value) if isinstance(value, dict) else value)
    shown = shown if len(shown) < 400 else f"{shown[:200]} ... {shown[-200:]}"
    return f"{type(value).__name__} {shown}" if not isinstance(value, np.ndarray) else f"{value.dtype} {shown}"
