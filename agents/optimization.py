"""The optimiser, and one step of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.config import RunConfig
from agents.policy import Policy


def make_optimizer(policy: Policy, config: RunConfig) -> torch.optim.Optimizer:
    """Adam over everything that is trained.

    Args:
        policy: Whose parameters.
        config: Learning rate and epsilon.

    Returns:
        The optimiser.
    """
    parameters = [one for one in policy.parameters() if one.requires_grad]
    return torch.optim.Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)


def gradient_step(policy: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Tensor:
    """Clip the gradient once, take a step, and clear it.

    Args:
        policy: Whose gradients have been accumulated.
        optimizer: What takes the step.
        max_grad_norm: The largest norm to let through.

    Returns:
        Scalar, the norm before clipping.
    """
    norm = nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
