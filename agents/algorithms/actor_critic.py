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

from agents.algorithms.step_baseline import critic_advantages, prepare
from agents.losses import value_errors
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.update import optimize, priced_advantages


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
    step_baseline: bool = True
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
    """Takes one gradient step on one batch of episodes.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, with `ref_log_probs` if KL has a price.
        config: The settings.
        generator: Unused: the whole batch is one step.

    Returns:
        Metrics.
    """
    rollout, metrics = critic_advantages(rollout, config, gae_lambda=config.gae_lambda, n_steps=config.n_steps)
    assert rollout.advantages is not None
    advantages = priced_advantages(rollout.advantages, rollout, config, normalized=config.normalize_advantages)
    rollout = replace(rollout, advantages=advantages)
    return optimize(policy, optimizer, rollout, partial(loss, config), config, generator, metrics=metrics)


def loss(config: ActorCriticConfig, now: ActionEvaluation, taken: Actions) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the policy gradient's loss and the critic's error, action by action."""
    policy_losses = -now.log_probs * taken.advantages
    errors = value_errors(now.values, taken.returns)
    return policy_losses + config.value_coef * errors, {"policy_loss": policy_losses, "value_loss": errors}


ActorCritic = Algorithm("actor_critic", ActorCriticConfig, update, prepare)
