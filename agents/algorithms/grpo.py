"""GRPO and its relatives: several responses to each prompt, compared with each other in place of a critic.

    advantage_it = (G_it - mean_group G_t) / std_group G_t                  i: response, t: time step
    ratio_it     = pi(a_it | s_it) / pi_old(a_it | s_it)
    loss = mean over responses of the mean over tokens of - min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)  +  c KL

G is what the whole response earned (credit="episode", the papers'), or what it earned from the token on, compared with
the responses of the group that are still alive there (credit="to_go"): rewards per token then reach the tokens that
earned them.

Sources: Shao et al. (2024), DeepSeekMath, arXiv:2402.03300, equation 3. `advantage="mean"` with `loss_mean="episode"`
is Dr. GRPO, Liu et al. (2025), arXiv:2503.20783; `clip_range_high`, `drop_equal_groups` and `loss_mean="token"` are
DAPO's, Yu et al. (2025), arXiv:2503.14476, equations 8, 11 and 12; `ratio="sequence"` is GSPO's, Zheng et al. (2025),
arXiv:2507.18071, equations 5 to 7; `ratio="weight"` is CISPO's, MiniMax (2025), arXiv:2506.13585, equation 4.

What differs from the papers: credit from each token on is ours. Standard deviations divide by the size of the group and
not by one less. DAPO samples again until a batch is full of groups that differ; here the others are left out of the
update. Dr. GRPO divides by a constant length, here nothing is divided by one: a factor in the loss, which Adam undoes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from agents.advantages import discounted_returns, group_deviations, leave_one_out_baseline
from agents.losses import clipped_surrogate, clipped_weight_loss
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout, reference_log_probs
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.update import optimize, priced_advantages, priced_rewards
from textenvs.arguments import check_flag


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(RunConfig):
    """Settings of GRPO and its relatives."""

    group_size: int = 8
    """Episodes of each example, which are compared with each other. num_envs has to be a multiple of it."""
    advantage: Literal["mean_std", "mean", "leave_one_out"] = "mean_std"
    """Comparison with the group. mean_std: standard deviations above the group's mean. mean: the difference to the
    mean. leave_one_out: the difference to the mean of the others."""
    credit: Literal["to_go", "episode"] = "to_go"
    """Return that a token is credited with: what the episode earned from that token on, or all that it earned."""
    ratio: Literal["token", "sequence", "weight"] = "token"
    """Ratio to the policy that played. token: each token's own, clipped as in PPO. sequence: the geometric mean over
    the response, clipped for all of its tokens at once (GSPO); it takes one more forward pass. weight: each token's
    own, cut off, as a constant weight of its log-prob, so that no token loses its gradient (CISPO)."""
    clip_range: float = 0.2
    """Distance that the ratio may fall below 1 before its gradient becomes 0 (ratio="weight": before it is cut off)."""
    clip_range_high: float | None = None
    """The same for ratios above 1. None: clip_range."""
    drop_equal_groups: bool = False
    """If True, groups whose episodes earned the same are left out of the update, and of what it is a mean over."""
    epochs: int = 2
    """Passes over each batch."""
    minibatch_size: int = 64
    """Episodes in a minibatch, on average: minibatches are cut so that all have about the same number of tokens."""
    loss_mean: Literal["token", "episode", "response"] = "response"
    """"response": a mean over the tokens of each response, averaged over responses, as in the paper; tokens of short
    responses weigh more. "token": a mean over all tokens. "episode": a sum over each response, averaged over responses,
    in which no token's weight depends on the length. Entropy and KL are averaged alike."""
    kl_credit: Literal["token", "return", "loss"] = "loss"
    """Place where KL is charged: in the loss, as in the paper, to the token itself, or to the return (with k1)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of KL. k3 is the paper's."""
    kl_limit: float | None = None
    """Nats a token beyond which the price of KL grows. None, as in the paper: it does not grow."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_choice("advantage", "mean_std", "mean", "leave_one_out")
        self.check_choice("credit", "to_go", "episode")
        self.check_choice("ratio", "token", "sequence", "weight")
        self.check_number("clip_range", low=0.0, open_low=True)
        self.check_number("clip_range_high", low=0.0, open_low=True, optional=True)
        check_flag("drop_equal_groups", self.drop_equal_groups)
        self.check_count("epochs")
        self.check_count("minibatch_size")
        if self.group_size < 2:
            raise ValueError(
                f"Expected group_size of at least 2, got {self.group_size}: a response is compared with others to the "
                "same prompt"
            )


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: GRPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Takes several epochs of minibatch steps on one batch of episodes.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy in whole groups, with `ref_log_probs` if KL has a price.
        config: The settings.
        generator: Source of the minibatches' order.

    Returns:
        Metrics; among them "equal_groups", the share of episodes whose group earned the same.
    """
    advantages, scale, differs = group_advantages(rollout, priced_rewards(rollout, config), config)
    advantages = priced_advantages(advantages, rollout, config, normalized=False, scale=scale)
    rollout = replace(rollout, advantages=advantages)
    if config.drop_equal_groups and bool(differs.any()):
        rollout = rollout.select(differs.nonzero()[:, 0])
    return optimize(
        policy,
        optimizer,
        rollout,
        partial(loss, config),
        config,
        generator,
        epochs=config.epochs,
        minibatch_size=config.minibatch_size,
        prepare=partial(with_sequence_ratios, policy, config) if config.ratio == "sequence" else None,
        metrics={"equal_groups": 1 - differs.float().mean()},
    )


