"""The optimiser, how its step size falls, and one step of it."""

from __future__ import annotations

import math

import torch

from agents.config import OptimizerConfig, Schedule
from agents.policy import Policy

STAGES = 4
"""Equal stages of the stepwise schedule."""


def make_optimizer(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser that a config names, over everything that is trained.

    Args:
        policy: Whose parameters.
        config: Which optimiser, its step size, epsilon, momentum and weight decay.

    Returns:
        The optimiser.
    """
    parameters = [one for one in policy.parameters() if one.requires_grad]
    lr, decay = config.filled_in(policy.pretrained).learning_rate, config.weight_decay
    assert lr is not None
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, eps=config.adam_epsilon, momentum=config.momentum, weight_decay=decay
        )
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(parameters, lr=lr, eps=config.adam_epsilon, weight_decay=decay, fused=True)


def schedule(name: Schedule, progress: float, final: float) -> float:
    """The factor of a schedule: 1 at the start of training, `final` at its end.

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


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, progress: float) -> float:
    """Put the step size in force that the config's schedule and warm-up give at this point of the run.

    Args:
        optimizer: Whose step size.
        config: The schedule.
        progress: Share of the run's tokens that are played, from 0 to 1.

    Returns:
        The step size. The very first update of a warm-up has one of 0.

    Raises:
        ValueError: If the config leaves the step size open.
    """
    if config.learning_rate is None:
        raise ValueError("Expected a config with a learning_rate, got None: config.filled_in(pretrained) decides it")
    warm = 1.0 if progress >= config.warmup else progress / config.warmup
    rate = config.learning_rate * warm * schedule(config.learning_rate_schedule, progress, config.learning_rate_final)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def limited_kl_coef(kl_coef: float, kl: float, limit: float) -> float:
    """The price of KL at a distance from the start model: as it is up to the limit, steeper beyond.

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
    """The price of KL by a proportional controller in log space, one step of it.

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
