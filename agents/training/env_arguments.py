"""The id and arguments of an agent's environment, which make more lanes like it, and are saved with the agent."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agents.distributed import processes
from agents.policy.gguf import is_gguf
from agents.policy.pretrained import NAMED_MODELS
from agents.training import checkpoints
from agents.training.config import RunConfig
from textenvs import Task, TextGenEnv, TextGenVectorEnv, Tokenizer
from textenvs.arguments import did_you_mean
from textenvs.datasets import Dataset, absolute_source
from textenvs.rewards import Payout
from textenvs.tokenizer import fingerprint

_MODEL_ARGUMENTS = ("model", "reference")
"""Arguments of rewards that may name a folder."""

_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Endings of the files that a model and its tokenizer are read from; a README may change."""

_DECIDED_BY_AGENT = ("num_envs", "autoreset_mode", "copy", "group_size", "tokenizer")
"""Arguments of the lanes that the agent decides, by its policy and its config."""

_PLAIN_WRAPPERS = (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker, gym.wrappers.RenderCollection)
"""Wrappers that `gym.make` puts around an environment. They change nothing of an episode."""


def described(
    env: str | gym.Env[Any, Any] | TextGenVectorEnv, env_kwargs: Mapping[str, Any] | None, tokenizer: Tokenizer
) -> tuple[str | None, dict[str, Any]]:
    """Returns the id and arguments of an environment, so that others like it can be made.

    Args:
        env: A registered id, or an environment.
        env_kwargs: Arguments, with an id.
        tokenizer: The policy's tokenizer.

    Returns:
        Id and arguments, without those that the agent decides, and with absolute paths of data and of rewards' models.
        The id is None where lanes were made without one.

    Raises:
        TypeError: If there is no such argument; says which is closest.
        ValueError: If lanes made by id and arguments would not be the environment that was given.
    """
    if isinstance(env, str):
        check_arguments(env, env_kwargs or {})
        return env, _with_absolute_paths(env_kwargs or {})
    if env_kwargs:
        raise ValueError("Expected env_kwargs only with an environment id, got them with an environment object")
    inner: Any = env.unwrapped
    if not isinstance(inner, (TextGenEnv, TextGenVectorEnv)):
        raise ValueError(f"Expected a textenvs environment or the id of one, got {env!r}")
    layer: Any = env
    while layer is not inner:
        if not isinstance(layer, _PLAIN_WRAPPERS):
            raise ValueError(
                f"Expected an environment without wrappers, which an agent would not use, got {type(layer).__name__} "
                "around one: the agent plays many lanes, which it makes by the id. Put the change into the id's "
                "arguments (reward=, payout=, max_new_tokens=, ...)"
            )
        layer = layer.env
    if inner.tokenizer is not tokenizer and fingerprint(inner.tokenizer) != fingerprint(tokenizer):
        raise ValueError(
            f"Expected an environment with the policy's tokenizer ({tokenizer!r}), got one with {inner.tokenizer!r}: "
            "pass the environment's id, or tokenizer=policy.tokenizer when you make it"
        )
    spec = inner.spec
    if spec is None and isinstance(inner, TextGenEnv):
        raise ValueError(NO_ID)
    kwargs = {} if spec is None else dict(spec.kwargs)
    for name in ("vectorization_mode", "render_mode", *_DECIDED_BY_AGENT):
        kwargs.pop(name, None)
    return (None if spec is None else spec.id), _with_absolute_paths(kwargs)


