"""REINFORCE: raise the log-probability of each token by what the episode earned from there on.

    advantage_t = G_t - b_t,   G_t = sum_{k >= t} gamma^(k-t) r_k
    loss = - mean over tokens of log pi(a_t | s_t) * advantage_t

Source: Williams (1992), Simple statistical gradient-following algorithms, Machine Learning 8; reward-to-go and
baselines as in Sutton & Barto (2018), section 13.4.

Baselines: self-critical, Rennie et al. (2017), arXiv:1612.00563; leave-one-out, Kool et al. (2019) and, as RLOO,
Ahmadian et al. (2024), arXiv:2402.14740; group mean and standard deviation, Shao et al. (2024), arXiv:2402.03300 (GRPO,
section 4.1.2).

What differs from the papers: one step of Adam on a batch of episodes instead of a step of SGD an episode; the baseline
is by default the batch's mean at the same token position, which is nearly free of bias at a hundred episodes and needs
no value function; leave_one_out and group compare returns at the same token position too, among the episodes that are
still alive there, unless credit="episode", which is theirs; advantages are divided by their standard deviation, so that
one learning rate serves any scale of reward; and each token pays for its KL to the start model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from agents.advantages import (
    discounted_returns,
    group_normalize,
    leave_one_out_baseline,
    normalize,
    per_step_baseline,
    per_step_means,
)
from agents.algorithms.step_baseline import beneath, estimates, step_means
from agents.collector import collect
from agents.losses import kl_estimate, masked_mean, policy_gradient_loss, value_loss
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Rollout, micro_batches
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.meter import Meter
from agents.training.optimization import step

if TYPE_CHECKING:
    from agents.training.agent import Agent


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(RunConfig):
    """Settings of REINFORCE."""

    baseline: Literal["none", "moving_average", "batch_mean", "greedy", "leave_one_out", "group", "value"] = (
        "batch_mean"
    )
    """What is taken off the return. none: nothing. moving_average: the mean return at the same token position over
    earlier batches. batch_mean: that of this batch. greedy: the return of the episode that the likeliest tokens make
    of the same example (self-critical), and of what bonuses pay, batch_mean. leave_one_out: the mean of the other
    episodes of the same example, or of the whole batch where group_size is 1 (RLOO). group: the mean of the episodes of
    the same example, and the difference is divided by their standard deviation (GRPO). value: a learned V of the
    state."""
    baseline_decay: float = 0.9
    """What each batch leaves of the moving average before it."""
    credit: Literal["to_go", "episode"] = "to_go"
    """What a token is credited with: what the episode earned from there on, or all that it earned."""
    value_coef: float = 0.5
    """Weight of the value loss, where the baseline is a learned value."""
    critic: Literal["shared", "separate"] = "shared"
    """Whether values are read off the policy's own trunk, or off a second one, which starts as a copy of it."""
    step_values: bool = True
    """Whether that V is the mean return of earlier batches at its step plus what the critic says, or the critic's word
    alone (see agents.algorithms.step_baseline)."""
    normalize_advantages: bool = True
    """Divide advantages by their root mean square over the batch, which keeps their signs."""
    loss_mean: Literal["token", "episode"] = "token"
    """Average the loss over tokens, or sum it over each episode and average over episodes."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_choice(
            "baseline", "none", "moving_average", "batch_mean", "greedy", "leave_one_out", "group", "value"
        )
        self.check_number("baseline_decay", low=0.0, high=1.0)
        self.check_choice("credit", "to_go", "episode")
        self.check_number("value_coef", low=0.0)
        self.check_choice("critic", "shared", "separate")
        self.check_choice("loss_mean", "token", "episode")
        if self.baseline == "group" and self.group_size < 2:
            raise ValueError(
                f"Expected group_size of at least 2 with baseline='group', which compares episodes of the same "
                f"example, got {self.group_size}"
            )


def credits(rollout: Rollout, rewards: Tensor, config: REINFORCEConfig) -> Tensor:
    """What each token is credited with, `(batch, time)`: the return from there on, or the whole episode's."""
    returns = discounted_returns(rewards, rollout.response_mask, gamma=config.gamma)
    if config.credit == "episode":
        returns = torch.where(rollout.response_mask, returns[:, :1], 0)
    return returns


