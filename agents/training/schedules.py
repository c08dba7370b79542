"""Schedules: how the learning rate, the entropy bonus and the price of KL change over a run."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from agents.training.config import RunConfig, Schedule

STAGES = 4
"""Equal stages of the stepwise schedule."""


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


def schedule(name: Schedule, progress: float, final: float) -> float:
    """Computes the factor of a schedule: 1 at the start of training, `final` at its end.

    A function of the progress alone, so a run that goes on from a checkpoint needs no state for it.

    Args:
        name: "constant"; "linear"; "cosine", half a period; "exponential", the same factor over equal times, as torch's
            `ExponentialLR`; "inverse", `1 / (1 + c * progress)`; "stepwise", four equal stages, each the same factor
            below the one before, as torch's `StepLR`.
        progress: From 0 to 1; beyond, it counts as 1.
        final: The factor at the end, in (0, 1]. "constant" does not read it.

    Returns:
        The factor.

    Raises:
        ValueError: If there is no such schedule.

    Example:
        >>> [round(schedule("linear", progress, 0.5), 3) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.75, 0.5]
    """
    progress = min(max(progress, 0.0), 1.0)
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1 - (1 - final) * progress
    if name == "exponential":
        return float(final**progress)
    if name == "inverse":
        return 1 / (1 + (1 / final - 1) * progress)
    if name == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    if name == "stepwise":
        return float(final ** (min(math.floor(STAGES * progress), STAGES - 1) / (STAGES - 1)))
    raise ValueError(
        f"Expected schedule 'constant', 'linear', 'exponential', 'inverse', 'cosine' or 'stepwise', got {name!r}"
    )


def limited_kl_coef(kl_coef: float, kl: float, limit: float) -> float:
    """Computes the price of KL at a distance from the start model: `kl_coef` up to the limit, steeper beyond.

    A function of the distance alone. A controller that raises and lowers the price update by update (Ziegler et al.
    2019, section 2.2) answers late, and then overshoots in both directions: see docs/log.md.

    Args:
        kl_coef: The price within the limit.
        kl: Nats a token, measured on the batch that is about to be learned from.
        limit: Nats a token.

    Returns:
        The price: `kl_coef * max(1, kl / limit) ** 2`.
    """
    return kl_coef * max(1.0, kl / limit) ** 2


def adapted_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """Computes the price of KL by one step of a proportional controller in log space.

    Args:
        kl_coef: The price in the update before.
        kl: Nats a token, measured on the batch that is about to be learned from.
        target: Nats a token.

    Returns:
        The price: a tenth of the relative error up or down, the error clipped to a fifth.

    Source: Ziegler et al. (2019), arXiv:1909.08593, section 2.2, with their K = 0.1; theirs is the KL of a response.
    """
    error = min(max((kl - target) / target, -0.2), 0.2)
    return kl_coef * (1 + 0.1 * error)
