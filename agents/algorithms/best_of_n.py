"""Best of n, cloned: play, keep the best episodes, and raise their log-probability. The honest baseline.

    kept = the best episode of each example's n   (or, without groups, the best share of the batch)
    loss = - mean over the tokens of kept episodes of log pi(a_t | s_t)

A claim that reinforcement learning helps has to beat this: no advantage, no baseline, no critic, and one bit of credit
an episode.

Source: Dong et al. (2023), RAFT, arXiv:2304.06767, algorithm 1; filtered behaviour cloning as in Nakano et al. (2021),
WebGPT, arXiv:2112.09332, which also takes the best of n without training (`best_score` in the metrics is that).

What differs from the papers: the policy that plays is the one just trained, batch by batch; the loss is a mean over
tokens; an episode is judged by its return minus the price of its KL to the start model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agents.advantages import discounted_returns
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.update import optimize, priced_rewards


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(RunConfig):
    """Settings of best-of-n cloning."""

    kl_credit: Literal["token", "return", "loss"] = "return"
    """Place where KL is charged: subtracted from the return that episodes are judged by, or in the loss (with k2 or
    k3)."""
    keep: float = 0.25
    """Share of the batch that is cloned, if group_size is 1. With groups, the best episode of each is cloned."""
    epochs: int = 1
    """Passes over the kept episodes, one optimiser step each."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_number("keep", low=0.0, high=1.0, open_low=True)
        self.check_count("epochs")
        if self.kl_credit == "token":
            raise ValueError("Expected kl_credit 'return' or 'loss', got 'token': whole episodes are judged here")


def best_rows(returns: Tensor, group: Tensor | None, keep: float) -> Tensor:
    """Picks the episodes to clone.

    Args:
        returns: `(batch,)`, what each episode is worth.
        group: `(batch,)` int64, or None: the whole batch is compared.
        keep: Share of the batch to keep, without groups.

    Returns:
        Row numbers, `(k,)` int64 in ascending order: the best of each group (the first of them, at a tie), or the best
        `keep` of the batch, at least one.
    """
    order = returns.argsort(descending=True, stable=True)
    if group is None:
        return order[: max(1, round(keep * len(returns)))].sort().values
    _, place = group.unique(return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(returns), dtype=torch.int64, device=returns.device)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    first.scatter_reduce_(0, place, rank, "amin")
    return order[first].sort().values


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: BestOfNConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Clones the best episodes of one batch.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, with `ref_log_probs` if KL has a price.
        config: The settings.
        generator: Unused: all kept episodes are one step.

    Returns:
        Metrics; `best_score` is the mean score of what was kept.
    """
    worth = discounted_returns(priced_rewards(rollout, config), rollout.response_mask, gamma=config.gamma)[:, 0]
    kept = best_rows(worth, rollout.group if config.group_size > 1 else None, config.keep)
    metrics: dict[str, Tensor | float] = {"best_score": rollout.scores[kept].mean(), "kept": len(kept) / len(rollout)}
    return optimize(
        policy, optimizer, rollout, loss, config, generator, rows=kept, epochs=config.epochs, metrics=metrics
    )


def loss(now: ActionEvaluation, taken: Actions) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the negative log-likelihood, action by action."""
    return -now.log_probs, {"policy_loss": -now.log_probs}


BestOfN = Algorithm("best_of_n", BestOfNConfig, update)