def prepare(agent: Agent, rollout: Rollout) -> Rollout:
    """The baselines that take more than the rollout: other episodes, or memory of earlier ones.

    Args:
        agent: Whose environment is played in, and whose memory is used.
        rollout: Fresh episodes.

    Returns:
        The rollout, with `baselines` where the config asks for them.
    """
    config = agent.config
    assert isinstance(config, REINFORCEConfig)
    if config.baseline == "moving_average":
        credited, mask = credits(rollout, rollout.rewards_and_bonuses, config), rollout.response_mask
        known = step_means(agent.carried, "moving_average", credited, mask, config.baseline_decay)
        return replace(rollout, baselines=torch.where(mask, known.nan_to_num().float(), 0))
    if config.baseline == "value" and config.step_values:
        credited = credits(rollout, rollout.rewards_and_bonuses, config)
        return replace(rollout, baselines=beneath(agent.carried, credited, rollout.response_mask))
    if config.baseline == "greedy":
        if agent.env.group_size == 1:
            examples, place = rollout.examples.unique(return_inverse=True)
        else:  # collect fills whole groups only
            examples, place = rollout.examples, torch.arange(len(rollout), device=rollout.examples.device)
        greedy = collect(agent.env, agent.policy, len(examples), deterministic=True, examples=examples.tolist())
        expected = credits(greedy, greedy.rewards, config)[place]
        steps = rollout.response_mask.shape[1]
        expected = torch.nn.functional.pad(expected[:, :steps], (0, max(steps - expected.shape[1], 0)))
        if rollout.bonuses is not None:  # to pay the greedy episode would also move what novelty remembers
            means, _ = per_step_means(credits(rollout, rollout.bonuses, config), rollout.response_mask)
            expected = expected + means.float()
        return replace(rollout, baselines=torch.where(rollout.response_mask, expected, 0))
    return rollout


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
        rollout: Fresh episodes of that policy, with `ref_log_probs` where KL has a price, and `baselines` by `prepare`.
        config: The settings.
        generator: Unused: the whole batch is one step.

    Returns:
        Metrics.

    Raises:
        ValueError: If the baseline needs `prepare`, and it has not been called.
    """
    mask = rollout.response_mask
    kl_coef, entropy_coef = config.kl_coef or 0.0, config.entropy_coef or 0.0
    kl_price = kl_coef * rollout.kl(config.kl_estimator) if kl_coef else 0.0
    rewards = rollout.rewards_and_bonuses - (kl_price if config.kl_credit == "return" else 0.0)
    returns = credits(rollout, rewards, config)
    advantages = baseline_advantages(rollout, returns, config)
    targets = returns - estimates(rollout)[2] if config.baseline == "value" else returns  # the critic's
    if config.kl_credit == "token":
        advantages = advantages - kl_price
    if config.normalize_advantages:
        advantages = normalize(advantages, mask, center=False)

    meter = Meter()
    tokens = mask.sum()

    def loss_of(rows: Tensor, found: Meter) -> Tensor:
        part = rollout.select(rows)
        mine, sought = advantages[rows], targets[rows]

        def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
            counted = part.response_mask[at]
            # An episode mean is a sum over tokens, divided by the number of episodes: `agents.losses.sequence_mean`.
            normalizer = tokens if config.loss_mean == "token" else mask.any(dim=1).sum()
            policy_loss = policy_gradient_loss(now.log_probs, mine[at], counted, normalizer=normalizer)
            entropy = masked_mean(now.entropies, counted, normalizer=tokens)
            loss = policy_loss - entropy_coef * entropy if entropy_coef else policy_loss
            terms = {"policy_loss": policy_loss, "entropy": entropy}
            if config.baseline == "value":
                terms["value_loss"] = value_loss(now.values, sought[at], counted, normalizer=tokens)
                loss = loss + config.value_coef * terms["value_loss"]
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


def baseline_advantages(rollout: Rollout, returns: Tensor, config: REINFORCEConfig) -> Tensor:
    """Returns minus the config's baseline.

    Args:
        rollout: The episodes, with `baselines` where `prepare` makes them.
        returns: `(batch, time)` float32, what each token is credited with.
        config: Which baseline.

    Returns:
        `(batch, time)` float32, 0 where masked.

    Raises:
        ValueError: If the baseline needs `prepare`, and it has not been called.
    """
    mask = rollout.response_mask
    group = rollout.group if config.group_size > 1 else None
    if config.baseline in ("batch_mean", "leave_one_out", "group"):
        whole = config.credit == "episode"  # compared at the first token, where every episode is still alive
        compared, alive = (returns[:, :1], mask[:, :1]) if whole else (returns, mask)
        if config.baseline == "group":
            advantages = group_normalize(compared, alive, rollout.group)
        elif config.baseline == "leave_one_out":
            advantages = compared - leave_one_out_baseline(compared, alive, group)
        else:
            advantages = compared - per_step_baseline(compared, alive)
        return torch.where(mask, advantages, 0)
    if config.baseline == "value":
        return returns - estimates(rollout)[0]
    if config.baseline in ("moving_average", "greedy"):
        if rollout.baselines is None:
            raise ValueError(f"Expected a rollout with baselines for {config.baseline!r}: call prepare(agent, rollout)")
        return returns - rollout.baselines
    return returns


REINFORCE = Algorithm("reinforce", REINFORCEConfig, update, prepare)
