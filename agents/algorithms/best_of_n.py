"""Best of n, cloned: play, keep the best episodes, and raise their log-probability. The honest baseline.

    kept = the best episode of each example's n   (or, without groups, the best share of the batch)
    loss = - mean over the tokens of kept episodes of log pi(a_t | s_t)

Whoever says that reinforcement learning does something has to beat this: no advantage, no baseline, no critic, and one
bit of credit an episode.

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
from agents.losses import kl_estimate, masked_mean
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Rollout
from agents.training.agent import Algorithm
from agents.training.config import RunConfig
from agents.training.meter import Meter
from agents.training.optimization import step


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
    """Which episodes to clone.

    Args:
        returns: `(batch,)` what each episode is worth.
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
    """Clone the best episodes of one batch.

    Args:
        policy: Who is trained.
        optimizer: Over the policy's parameters.
        rollout: Fresh episodes of that policy, `ref_log_probs` filled in where KL has a price.
        config: The settings.
        generator: Unused: all kept episodes are one step.

    Returns:
        Metrics; `best_score` is the mean score of what was kept.
    """
    kl_coef, entropy_coef = config.kl_coef or 0.0, config.entropy_coef or 0.0
    mask, rewards = rollout.response_mask, rollout.rewards_and_bonuses
    if config.kl_credit == "return" and kl_coef:
        rewards = rewards - kl_coef * rollout.kl(config.kl_estimator)
    worth = discounted_returns(rewards, mask, gamma=config.gamma)[:, 0]
    kept = best_rows(worth, rollout.group if config.group_size > 1 else None, config.keep)
    best = rollout.select(kept)

    meter = Meter()
    meter.add(1.0, {"best_score": best.scores.mean(), "kept": len(best) / len(rollout)})
    tokens = best.response_mask.sum()

    def loss_of(rows: Tensor, found: Meter) -> Tensor:
        part = rollout.select(rows)

        def of_actions(now: ActionEvaluation, at: Places) -> Tensor:
            counted = part.response_mask[at]
            terms = {
                "policy_loss": -masked_mean(now.log_probs, counted, normalizer=tokens),
                "entropy": masked_mean(now.entropies, counted, normalizer=tokens),
            }
            loss = terms["policy_loss"]
            if entropy_coef:
                loss = loss - entropy_coef * terms["entropy"]
            if config.kl_credit == "loss" and kl_coef:
                assert part.ref_log_probs is not None
                kl = kl_estimate(now.log_probs, part.ref_log_probs[at], config.kl_estimator, mask=counted)
                loss = loss + kl_coef * masked_mean(kl, counted, normalizer=tokens)
            found.add_shares(1.0, len(counted) / tokens, terms)
            return loss

        return policy.loss(
            part.input_ids,
            part.positions,
            part.response_mask,
            of_actions,
            temperature=config.temperature,
            allowed=part.action_masks,
        )

    for _ in range(config.epochs):
        step(optimizer, kept, loss_of, config, meter)
    return meter.means()


BestOfN = Algorithm("best_of_n", BestOfNConfig, update)
