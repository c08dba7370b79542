"""The reference's value function, fitted to its episodes: features of a state, and ridge regression on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.advantages import cumulative_advantage, discounted_returns, per_step_means
from agents.policy.policy import Policy
from agents.rollout import Rollout

PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Penalties on a squared weight in the value function's regression, whose inputs have standard deviation 1. The penalty
is chosen whose values explain most of the returns, for prompts that they were not fitted on."""


@torch.no_grad()
def state_features(policy: Policy, rollout: Rollout, *, micro_batch_size: int = 64) -> Tensor:
    """Computes the trunk's state before each action of a rollout: the features of a value function.

    Args:
        policy: The policy whose trunk it is. The rollout is in the tokens of its tokenizer.
        rollout: The episodes.
        micro_batch_size: Episodes per forward pass.

    Returns:
        `(batch, time, hidden)` float32; arbitrary numbers at padding.
    """
    parts = []
    mask = rollout.response_mask
    for rows in torch.arange(len(rollout), device=mask.device).split(micro_batch_size):
        positions = rollout.positions[rows]
        ends = (positions * mask[rows]).amax(dim=1)
        states = policy.row_states(rollout.input_ids[rows], positions[:, 0], ends)
        before = (positions - 1).clamp(max=states.shape[1] - 1)
        parts.append(states.gather(1, before[..., None].expand(-1, -1, states.shape[-1])).float())
    return torch.cat(parts)


@dataclass(frozen=True)
class ReferenceValues:
    """V of a reference policy, for the episodes of any policy with its tokenizer.

    Attributes:
        policy: The reference.
        weights: `(folds, hidden + 1)` float64, a linear value function for each fold, fitted on the other folds, its
            constant last; None: the policy's own value head.
        steps: `(folds, time)` float64, added to that: for each fold, the mean at each step of the part of the other
            folds' returns that is not explained. A hidden state hardly tells how much of an episode is left.
        fold_of: `(examples,)` int64, the fold of each example of the pool.
        gamma: The discount of the returns that they were fitted to.
        first_values: `(episodes,)` float64, V of each episode's prompt, in the reference's own episodes.
        explained_variance: Share of the variance of the reference's returns that its values explain.
    """

    policy: Policy
    weights: Tensor | None
    steps: Tensor
    fold_of: Tensor
    gamma: float
    first_values: NDArray[np.float64]
    explained_variance: float

    @classmethod
    def of(
        cls,
        policy: Policy,
        rollout: Rollout,
        source: Literal["fitted", "head"],
        fold_of: Sequence[int],
        gamma: float,
        *,
        penalties: Sequence[float] = PENALTIES,
    ) -> ReferenceValues:
        """Fits them to the reference's own episodes.

        Args:
            policy: The reference.
            rollout: Its episodes.
            source: "fitted" or "head".
            fold_of: The fold of each example of the pool, from 0 on. Examples with equal prompts are in the same fold.
            gamma: The discount.
            penalties: The penalties to choose from.

        Returns:
            The values.
        """
        mask = rollout.response_mask
        returns = discounted_returns(rollout.rewards, mask, gamma=gamma).double()
        variance = returns[mask].var(unbiased=False)
        folds = torch.tensor(fold_of, device=mask.device)
        fold_of_action = folds[rollout.examples][:, None].expand_as(mask)
        others = [mask & (fold_of_action != fold) for fold in range(max(fold_of) + 1)]  # what a fold may be fitted to
        features = None
        candidates: list[Tensor | None] = [None]
        if source == "head":
            unexplained = returns - policy.state_values(rollout.input_ids, rollout.positions, mask)
            steps = torch.stack([_step_means(unexplained, other) for other in others])
        else:
            features = state_features(policy, rollout).double()
            steps = torch.stack([_step_means(returns, other) for other in others])
            fitted = [
                ridge(features[other], (returns - means)[other], penalties)
                for other, means in zip(others, steps, strict=True)
            ]
            candidates = list(torch.stack(fitted, dim=1))  # one for each penalty
        best = None
        for weights in candidates:
            candidate = cls(policy, weights, steps, folds, gamma, np.zeros(len(rollout)), 0.0)
            values = candidate.values(rollout, features)
            error = (returns - values)[mask].var(unbiased=False)
            share = float(1 - error / variance) if float(variance) > 0 else 0.0
            if best is None or share > best.explained_variance:
                best = replace(candidate, first_values=values[:, 0].cpu().numpy(), explained_variance=share)
        assert best is not None
        return best

    def values(self, rollout: Rollout, features: Tensor | None = None) -> Tensor:
        """Computes V of the state before each action.

        Args:
            rollout: Episodes of a policy with the reference's tokenizer.
            features: `(batch, time, hidden)` float64, their `state_features`; None computes them.

        Returns:
            `(batch, time)` float64, zeros at padding.
        """
        mask = rollout.response_mask
        fold = self.fold_of[rollout.examples]  # the values of this fold have not seen the episode's prompt
        if self.weights is None:
            values = self.policy.state_values(rollout.input_ids, rollout.positions, mask).double()
        else:
            features = state_features(self.policy, rollout).double() if features is None else features
            values = (features @ self.weights[fold, :-1, None])[..., 0] + self.weights[fold, -1:]
        steps = torch.arange(mask.shape[1], device=mask.device).clamp(max=self.steps.shape[1] - 1)
        return torch.where(mask, values + self.steps[fold][:, steps], 0.0)

    def advantages(self, rollout: Rollout, gae_lambda: float) -> tuple[NDArray[np.float64], Tensor]:
        """Computes the cumulative advantage of episodes.

        Args:
            rollout: Episodes of a policy with the reference's tokenizer.
            gae_lambda: Lambda of `agents.advantages.cumulative_advantage`.

        Returns:
            `(batch,)` float64, and each token's share of it, `(batch, time)` float64.
        """
        totals, shares = cumulative_advantage(
            rollout.rewards.double(),
            self.values(rollout),
            rollout.terminated,
            rollout.truncated,
            rollout.response_mask,
            gamma=self.gamma,
            gae_lambda=gae_lambda,
        )
        return totals.cpu().numpy(), shares


def _step_means(returns: Tensor, mask: Tensor) -> Tensor:
    """The mean return at each step, `(time,)` float64; where no row is alive, that of the last step with one."""
    means, alive = per_step_means(returns, mask)
    last = torch.where(alive, torch.arange(len(alive), device=mask.device), 0).cummax(dim=0).values
    return means[last]


def ridge(features: Tensor, targets: Tensor, penalties: Sequence[float] = PENALTIES) -> Tensor:
    """Fits linear functions of features, by least squares with a penalty on their weights.

    Args:
        features: `(n, hidden)`. Each is scaled to standard deviation 1 before its weight is penalised.
        targets: `(n,)`.
        penalties: The penalties on a squared weight.

    Returns:
        `(penalties, hidden + 1)` float64, the constant last.
    """
    x, y = features.double(), targets.double()
    center, scale = x.mean(dim=0), x.std(dim=0, unbiased=False).clamp(min=1e-8)
    standard = (x - center) / scale
    eigenvalues, directions = torch.linalg.eigh(standard.T @ standard)  # one decomposition for every penalty
    along = directions.T @ (standard.T @ (y - y.mean()))
    weights = torch.stack(
        [directions @ (along / (eigenvalues.clamp(min=0) + penalty)) / scale for penalty in penalties]
    )
    return torch.cat([weights, (y.mean() - weights @ center)[:, None]], dim=1)
