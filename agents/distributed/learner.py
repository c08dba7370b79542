"""The learner: the policy that updates are made with, and how the policy that plays gets its weights.

In one process, and in several that have a copy each, the two are the same policy. Under FSDP and DeepSpeed the learner
is a second one, which is cut over the processes: see `agents.distributed.fsdp` and `agents.distributed.deepspeed`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from agents.distributed import deepspeed, fsdp
from agents.policy.policy import Policy

MakeOptimizer = Callable[[Policy], torch.optim.Optimizer]
"""Makes a fresh optimiser over everything of a policy that is trained."""


class Learner(Protocol):
    """The policy that updates are made with, and its optimiser.

    Attributes:
        policy: The policy that an algorithm's update gets.
        optimizer: Over its parameters.
        is_cut: If True, each process holds a piece of it, so that a checkpoint takes all of them.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    is_cut: bool

    def begin_update(self) -> None:
        """Makes room for an update. Nothing may be computed with the policy that plays until `publish`."""

    def publish(self) -> None:
        """Gives the policy that plays the learner's weights. Called by all processes together."""


class WholeLearner:
    """A learner that is the policy that plays."""

    is_cut = False

    def __init__(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        """Makes its optimiser.

        Args:
            policy: The policy that plays.
            make_optimizer: Makes the optimiser.
        """
        self.policy = policy
        self.optimizer = make_optimizer(policy)

    def begin_update(self) -> None:
        """Does nothing: there is one copy of the weights."""

    def publish(self) -> None:
        """Does nothing: the policy that plays has been trained in place."""


def make_learner(policy: Policy, make_optimizer: MakeOptimizer) -> Learner:
    """Makes the learner that `accelerate launch` asks for. Called by all processes together.

    Args:
        policy: The policy that plays, the same in every process.
        make_optimizer: Makes the optimiser.

    Returns:
        The learner.

    Raises:
        ImportError: If DeepSpeed is asked for and not installed.
        ValueError: If Accelerate's config asks for something that is not supported.
    """
    if deepspeed.wanted():
        return deepspeed.ZeroLearner(policy, make_optimizer)
    if (sharding := fsdp.wanted()) is not None:
        return fsdp.ShardedLearner(policy, sharding, make_optimizer)
    return WholeLearner(policy, make_optimizer)