def group_advantages(rollout: Rollout, rewards: Tensor, config: GRPOConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compares what the responses to each prompt have earned.

    Args:
        rollout: The episodes, in groups.
        rewards: `(batch, time)` float32, what is learned from.
        config: Of `advantage`, `credit` and `gamma`.

    Returns:
        advantages: `(batch, time)` float32, 0 where masked.
        scale: `(batch, time)` float32, what they are to be divided by, 0 where nothing differs; None: nothing.
        differs: `(batch,)` bool, True where the episode's group differs by more than rounding.
    """
    mask = rollout.response_mask
    returns = discounted_returns(rewards, mask, gamma=config.gamma)
    if config.credit == "episode":  # compared at the first token, where every episode is still alive
        returns, alive = returns[:, :1], mask[:, :1]
    else:
        alive = mask
    centred, deviation = group_deviations(returns, alive, rollout.group)
    if config.advantage == "leave_one_out":
        centred = returns - leave_one_out_baseline(returns, alive, rollout.group)
    differs = deviation > 0
    advantages = torch.where(mask & differs, centred, 0)
    scale = torch.where(mask & differs, deviation + 1e-6, 0) if config.advantage == "mean_std" else None
    # An episode that ended early is alone with its group at no later step: any step at which the group differs counts.
    of_group = (rollout.group[:, None] == rollout.group[differs.any(dim=1)][None, :]).any(dim=1)
    return advantages, scale, of_group


def with_sequence_ratios(policy: Policy, config: GRPOConfig, part: Rollout) -> Rollout:
    """Computes the mean log-ratio of each response under the policy as it is (GSPO, equation 5).

    Args:
        policy: The policy.
        config: Of the temperature.
        part: Episodes.

    Returns:
        The episodes with `sequence_log_ratios`.
    """
    now = reference_log_probs(policy, part, temperature=config.temperature, micro_batch_size=len(part))
    total = ((now - part.log_probs) * part.response_mask).sum(dim=1)
    return replace(part, sequence_log_ratios=total / part.response_mask.sum(dim=1).clamp(min=1))


def loss(config: GRPOConfig, now: ActionEvaluation, taken: Actions) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the surrogate loss, action by action: see `agents.training.update.Loss`."""
    settings: dict[str, Any] = {"clip_range": config.clip_range, "clip_range_high": config.clip_range_high}
    if config.ratio == "weight":
        losses, terms = clipped_weight_loss(now.log_probs, taken.log_probs, taken.advantages, **settings)
    elif config.ratio == "sequence":
        # Each token has the response's ratio, and the gradient of its own log-prob (GSPO-token, equation 14).
        old = now.log_probs.detach() - taken.sequence_log_ratios
        losses, terms = clipped_surrogate(now.log_probs, old, taken.advantages, **settings)
    else:
        losses, terms = clipped_surrogate(now.log_probs, taken.log_probs, taken.advantages, **settings)
    return losses, {**terms, "policy_loss": losses}


GRPO = Algorithm("grpo", GRPOConfig, update)
