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
from typing import Literal

import torch
from torch import Tensor

from agents.advantages import (
    discounted_returns,
    group_deviations,
    leave_one_out_baseline,
    per_step_baseline,
    per_step_means,
)
from agents.algorithms.step_baseline import state_values, step_baseline, step_means
from agents.collector import collect
from agents.losses import value_errors
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout
from agents.training.agent import Agent, Algorithm
from agents.training.config import RunConfig
from agents.training.update import optimize, priced_advantages, priced_rewards


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(RunConfig):
    """Settings of REINFORCE."""

    baseline: Literal["none", "moving_average", "batch_mean", "greedy", "leave_one_out", "group", "value"] = (
        "batch_mean"
    )
    """Baseline that is subtracted from the return. none: nothing. moving_average: the mean return at the same time step
    over earlier batches. batch_mean: the same over this batch. greedy: the return of an episode that takes the
    likeliest tokens on the same example (self-critical), with batch_mean for what bonuses pay. leave_one_out: the mean
    of the other episodes of the same example, or of the whole batch if group_size is 1 (RLOO). group: the mean of the
    episodes of the same example; the difference is divided by their standard deviation (GRPO). value: a learned V of
    the state."""
    baseline_decay: float = 0.9
    """Decay of the moving average per batch."""
    credit: Literal["to_go", "episode"] = "to_go"
    """Return that a token is credited with: what the episode earned from that token on, or all that it earned."""
    value_coef: float = 0.5
    """Weight of the value loss, if the baseline is a learned value."""
    critic: Literal["shared", "separate"] = "shared"
    """Trunk that values are computed from: the policy's own, or a second one, which starts as a copy of it."""
    step_baseline: bool = True
    """If True, that V is the mean return of earlier batches at its time step plus the output of the value head; if
    False, the output alone (see agents.algorithms.step_baseline)."""
    normalize_advantages: bool = True
    """If True, divide advantages by their root mean square over the batch, which keeps their signs."""

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
        if self.baseline == "group" and self.group_size < 2:
            raise ValueError(
                f"Expected group_size of at least 2 with baseline='group', which compares episodes of the same "
                f"example, got {self.group_size}"
            )


def credits(rollout: Rollout, rewards: Tensor, config: REINFORCEConfig) -> Tensor:
    """Computes each token's credit, `(batch, time)`: the return from there on, or the whole episode's."""
    returns = discounted_returns(rewards, rollout.response_mask, gamma=config.gamma)
    if config.credit == "episode":
        returns = torch.where(rollout.response_mask, returns[:, :1], 0)
    return returns


def prepare(agent: Agent, rollout: Rollout) -> Rollout:
    """Puts baselines into a rollout that take more than the rollout: other episodes, or what earlier batches earned.

    Args:
        agent: The agent whose environment is played in, and which carries the moving averages.
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
    if config.baseline == "value" and config.step_baseline:
        credited = credits(rollout, rollout.rewards_and_bonuses, config)
        return replace(rollout, baselines=step_baseline(agent.carried, credited, rollout.response_mask))
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
    """Takes one gradient step on one batch of episodes.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, with `ref_log_probs` if KL has a price, and `baselines` by `prepare`.
        config: The settings.
        generator: Unused: the whole batch is one step.

    Returns:
        Metrics.

    Raises:
        ValueError: If the baseline needs `prepare`, and it has not been called.
    """
    returns = credits(rollout, priced_rewards(rollout, config), config)
    advantages, scale = baseline_advantages(rollout, returns, config)
    advantages = priced_advantages(
        advantages, rollout, config, normalized=config.normalize_advantages, center=False, scale=scale
    )
    if config.baseline == "value":
        returns = returns - state_values(rollout)[2]  # the critic is added to the step baseline
    rollout = replace(rollout, advantages=advantages, returns=returns)
    return optimize(policy, optimizer, rollout, partial(loss, config), config, generator)


def loss(config: REINFORCEConfig, now: ActionEvaluation, taken: Actions) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the policy gradient's loss, action by action, and with a learned baseline the critic's error."""
    losses = -now.log_probs * taken.advantages
    terms = {"policy_loss": losses}
    if config.baseline == "value":
        terms["value_loss"] = value_errors(now.values, taken.returns)
        losses = losses + config.value_coef * terms["value_loss"]
    return losses, terms


def baseline_advantages(rollout: Rollout, returns: Tensor, config: REINFORCEConfig) -> tuple[Tensor, Tensor | None]:
    """Subtracts the config's baseline from the returns.

    Args:
        rollout: The episodes, with `baselines` if `prepare` makes them.
        returns: `(batch, time)` float32, what each token is credited with.
        config: Which baseline.

    Returns:
        advantages: `(batch, time)` float32, 0 where masked.
        scale: `(batch, time)` float32, what they are to be divided by, 0 where nothing differs; None: nothing.

    Raises:
        ValueError: If the baseline needs `prepare`, and it has not been called.
    """
    mask = rollout.response_mask
    group = rollout.group if config.group_size > 1 else None
    if config.baseline in ("batch_mean", "leave_one_out", "group"):
        whole = config.credit == "episode"  # compared at the first token, where every episode is still alive
        compared, alive = (returns[:, :1], mask[:, :1]) if whole else (returns, mask)
        scale = None
        if config.baseline == "group":
            advantages, deviation = group_deviations(compared, alive, rollout.group)
            scale = torch.where(mask & (deviation > 0), deviation + 1e-6, 0)  # as group_normalize divides
        elif config.baseline == "leave_one_out":
            advantages = compared - leave_one_out_baseline(compared, alive, group)
        else:
            advantages = compared - per_step_baseline(compared, alive)
        return torch.where(mask, advantages, 0), scale
    if config.baseline == "value":
        return returns - state_values(rollout)[0], None
    if config.baseline in ("moving_average", "greedy"):
        if rollout.baselines is None:
            raise ValueError(f"Expected a rollout with baselines for {config.baseline!r}: call prepare(agent, rollout)")
        return returns - rollout.baselines, None
    return returns, None


REINFORCE = Algorithm("reinforce", REINFORCEConfig, update, prepare)