def _with_absolute_paths(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments that name the same files when a run goes on in another working directory."""
    kwargs = dict(env_kwargs)
    task = kwargs.get("task")
    if isinstance(task, Mapping):
        kwargs["task"] = {
            name: {**settings, "data": absolute_source(settings["data"])}
            if isinstance(settings, Mapping) and settings.get("data") is not None
            else settings
            for name, settings in task.items()
        }
    if kwargs.get("data") is not None:
        kwargs["data"] = absolute_source(kwargs["data"])
    if "reward" in kwargs:
        kwargs["reward"] = _with_absolute_models(kwargs["reward"])
    return kwargs


def _with_absolute_models(reward: Any) -> Any:
    """Returns a reward with absolute paths of the folders that its parts read models from."""
    if isinstance(reward, list):
        return [_with_absolute_models(part) for part in reward]
    if not isinstance(reward, Mapping):
        return reward
    parts = {name: _with_absolute_models(part) for name, part in reward.items()}
    for name in _MODEL_ARGUMENTS:
        folder = parts.get(name)
        if not isinstance(folder, (str, Path)) or folder in NAMED_MODELS:
            continue
        path = Path(folder).expanduser()
        if path.is_dir() or (is_gguf(str(path)) and path.is_file()):
            parts[name] = str(path.absolute())
    return parts


def model_digests(env_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digests of what a reward reads models from.

    Args:
        env_kwargs: The environment's arguments, with absolute paths.

    Returns:
        Folder, or GGUF file, to the SHA-256 of the names and contents of the files that a model is read from.
    """
    return {path: _model_digest(Path(path)) for path in sorted(set(_model_paths(env_kwargs.get("reward"))))}


def _model_paths(reward: Any) -> Iterator[str]:
    """Yields the folders and files in a reward's arguments."""
    parts = reward.values() if isinstance(reward, Mapping) else reward if isinstance(reward, list) else ()
    for part in parts:
        yield from _model_paths(part)
    for name in _MODEL_ARGUMENTS if isinstance(reward, Mapping) else ():
        path = reward.get(name)
        if isinstance(path, str) and Path(path).is_absolute() and Path(path).exists():
            yield path


def _model_digest(path: Path) -> str:
    """Computes the digest of a model's folder or file."""
    digest = hashlib.sha256()
    inside = [file for file in path.rglob("*") if file.suffix in _MODEL_FILES and file.is_file()]
    for file in sorted(inside) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path).as_posix()} {checkpoints.fingerprint(file)['sha256']}\n".encode())
    return digest.hexdigest()


def check_models(now: Mapping[str, str], before: Mapping[str, str], folder: str | Path) -> None:
    """Raises unless the models that a run's reward reads are what they were.

    Args:
        now: Their digests.
        before: Those in the run's checkpoint.
        folder: The run's, for the message.

    Raises:
        ValueError: If one is another model now.
    """
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            raise ValueError(
                f"Expected the model in {name!r} that the reward of the run in {str(folder)!r} read (digest "
                f"{before[name]!s:.12}), got another (digest {now[name]:.12}): put the old one back, or go on with "
                f"the new one, load({str(folder)!r}, data_changed=True), on the command line --data-changed"
            )


def check_fits(env: TextGenVectorEnv, payout: Payout, config: RunConfig) -> None:
    """Raises unless an environment and a config fit each other.

    Args:
        env: The lanes that are trained in.
        payout: Their payout.
        config: The agent's config.

    Raises:
        ValueError: If they do not; says in what.
    """
    if env.group_size != config.group_size:
        raise ValueError(
            f"Expected an environment with the config's group_size={config.group_size}, got {env.group_size}"
        )
    if payout.gamma is not None and payout.gamma != config.gamma:
        raise ValueError(
            f"Expected the agent's gamma to be the shaped payout's, {payout.gamma}, got {config.gamma}: shaping "
            "leaves the best policy as it is only where the two agree"
        )
    if env.curriculum is not None and config.episodes_per_update < env.num_envs:
        raise ValueError(  # lanes that idle in a rollout would count as failures
            f"Expected episodes_per_update to be at least num_envs={env.num_envs} with a curriculum, got "
            f"{config.episodes_per_update}"
        )
    if env.curriculum is not None and processes.count() > 1:
        raise ValueError("Expected one process with a curriculum, whose level all lanes share, got several")


NO_ID = (
    "Expected an environment's id, or what gym.make or gym.make_vec made of one, so that others like it can be made, "
    "got an environment whose class was called by hand: it has no spec"
)
"""The message about an environment object that was not made by a registered id."""


