"""The content of a checkpoint: the state of an agent, and its files.

    agent.json               `AgentState`: everything that is no tensor
    policy/                  the policy, as `Policy.save_pretrained` writes it
    reference/               the start model that KL is measured to; under adapters it is the policy's own, and not here
    optimizer.safetensors    the optimiser's tensors
    bonuses.safetensors      what the bonuses remember

How a checkpoint is written, so that it is whole or not there, is in `agents.training.checkpoints`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors.torch import save_file

from agents.bonuses import Bonuses
from agents.files import read_json
from agents.policy import gate, pretrained
from agents.policy.policy import Policy
from agents.training import checkpoints
from textenvs import Reward, TextGenVectorEnv

_FILE, _POLICY, _REFERENCE = "agent.json", "policy", "reference"
_OPTIMIZER, _BONUSES = "optimizer.safetensors", "bonuses.safetensors"


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """Everything of an agent that is no tensor, as JSON values.

    Attributes:
        algorithm: Its algorithm's name.
        config: The fields of its config.
        seed: Its seed.
        env_id: The id of its environment; None where it was made without one.
        env_kwargs: Arguments of the environment that JSON can hold.
        env_objects: Names of those that it cannot.
        data_digest: The digest of the data that the task read; None where it read none.
        model_digests: Folders of the models that the reward reads, and their digests.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        seconds: Seconds that they took.
        carried: Values kept from one update to the next beside weights and optimiser.
        reward: Schedules and normalisers of the reward.
        curriculum: The curriculum's level and counts; None where there is no curriculum.
        optimizer: The optimiser's numbers and settings, all but its tensors.
    """

    algorithm: str
    config: dict[str, Any]
    seed: int
    env_id: str | None
    env_kwargs: dict[str, Any]
    env_objects: list[str]
    data_digest: str | None
    model_digests: dict[str, str]
    timesteps: int
    updates: int
    seconds: float
    carried: dict[str, Any]
    reward: dict[str, Any]
    curriculum: dict[str, Any] | None
    optimizer: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> AgentState:
        """Reads the state that a checkpoint holds.

        Args:
            folder: The checkpoint's folder.

        Returns:
            The state.

        Raises:
            ValueError: If the file cannot be read, something is missing, or of another type.
        """
        content = {"model_digests": {}, **read_json(folder / _FILE)}  # there were none at first
        for name, kinds in _KINDS.items():
            value = content.get(name, _KINDS)
            is_number = not isinstance(value, bool) and (not isinstance(value, float) or math.isfinite(value))
            if not isinstance(value, kinds) or not is_number:
                shown = "none" if value is _KINDS else f"{value!r:.200}"
                raise ValueError(f"Expected {name} in {str(folder / _FILE)!r} as a run writes it, got {shown}")
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    def write(
        self, folder: Path, *, policy: Policy, reference: Policy, tensors: Mapping[str, torch.Tensor], bonuses: Bonuses
    ) -> None:
        """Writes the files of a checkpoint.

        Args:
            folder: An empty folder.
            policy: The policy.
            reference: The policy that KL is measured to.
            tensors: Of the optimiser, see `checkpoints.flatten_optimizer`.
            bonuses: The payments beside the score.
        """
        # Not read back each time, as save_pretrained does: that was tried when the run began.
        pretrained.save(policy, folder / _POLICY)
        if not reference.is_adapters_off:  # otherwise it is the policy's own model, which has been written
            pretrained.save(reference, folder / _REFERENCE)
        save_file(dict(tensors), folder / _OPTIMIZER)
        save_file(bonuses.state_dict(), folder / _BONUSES)
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


_KINDS: dict[str, type | tuple[type, ...]] = {
    "algorithm": str,
    "config": dict,
    "seed": int,
    "env_id": (str, NoneType),
    "env_kwargs": dict,
    "env_objects": list,
    "data_digest": (str, NoneType),
    "model_digests": dict,
    "timesteps": int,
    "updates": int,
    "seconds": (int, float),
    "carried": dict,
    "reward": dict,
    "curriculum": (dict, NoneType),
    "optimizer": dict,
}
"""The JSON type of each entry of `AgentState`."""


def read_policies(folder: Path, device: str | None) -> tuple[Policy, Policy | None]:
    """Reads the policy of a checkpoint, and the one that its KL is measured to.

    Args:
        folder: The checkpoint's folder.
        device: Where to put them; None chooses.

    Returns:
        The policy and the reference, which is None where the policy has one in itself, under its adapters.
    """
    reference = None
    if (folder / _REFERENCE).is_dir():
        reference = Policy.from_pretrained(folder / _REFERENCE, device=device)
        reference.requires_grad_(False)
    return Policy.from_pretrained(folder / _POLICY, device=device), reference


def restore_tensors(folder: Path, state: AgentState, optimizer: torch.optim.Optimizer, bonuses: Bonuses) -> None:
    """Puts an optimiser and bonuses back where a checkpoint left them.

    Args:
        folder: The checkpoint's folder.
        state: Its state.
        optimizer: A fresh one over the same parameters.
        bonuses: Those of the same config.

    Raises:
        ValueError: If they do not fit, or cannot be read.
    """
    with gate.refusing("a whole checkpoint", f"{str(folder)!r}, whose optimizer is damaged"):
        checkpoints.restore_optimizer(optimizer, gate.read_tensors(folder / _OPTIMIZER), state.optimizer)
    with gate.refusing("a whole checkpoint", f"{str(folder)!r}, whose bonuses are damaged"):
        bonuses.load_state_dict(gate.read_tensors(folder / _BONUSES))


def restore_env(env: TextGenVectorEnv, state: AgentState, *, is_other: bool, changed: set[str]) -> None:
    """Puts a reward and a curriculum back where a checkpoint left them, unless the user has chosen others.

    Args:
        env: The environment.
        state: The checkpoint's state.
        is_other: If True, the user has passed another environment.
        changed: Names of arguments that the user has laid over the saved ones.

    Raises:
        ValueError: If the checkpoint is of another reward, and the user did not ask for one.
    """
    _restore_reward(env.setting.reward, state.reward, required=not is_other and not changed & {"reward", "task"})
    is_same = not is_other and not changed & {"curriculum", "task"}
    if env.curriculum is not None and state.curriculum is not None and is_same:
        env.curriculum.load_state_dict(state.curriculum)


def _restore_reward(reward: Reward, state: dict[str, Any], *, required: bool) -> None:
    """Restores schedules and normalisers; where the reward is another one, it begins anew unless it is required."""
    fresh = reward.state_dict()
    try:
        reward.load_state_dict(state)
    except ValueError:
        if required:
            raise
        reward.load_state_dict(fresh)
