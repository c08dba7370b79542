"""PPO with generalised advantage estimation, per token.

    advantage_t = sum_l (gamma lambda)^l delta_{t+l},   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
    ratio_t     = pi(a_t | s_t) / pi_old(a_t | s_t)
    loss = mean over tokens of  - min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)  +  c_v value loss  -  c_e H(pi)

Source: Schulman et al. (2017), Proximal policy optimization algorithms, arXiv:1707.06347, equations 7 and 9; GAE from
arXiv:1506.02438, equation 16; the KL penalty per token from Ziegler et al. (2019), arXiv:1909.08593, equation 2.

What differs from the papers: episodes are whole responses and are not cut into fixed horizons; losses are means over
the tokens of a minibatch; advantages are normalised once over the batch, not in each minibatch; an epoch stops the
update when the policy has moved further than `target_kl`; minibatches have about as many tokens each; actor and critic
share the language model's trunk unless critic="separate"; the critic says what a state is worth beyond the mean of its
step (agents.algorithms.step_baseline); value clipping takes the larger of the two errors, as in
OpenAI's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from agents.advantages import gae, normalize
from agents.algorithms.step_baseline import estimates, prepare
from agents.losses import explained_variance, kl_estimate, masked_mean, ppo_policy_loss, value_loss
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Rollout, micro_batches, minibatches
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.meter import Meter
from agents.training.optimization import step


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
    step_values: bool = True
    """If True, V of a state is the mean return of earlier batches at its time step plus the output of the value head;
    if False, the output alone (see agents.algorithms.step_baseline)."""
    normalize_advantages: bool = True
    """If True, shift and scale advantages to mean 0 and standard deviation 1 over the batch's tokens."""
    target_kl: float | None = 0.05
    """Limit in nats per token: once the policy is further than this from the one that played, no further epoch begins.
    None: no limit."""

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
    """Several epochs of minibatch steps on one batch of episodes.

    Args:
        policy: Who is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, `ref_log_probs` filled in where KL has a price.
        config: The settings.
        generator: Source of the minibatches' order.

    Returns:
        Metrics.
    """
    mask = rollout.response_mask
    kl_coef, entropy_coef = config.kl_coef or 0.0, config.entropy_coef or 0.0
    kl_price = kl_coef * rollout.kl(config.kl_estimator) if kl_coef else 0.0
    rewards = rollout.rewards_and_bonuses - (kl_price if config.kl_credit == "return" else 0.0)
    values, last_values, of_step = estimates(rollout)
    advantages, returns = gae(
        rewards,
        values,
        rollout.terminated,
        rollout.truncated,
        mask,
        gamma=config.gamma,
        gae_lambda=1.0 if config.gae_lambda is None else config.gae_lambda,
        last_values=last_values,
    )
    meter = Meter()
    meter.add(1.0, {"explained_variance": explained_variance(values, returns, mask)})
    if config.kl_credit == "token":
        advantages = advantages - kl_price
    if config.normalize_advantages:
        advantages = normalize(advantages, mask)
    rollout = replace(rollout, advantages=advantages, returns=returns - of_step)  # the critic's targets

    def loss_of(tokens: Tensor, rows: Tensor, found: Meter) -> Tensor:
        part = rollout.select(rows)

        def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
            assert part.advantages is not None
            assert part.returns is not None
            counted = part.response_mask[at]
            policy_loss, stats = ppo_policy_loss(
                now.log_probs,
                part.log_probs[at],
                part.advantages[at],
                counted,
                clip_range=config.clip_range,
                clip_range_high=config.clip_range_high,
                normalizer=tokens,
            )
            critic_loss = value_loss(
                now.values,
                part.returns[at],
                counted,
                old_values=part.values[at],
                clip_range=config.value_clip_range,
                normalizer=tokens,
            )
            entropy = masked_mean(now.entropies, counted, normalizer=tokens)
            loss = policy_loss + config.value_coef * critic_loss
            if entropy_coef:
                loss = loss - entropy_coef * entropy
            if config.kl_credit == "loss" and kl_coef:
                assert part.ref_log_probs is not None
                kl = kl_estimate(now.log_probs, part.ref_log_probs[at], config.kl_estimator, mask=counted)
                loss = loss + kl_coef * masked_mean(kl, counted, normalizer=tokens)
            terms = {"policy_loss": policy_loss, "value_loss": critic_loss, "entropy": entropy}
            found.add_shares(tokens, len(counted) / tokens.clamp(min=1), terms)
            found.add(len(counted), stats)
            return loss

        return policy.loss(
            part.input_ids,
            part.positions,
            part.response_mask,
            of_actions,
            temperature=config.temperature,
            allowed=part.action_masks,
        )

    epochs = 0
    for _ in range(config.epochs):
        moved = Meter()
        for minibatch in minibatches(rollout, config.minibatch_size, generator, tokens=config.minibatch_tokens):
            part_loss = partial(loss_of, mask[minibatch].sum())
            step(optimizer, minibatch, part_loss, config, moved, cut=partial(micro_batches, rollout))
        epochs += 1
        meter.merge(moved)
        if config.target_kl is None or epochs == config.epochs:  # to look is to wait for the device
            continue
        if moved.means().get("approx_kl", 0.0) > config.target_kl:
            break
    return {**meter.means(), "epochs": float(epochs)}


PPO = Algorithm("ppo", PPOConfig, update, prepare)
