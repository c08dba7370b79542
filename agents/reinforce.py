"""REINFORCE: raise the log-probability of each token by what the episode earned from there on.

    advantage_t = G_t - b_t,   G_t = sum_{k >= t} gamma^(k-t) r_k
    loss = - mean over tokens of log pi(a_t | s_t) * advantage_t

Source: Williams (1992), Simple statistical gradient-following algorithms, Machine Learning 8; reward-to-go and
baselines as in Sutton & Barto (2018), section 13.4.

What differs from the paper: one step of Adam on a batch of episodes instead of a step of SGD an episode; the baseline
is the batch's mean at the same token position, which is nearly free of bias at a hundred episodes and needs no value
function; advantages are divided by their standard deviation, so that one learning rate serves any scale of reward;
and each token pays for its KL to the start model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from agents.advantages import discounted_returns, leave_one_out_baseline, normalize, per_step_baseline
from agents.config import RunConfig
from agents.losses import kl_estimate, masked_mean, policy_gradient_loss, sequence_mean
from agents.metrics import Meter
from agents.optimization import gradient_step
from agents.policy import Policy
from agents.rollout import Rollout
from agents.training import Algorithm


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(RunConfig):
    """Settings of REINFORCE."""

    baseline: Literal["none", "batch_mean", "leave_one_out"] = "batch_mean"
    """What is taken off the return: nothing, the mean return at the same token position, or that of the others."""
    normalize_advantages: bool = True
    """Divide advantages by their standard deviation over the batch."""
    loss_mean: Literal["token", "episode"] = "token"
    """Average the loss over tokens, or sum it over each episode and average over episodes."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.baseline not in ("none", "batch_mean", "leave_one_out"):
            raise ValueError(f"Expected baseline 'none', 'batch_mean' or 'leave_one_out', got {self.baseline!r}")
        if self.loss_mean not in ("token", "episode"):
            raise ValueError(f"Expected loss_mean 'token' or 'episode', got {self.loss_mean!r}")


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: REINFORCEConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """One gradient step on one batch of episodes.

    Args:
        policy: Who is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, `ref_log_probs` filled in.
        config: The settings.
        generator: Unused: the whole batch is one step.

    Returns:
        Metrics.
    """
    mask = rollout.response_mask
    assert rollout.ref_log_probs is not None
    kl_price = config.kl_coef * kl_estimate(rollout.log_probs, rollout.ref_log_probs, "k1")
    rewards = rollout.rewards_and_bonuses - (kl_price if config.kl_credit == "return" else 0.0)
    returns = discounted_returns(rewards, mask, gamma=config.gamma)
    advantages = returns
    if config.baseline == "batch_mean":
        advantages = returns - per_step_baseline(returns, mask)
    elif config.baseline == "leave_one_out":
        advantages = returns - leave_one_out_baseline(returns, mask)
    if config.kl_credit == "token":
        advantages = advantages - kl_price
    if config.normalize_advantages:
        advantages = normalize(advantages, mask, center=False)

    meter = Meter()
    tokens = mask.sum()
    for rows in torch.arange(len(rollout), device=mask.device).split(config.micro_batch_size):
        part = rollout.select(rows)
        steps = part.response_mask.shape[1]
        now = policy.evaluate(part.input_ids, part.positions, part.response_mask, temperature=config.temperature)
        if config.loss_mean == "token":
            policy_loss = policy_gradient_loss(
                now.log_probs, advantages[rows, :steps], part.response_mask, normalizer=tokens
            )
        else:
            weighted = now.log_probs * advantages[rows, :steps]
            policy_loss = -sequence_mean(weighted, part.response_mask) * len(rows) / len(rollout)
        entropy = masked_mean(now.entropies, part.response_mask, normalizer=tokens)
        (policy_loss - config.entropy_coef * entropy).backward()
        meter.add(part.response_mask.sum(), {"entropy": masked_mean(now.entropies, part.response_mask)})
        meter.add(len(rows) / len(rollout), {"policy_loss": policy_loss * len(rollout) / len(rows)})
    meter.add(1.0, {"grad_norm": gradient_step(policy, optimizer, config.max_grad_norm)})
    return meter.means()


REINFORCE = Algorithm("reinforce", REINFORCEConfig, update)
