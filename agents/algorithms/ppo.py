"""PPO with generalised advantage estimation, per token.

    advantage_t = sum_l (gamma lambda)^l delta_{t+l},   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
    ratio_t     = pi(a_t | s_t) / pi_old(a_t | s_t)
    loss = mean over tokens of  - min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)  +  c_v value loss  -  c_e H(pi)

Source: Schulman et al. (2017), Proximal policy optimization algorithms, arXiv:1707.06347, equations 7 and 9; GAE from
arXiv:1506.02438, equation 16; the KL penalty per token from Ziegler et al. (2019), arXiv:1909.08593, equation 2.

What differs from the papers: episodes are whole responses and are not cut into fixed horizons; losses are means over
the tokens of a minibatch; advantages are normalised once over the batch, not in each minibatch; the update ends
when the policy has moved further than `target_kl`; minibatches have about as many tokens each; actor and critic
share the language model's trunk unless critic="separate"; the critic says what a state is worth beyond the mean of its
step (agents.algorithms.step_baseline); value clipping takes the larger of the two errors, as in OpenAI's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from agents.algorithms.step_baseline import critic_advantages, prepare
from agents.losses import clipped_surrogate, value_errors
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.update import optimize, priced_advantages


@dataclass(frozen=True, kw_only=True)
class PPOConfig(RunConfig):
    """Settings of PPO."""

    # Smaller steps than its siblings', since each batch is used for several.
    IF_PRETRAINED: ClassVar[Mapping[str, Any]] = {**RunConfig.IF_PRETRAINED, "learning_rate": 3e-4}
    IF_FRESH: ClassVar[Mapping[str, Any]] = {**RunConfig.IF_FRESH, "learning_rate": 1e-3}

    IF_PAID_AT_ONCE: ClassVar[Mapping[str, Any]] = {"gae_lambda": 0.8}
    IF_PAID_LATER: ClassVar[Mapping[str, Any]] = {"gae_lambda": 1.0}

    learning_rate: float | None = None
    """Step size at the start; smaller than its siblings', since each batch is used for several optimiser steps. None:
    3e-4 if the start model was pretrained, 1e-3 if its weights are random."""
    epochs: int = 2
    """Passes over each batch."""
    minibatch_size: int = 64
    """Episodes in a minibatch, on average: minibatches are cut so that all have about the same number of tokens."""
    minibatch_tokens: int | None = None
    """Tokens in a minibatch, on average. Replaces minibatch_size, and stays the same when responses get longer."""
    gae_lambda: float | None = None
    """GAE's lambda, from 0 (one-step temporal differences) to 1 (Monte Carlo). None: 0.8 if the payout pays each token
    for what it added ("immediate", "shaped"), and 1 if it pays later."""
    clip_range: float = 0.2
    """Distance that the ratio may move from 1 before its gradient becomes 0."""
    clip_range_high: float | None = None
    """The same for ratios above 1 (arXiv:2503.14476). None: clip_range."""
    value_clip_range: float | None = None
    """Distance that values may move from the old ones before their gradient becomes 0. None: any distance."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    critic: Literal["shared", "separate"] = "shared"
    """Trunk that values are computed from: the policy's own, or a second one, which starts as a copy of it."""
    step_baseline: bool = True
    """If True, V of a state is the mean return of earlier batches at its time step plus the output of the value head;
    if False, the output alone (see agents.algorithms.step_baseline)."""
    normalize_advantages: bool = True
    """If True, shift and scale advantages to mean 0 and standard deviation 1 over the batch's tokens."""
    target_kl: float | None = 0.05
    """Limit in nats per token: the update ends before the first minibatch on which the policy, as it is then, is
    further than this from the one that played. None: no limit."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_count("epochs")
        self.check_count("minibatch_size")
        if self.minibatch_tokens is not None:
            self.check_count("minibatch_tokens")
        self.check_number("gae_lambda", low=0.0, high=1.0, optional=True)
        self.check_number("clip_range", low=0.0, open_low=True)
        self.check_number("value_coef", low=0.0)
        self.check_choice("critic", "shared", "separate")
        for name in ("clip_range_high", "value_clip_range", "target_kl"):
            self.check_number(name, low=0.0, open_low=True, optional=True)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Takes several epochs of minibatch steps on one batch of episodes.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, with `ref_log_probs` if KL has a price.
        config: The settings.
        generator: Source of the minibatches' order.

    Returns:
        Metrics.
    """
    rollout, metrics = critic_advantages(rollout, config, gae_lambda=config.gae_lambda)
    assert rollout.advantages is not None
    advantages = priced_advantages(rollout.advantages, rollout, config, normalized=config.normalize_advantages)
    return optimize(
        policy,
        optimizer,
        replace(rollout, advantages=advantages),
        partial(loss, config),
        config,
        generator,
        epochs=config.epochs,
        minibatch_size=config.minibatch_size,
        minibatch_tokens=config.minibatch_tokens,
        target_kl=config.target_kl,
        metrics=metrics,
    )


def loss(config: PPOConfig, now: ActionEvaluation, taken: Actions) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the clipped surrogate and the critic's error, action by action: see `agents.training.update.Loss`."""
    policy_losses, terms = clipped_surrogate(
        now.log_probs,
        taken.log_probs,
        taken.advantages,
        clip_range=config.clip_range,
        clip_range_high=config.clip_range_high,
    )
    errors = value_errors(now.values, taken.returns, old_values=taken.values, clip_range=config.value_clip_range)
    terms |= {"policy_loss": policy_losses, "value_loss": errors}
    return policy_losses + config.value_coef * errors, terms


PPO = Algorithm("ppo", PPOConfig, update, prepare)
