"""ActorCritic (A2C): the policy gradient with a learned value function, one step a batch.

    advantage_t = sum_l (gamma lambda)^l delta_{t+l},   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
    loss = mean over tokens of  - log pi(a_t | s_t) * advantage_t  +  c_v (V(s_t) - return_t)^2 / 2  -  c_e H(pi)

Source: Mnih et al. (2016), Asynchronous methods for deep reinforcement learning, arXiv:1602.01783, without the
asynchrony; advantages by Schulman et al. (2016), arXiv:1506.02438, equation 16.

What differs from the paper: episodes are whole, so nothing is cut after n steps (gae_lambda = 1 gives the Monte Carlo
return; n_steps looks n steps ahead of every action, where A3C looks to the end of its segment); actor and critic share
the language model's trunk unless critic="separate"; the critic says what a state is worth beyond the mean of its step
(agents.algorithms.step_baseline); Adam instead of RMSprop; advantages are normalised over the batch;
each token pays for its KL to the start model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from agents.advantages import gae, n_step_advantages, normalize
from agents.algorithms.step_baseline import estimates, prepare
from agents.losses import explained_variance, kl_estimate, masked_mean, policy_gradient_loss, value_loss
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Rollout, micro_batches
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.meter import Meter
from agents.training.optimization import step


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(RunConfig):
    """Settings of ActorCritic."""

    IF_PAID_AT_ONCE: ClassVar[Mapping[str, Any]] = {"gae_lambda": 0.8}
    IF_PAID_LATER: ClassVar[Mapping[str, Any]] = {"gae_lambda": 1.0}

    gae_lambda: float | None = None
    """GAE's lambda, from 0 (one-step temporal differences) to 1 (Monte Carlo). None: 0.8 if the payout pays each token
    for what it added ("immediate", "shaped"), and 1 if it pays later."""
    n_steps: int | None = None
    """Number of rewards before the value that stands for the rest. None: the average over all
    numbers that gae_lambda defines."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    critic: Literal["shared", "separate"] = "shared"
    """Trunk that values are computed from: the policy's own, or a second one, which starts as a copy of it."""
    step_values: bool = True
    """If True, V of a state is the mean return of earlier batches at its time step plus the output of the value head;
    if False, the output alone (see agents.algorithms.step_baseline)."""
    normalize_advantages: bool = True
    """If True, shift and scale advantages to mean 0 and standard deviation 1 over the batch's tokens."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_number("gae_lambda", low=0.0, high=1.0, optional=True)
        self.check_number("value_coef", low=0.0)
        self.check_choice("critic", "shared", "separate")
        if self.n_steps is not None:
            self.check_count("n_steps")


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: ActorCriticConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """One gradient step on one batch of episodes.

    Args:
        policy: Who is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, `ref_log_probs` filled in where KL has a price.
        config: The settings.
        generator: Unused: the whole batch is one step.

    Returns:
        Metrics.
    """
    mask = rollout.response_mask
    kl_coef, entropy_coef = config.kl_coef or 0.0, config.entropy_coef or 0.0
    kl_price = kl_coef * rollout.kl(config.kl_estimator) if kl_coef else 0.0
    rewards = rollout.rewards_and_bonuses - (kl_price if config.kl_credit == "return" else 0.0)
    ends = (rollout.terminated, rollout.truncated, mask)
    values, last_values, of_step = estimates(rollout)
    if config.n_steps is None:
        advantages, returns = gae(
            rewards,
            values,
            *ends,
            gamma=config.gamma,
            gae_lambda=1.0 if config.gae_lambda is None else config.gae_lambda,
            last_values=last_values,
        )
    else:
        advantages, returns = n_step_advantages(
            rewards, values, *ends, n_steps=config.n_steps, gamma=config.gamma, last_values=last_values
        )
    meter = Meter()
    meter.add(1.0, {"explained_variance": explained_variance(values, returns, mask)})
    if config.kl_credit == "token":
        advantages = advantages - kl_price
    if config.normalize_advantages:
        advantages = normalize(advantages, mask)
    rollout = replace(rollout, advantages=advantages, returns=returns - of_step)  # the critic's targets

    tokens = mask.sum()

    def loss_of(rows: Tensor, found: Meter) -> Tensor:
        part = rollout.select(rows)

        def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
            assert part.advantages is not None
            assert part.returns is not None
            counted = part.response_mask[at]
            terms = {
                "policy_loss": policy_gradient_loss(now.log_probs, part.advantages[at], counted, normalizer=tokens),
                "value_loss": value_loss(now.values, part.returns[at], counted, normalizer=tokens),
                "entropy": masked_mean(now.entropies, counted, normalizer=tokens),
            }
            loss = terms["policy_loss"] + config.value_coef * terms["value_loss"]
            if entropy_coef:
                loss = loss - entropy_coef * terms["entropy"]
            if config.kl_credit == "loss" and kl_coef:
                assert part.ref_log_probs is not None
                kl = kl_estimate(now.log_probs, part.ref_log_probs[at], config.kl_estimator, mask=counted)
                loss = loss + kl_coef * masked_mean(kl, counted, normalizer=tokens)
            found.add_shares(1.0, len(counted) / tokens.clamp(min=1), terms)
            return loss

        return policy.loss(
            part.input_ids,
            part.positions,
            part.response_mask,
            of_actions,
            temperature=config.temperature,
            allowed=part.action_masks,
        )

    everything = torch.arange(len(rollout), device=mask.device)
    step(optimizer, everything, loss_of, config, meter, cut=partial(micro_batches, rollout))
    return meter.means()


ActorCritic = Algorithm("actor_critic", ActorCriticConfig, update, prepare)