def check_arguments(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Raises unless lanes of an id take these arguments. Ids with a class of their own are not checked.

    Args:
        env_id: The id.
        env_kwargs: The arguments.

    Raises:
        TypeError: If there is no such argument; says which is closest.
    """
    spec = gym.registry.get(env_id)
    if spec is None or spec.vector_entry_point != "textenvs.vector_env:TextGenVectorEnv":
        return
    known = [name for name in inspect.signature(TextGenVectorEnv).parameters if name not in _DECIDED_BY_AGENT]
    for name in env_kwargs:
        if name in _DECIDED_BY_AGENT:
            raise TypeError(
                f"Expected env_kwargs without {name!r}, which the agent decides by its policy and its settings"
            )
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"Expected arguments of {env_id!r} from {known}, got {name!r}.{hint}")


def saved(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Splits an environment's arguments into those that a checkpoint can hold and the names of the others.

    Args:
        env_kwargs: The arguments.

    Returns:
        `env_kwargs`, the arguments that JSON can hold, numbers of NumPy as Python's, and `env_objects`, the names of
        the others.

    Example:
        >>> saved({"max_new_tokens": np.int64(6), "reward": len})
        {'env_kwargs': {'max_new_tokens': 6}, 'env_objects': ['reward']}
    """
    plain: dict[str, Any] = {}
    objects = []
    for name, value in env_kwargs.items():
        try:
            plain[name] = json.loads(json.dumps(value, default=_as_json))
        except TypeError:
            objects.append(name)
    return {"env_kwargs": plain, "env_objects": objects}


def _as_json(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"Expected a value of JSON, got {type(value).__name__}")


def data_digest(task: Task) -> str | None:
    """Returns the digest of a task's data; None for a task that makes its examples itself.

    Args:
        task: The task.

    Returns:
        The SHA-256 of its examples.
    """
    return task.digest if isinstance(task, Dataset) else None


def check_data(task: Task, digest: str | None, env_kwargs: Mapping[str, Any], folder: str | Path) -> None:
    """Raises unless a run's data is what it was.

    Args:
        task: The task, made again.
        digest: The digest of the run's data, in its checkpoint.
        env_kwargs: The arguments that the task was made with, for the message.
        folder: The run's, for the message.

    Raises:
        ValueError: If it is other data.
    """
    now = data_digest(task)
    if digest is None or now is None or now == digest:
        return
    given, source = env_kwargs.get("task"), env_kwargs.get("data")
    if isinstance(given, Mapping) and source is None:
        source = next(iter(given.values())).get("data")
    name = "" if source is None else f" in {source!r:.200}"
    raise ValueError(
        f"Expected the data{name} that the run in {str(folder)!r} was trained on (digest {digest[:12]}), got other "
        f"data (digest {now[:12]}): put the old data back, or go on with the new one, load({str(folder)!r}, "
        "data_changed=True), on the command line --data-changed"
    )


def restored(
    env_id: str | None,
    env_kwargs: Mapping[str, Any],
    env_objects: Sequence[str],
    given: Mapping[str, Any],
    folder: str | Path,
) -> tuple[str, dict[str, Any]]:
    """Puts the id and arguments of a checkpoint's environment together.

    Args:
        env_id: The saved id.
        env_kwargs: The saved arguments.
        env_objects: Names of those that the checkpoint could not hold.
        given: The user's arguments, which are laid over the saved ones.
        folder: The run's, for the message.

    Returns:
        Id and arguments.

    Raises:
        ValueError: If something is needed that the checkpoint does not hold and the user did not give.
    """
    if env_id is None:
        raise ValueError(f"Expected env=, the environment of {str(folder)!r}, which was made without an id, got none")
    missing = [name for name in env_objects if name not in given]
    if missing:
        call = ", ".join(f"{name!r}: ..." for name in missing)
        raise ValueError(
            f"Expected env_kwargs with {', '.join(map(repr, missing))}, which the run in {str(folder)!r} had as "
            f"objects that no checkpoint can hold: load({str(folder)!r}, env_kwargs={{{call}}})"
        )
    return env_id, {**env_kwargs, **given}
