"""The config that one update is made with: every schedule and controller at its present number."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from agents.training.config import RunConfig
from agents.training.schedules import adapted_kl_coef, limited_kl_coef, schedule


def config_in_force(config: RunConfig, progress: float, kl: float, carried: MutableMapping[str, Any]) -> RunConfig:
    """Replaces what changes over a run by its present number, so that algorithms see plain constants.

    Args:
        config: The run's config.
        progress: Share of the run's tokens that are played, in [0, 1].
        kl: Nats a token to the start model, of the batch that is about to be learned from.
        carried: Where the price of KL that a controller (`kl_target`) moves is kept: the agent's.

    Returns:
        The config, with `kl_coef` and `entropy_coef` as they are in force.
    """
    kl_coef = config.kl_coef or 0.0
    if config.kl_target is not None:
        kl_coef = carried["kl_coef"] = adapted_kl_coef(carried.get("kl_coef", kl_coef), kl, config.kl_target)
    elif config.kl_limit is not None:
        kl_coef = limited_kl_coef(kl_coef, kl, config.kl_limit)
    factor = schedule(config.entropy_schedule or "constant", progress, config.entropy_final)
    return replace(config, kl_coef=kl_coef, entropy_coef=(config.entropy_coef or 0.0) * factor)
