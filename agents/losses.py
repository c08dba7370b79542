"""Terms of losses: pure functions of (batch, time) arrays and a mask, or of single actions.

Each is a mean over the tokens that count, `mask.sum()` of them, never over padding. Masked positions may hold anything,
NaN and inf included: they reach neither the loss nor its gradient. Advantages, returns and everything `old` are
constants: no gradient flows into them.

Micro-batches: pass the whole batch's token count as `normalizer` to each, and the losses of the micro-batches add up to
that of the batch, whatever the cut. A mean of their means would weigh the tokens of small micro-batches more.

Sources:
    Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
    Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv:1707.06347).
    Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html.
    Bradley & Terry 1952, "Rank Analysis of Incomplete Block Designs"; as a loss: Christiano et al. 2017, "Deep
        Reinforcement Learning from Human Preferences" (arXiv:1706.03741).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_MOST_NATS = 20.0
"""Log-ratios are clamped to this size before they are exponentiated: a factor of 5e8 is as good as any larger one."""


def masked_mean(x: Tensor, mask: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
    """Computes `sum(x * mask) / normalizer`, the mean over the positions that count.

    `x` may hold anything where `mask` is False, and gets gradient 0 there. (If `x` was itself computed from NaN or inf,
    that gradient of 0 can turn into NaN on its way back, as 0 * inf; the losses below therefore mask their inputs.)

    Args:
        x: any shape, (batch, time) as a rule; floating point.
        mask: same shape, bool, True where an element counts.
        normalizer: what to divide by; None is `mask.sum()`. A number, or a tensor with one element.

    Returns:
        () in the dtype of `x` (float32 for half precision). 0 where nothing counts.

    Raises:
        ValueError: on a shape or dtype that does not fit, and on a `normalizer` that is negative or not finite (only
            numbers are checked: reading a tensor's value would make the GPU wait).

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    _check_mask(mask, "x", x)
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ValueError(f"Expected a normalizer with one element, got shape {tuple(normalizer.shape)}")
        divisor = normalizer.detach().reshape(())
    elif normalizer is None:
        divisor = mask.sum()
    elif math.isfinite(normalizer) and normalizer >= 0:
        divisor = torch.as_tensor(normalizer, device=x.device)
    else:
        raise ValueError(f"Expected a finite normalizer of at least 0, got {normalizer}")
    total = torch.where(mask, x, 0).sum(dtype=torch.promote_types(x.dtype, torch.float32))
    # An empty batch has 0 tokens: 0 / 1, where 0 / 0 would be NaN. Where tokens count, dividing by 0 stays an error.
    return total / torch.where((divisor == 0) & ~mask.any(), 1, divisor)


def sequence_mean(x: Tensor, mask: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
    """Sums over time and averages over episodes: REINFORCE's episode loss.

    Against `masked_mean`, each token weighs the same in short and long episodes, whatever the mean length is: this, and
    not the token mean, is the expectation over episodes in the policy gradient theorem.

    Args:
        x: (batch, time) floating point, such as `-log_probs * advantages`.
        mask: (batch, time) bool, True where a position counts.
        normalizer: what to divide by; None is the number of rows in which something counts.

    Returns:
        () in the dtype of `x` (float32 for half precision). 0 where nothing counts.

    Raises:
        ValueError: as `masked_mean`, and where `x` is not (batch, time).

    Source:
        Williams 1992, episodic REINFORCE, equation 11 and theorem 2.

    Example:
        >>> import torch
        >>> sequence_mean(torch.ones(2, 3), torch.tensor([[True, True, True], [True, False, False]]))
        tensor(2.)
    """
    _check_mask(mask, "x", x)
    if x.ndim != 2:
        raise ValueError(f"Expected x of shape (batch, time), got {tuple(x.shape)}")
    return masked_mean(x, mask, normalizer=mask.any(1).sum() if normalizer is None else normalizer)


def kl_estimate(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    kind: Literal["k1", "k2", "k3"] = "k3",
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Estimates KL(policy || reference) at each token, from tokens sampled from the policy.

    With `d = log_probs - ref_log_probs`: k1 = d is unbiased, and can be negative; k2 = d^2 / 2 is biased, with a small
    variance where the two are close; k3 = exp(-d) - 1 + d is unbiased and never negative, but huge where the policy
    has lost mass.

    As a penalty in the reward, only k1 will do: the policy gradient of E[k1] is that of the KL, while a price on k2 or
    k3 pushes the policy away from the reference. As a loss, they are estimates of the value alone: gradients ignore
    how the tokens were sampled. On the policy's own samples, the expected gradient of k1 is 0, that of k2 is the
    gradient of KL(policy || reference), and that of k3 the gradient of KL(reference || policy).

    Args:
        log_probs: (batch, time), log-probs of the sampled tokens under the policy that sampled them.
        ref_log_probs: (batch, time), under the reference. A constant.
        kind: "k1", "k2" or "k3".
        mask: (batch, time) bool, True where a position counts; elsewhere the estimate is 0 and passes no gradient.
            Needed where padding may hold inf or NaN and the estimate is part of a loss. None: all count.

    Returns:
        (batch, time) in the dtype of `log_probs`.

    Raises:
        ValueError: on a shape or dtype that does not fit, and on an unknown `kind`.

    Source:
        Schulman 2020, estimators k1, k2 and k3, with p the reference and q the policy.

    Example:
        >>> import torch
        >>> log_probs, ref_log_probs = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
        >>> [round(float(kl_estimate(log_probs, ref_log_probs, kind)), 4) for kind in ("k1", "k2", "k3")]
        [0.6931, 0.2402, 0.1931]
    """
    _check_like("ref_log_probs", ref_log_probs, "log_probs", log_probs)
    difference = log_probs - ref_log_probs.detach()
    if mask is not None:
        _check_mask(mask, "log_probs", log_probs)
        difference = torch.where(mask, difference, 0)
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    if kind == "k3":
        # expm1: near d = 0, where k3 is about d^2 / 2, exp(-d) - 1 would round all of it away.
        return torch.expm1((-difference).clamp(max=_MOST_NATS)) + difference
    raise ValueError(f"Expected kind 'k1', 'k2' or 'k3', got {kind!r}")


def policy_gradient_loss(
    log_probs: Tensor, advantages: Tensor, mask: Tensor, *, normalizer: float | Tensor | None = None
) -> Tensor:
    """Computes `-mean(log_probs * advantages)`, whose gradient is minus the policy gradient.

    Args:
        log_probs: (batch, time), log-probs of the actions taken.
        advantages: (batch, time). A constant.
        mask: (batch, time) bool, True where an action counts.
        normalizer: see `masked_mean`.

    Returns:
        () in the dtype of `log_probs` (float32 for half precision).

    Raises:
        ValueError: as `masked_mean`.

    Source:
        Williams 1992, theorem 1; Sutton & Barto 2018, equation 13.11.

    Example:
        >>> import torch
        >>> policy_gradient_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5]), torch.tensor([True, True]))
        tensor(1.)
    """
    _check_mask(mask, "log_probs", log_probs)
    _check_like("advantages", advantages, "log_probs", log_probs)
    return masked_mean(-torch.where(mask, log_probs, 0) * advantages.detach(), mask, normalizer=normalizer)


def ppo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    normalizer: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes PPO's clipped surrogate loss, and how far the policy has moved.

    `-mean(min(ratio * advantage, clip(ratio, 1 - clip_range, 1 + clip_range_high) * advantage))`, with
    `ratio = exp(log_probs - old_log_probs)`. At ratio 1 its gradient is that of `policy_gradient_loss`.

    Args:
        log_probs: (batch, time), log-probs of the actions taken, under the policy that learns.
        old_log_probs: (batch, time), under the policy that took them. A constant.
        advantages: (batch, time). A constant.
        mask: (batch, time) bool, True where an action counts.
        clip_range: how far below 1 the ratio still has an effect; positive.
        clip_range_high: how far above 1; None is `clip_range`. A larger one ("clip-higher" in DAPO, arXiv:2503.14476)
            leaves unlikely tokens room to become likely.
        normalizer: see `masked_mean`. For the loss only.

    Returns:
        loss: () in the dtype of `log_probs` (float32 for half precision).
        stats: () tensors alike, without gradient, each a mean over `mask.sum()` tokens, and to be averaged with these
            counts as weights: `clip_fraction`, the share of ratios outside the clip range, whatever the sign of the
            advantage; `approx_kl`, the k3 estimate of KL(old || new) as in Stable-Baselines3; `ratio_mean`, near 1
            unless something is wrong, since its expectation over the old policy's actions is 1.

    Raises:
        ValueError: as `masked_mean`, and on a clip range that is not positive.

    Source:
        Schulman et al. 2017, equation 7.

    Example:
        >>> import torch
        >>> new, old = torch.tensor([0.6, 0.5]).log(), torch.tensor([0.4, 0.5]).log()
        >>> loss, stats = ppo_policy_loss(new, old, torch.tensor([1.0, -1.0]), torch.tensor([True, True]))
        >>> round(float(loss), 4), float(stats["clip_fraction"])
        (-0.1, 0.5)
    """
    _check_mask(mask, "log_probs", log_probs)
    _check_like("old_log_probs", old_log_probs, "log_probs", log_probs)
    old_log_probs = torch.where(mask, old_log_probs, 0)
    losses, terms = clipped_surrogate(
        torch.where(mask, log_probs, 0),
        old_log_probs,
        advantages,
        clip_range=clip_range,
        clip_range_high=clip_range_high,
    )
    stats = {name: masked_mean(term, mask) for name, term in terms.items()}
    return masked_mean(losses, mask, normalizer=normalizer), stats


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes PPO's clipped surrogate loss of single actions: `ppo_policy_loss` is its mean.

    Args:
        log_probs: Any shape, log-probs of the actions taken, under the policy that learns.
        old_log_probs: Same shape, under the policy that took them. A constant.
        advantages: Same shape. A constant.
        clip_range: How far below 1 the ratio still has an effect; positive.
        clip_range_high: How far above 1; None is `clip_range`.

    Returns:
        losses: In the shape and dtype of `log_probs`, `-min(ratio * advantage, clipped ratio * advantage)`.
        terms: Alike, without gradient: "clip_fraction" (1 where the ratio is outside the clip range), "approx_kl" (k3)
            and "ratio_mean".

    Raises:
        ValueError: On shapes that differ, and on a clip range that is not positive.

    Source:
        Schulman et al. 2017, equation 7.

    Example:
        >>> import torch
        >>> new, old = torch.tensor([0.6, 0.5]).log(), torch.tensor([0.4, 0.5]).log()
        >>> losses, _ = clipped_surrogate(new, old, torch.tensor([1.0, -1.0]))
        >>> [round(loss, 4) for loss in losses.tolist()]  # the ratio 1.5 is clipped to 1.2
        [-1.2, 1.0]
    """
    _check_like("old_log_probs", old_log_probs, "log_probs", log_probs)
    _check_like("advantages", advantages, "log_probs", log_probs)
    if clip_range_high is None:
        clip_range_high = clip_range
    for name, size in (("clip_range", clip_range), ("clip_range_high", clip_range_high)):
        if not size > 0:
            raise ValueError(f"Expected a positive {name}, got {size}")
    advantages = advantages.detach()
    # Beyond, exp overflows, and inf * 0 in its gradient is NaN.
    log_ratio = (log_probs - old_log_probs.detach()).clamp(-_MOST_NATS, _MOST_NATS)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range_high) * advantages)
    with torch.no_grad():
        outside = (ratio < 1 - clip_range) | (ratio > 1 + clip_range_high)
        terms = {
            "clip_fraction": outside.to(ratio.dtype),
            "approx_kl": torch.expm1(log_ratio) - log_ratio,
            "ratio_mean": ratio.detach(),
        }
    return -surrogate, terms


def clipped_weight_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the loss of single actions whose importance weight is cut off: `-clip(ratio) * advantage * log_prob`.

    The weight is a constant, so an action outside the range keeps its gradient, where the clipped surrogate drops it.

    Args:
        log_probs: Any shape, log-probs of the actions taken, under the policy that learns.
        old_log_probs: Same shape, under the policy that took them. A constant.
        advantages: Same shape. A constant.
        clip_range: How far below 1 weights may be; positive, and from 1 on there is no bound.
        clip_range_high: How far above 1; None is `clip_range`.

    Returns:
        The losses, same shape, and terms to log: those of `clipped_surrogate`.

    Raises:
        ValueError: On shapes that differ, or ranges that are not positive.

    Source:
        MiniMax 2025 (arXiv:2506.13585), equation 4.

    Example:
        >>> old, advantages = torch.zeros(2), torch.ones(2)
        >>> clipped_weight_loss(torch.tensor([2.0, 0.5]).log(), old, advantages, clip_range=0.25)[0]
        tensor([-0.8664,  0.5199])
    """
    with torch.no_grad():
        _, terms = clipped_surrogate(
            log_probs, old_log_probs, advantages, clip_range=clip_range, clip_range_high=clip_range_high
        )
    high = clip_range if clip_range_high is None else clip_range_high
    weights = terms["ratio_mean"].clamp(max(1 - clip_range, 0.0), 1 + high)
    return -weights * advantages.detach() * log_probs, terms


def value_loss(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    old_values: Tensor | None = None,
    clip_range: float | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Computes half the mean squared error of the values: `0.5 * mean((values - returns)^2)`.

    With `clip_range`, the larger of this and the error of the value kept within `clip_range` of its old one, as in
    OpenAI's PPO: an update that has moved a value further than that towards its target gains nothing by going on.

    The factor of one half is OpenAI Baselines' and CleanRL's. Stable-Baselines3 has none (and clips without taking the
    maximum): its `vf_coef=0.5` is our coefficient 1.

    Args:
        values: (batch, time), V of the state in which each action was taken.
        returns: (batch, time), the targets. A constant.
        mask: (batch, time) bool, True where an action counts.
        old_values: (batch, time), the values when the rollout was collected. A constant. Read with `clip_range` only.
        clip_range: how far a value may move, in units of the return; positive. None: no clipping.
        normalizer: see `masked_mean`.

    Returns:
        () in the dtype of `values` (float32 for half precision).

    Raises:
        ValueError: as `masked_mean`, on a `clip_range` that is not positive, and on `clip_range` without `old_values`.

    Source:
        Schulman et al. 2017, equation 9 (the error); Engstrom et al. 2020 (arXiv:2005.12729), section 3 (the clipping).

    Example:
        >>> import torch
        >>> value_loss(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0]), torch.tensor([True, True]))
        tensor(1.)
    """
    _check_mask(mask, "values", values)
    _check_like("returns", returns, "values", values)
    if old_values is not None:
        _check_like("old_values", old_values, "values", values)
        old_values = torch.where(mask, old_values, 0)
    losses = value_errors(
        torch.where(mask, values, 0), torch.where(mask, returns, 0), old_values=old_values, clip_range=clip_range
    )
    return masked_mean(losses, mask, normalizer=normalizer)


def value_errors(
    values: Tensor, returns: Tensor, *, old_values: Tensor | None = None, clip_range: float | None = None
) -> Tensor:
    """Computes half the squared error of each value: `value_loss` is its mean.

    Args:
        values: Any shape, V of the state in which each action was taken.
        returns: Same shape, the targets. A constant.
        old_values: Same shape, the values when the rollout was collected. A constant. Read with `clip_range` only.
        clip_range: How far a value may move, in units of the return; positive. None: no clipping.

    Returns:
        In the shape and dtype of `values`.

    Raises:
        ValueError: On shapes that differ, on a `clip_range` that is not positive, and on `clip_range` without
            `old_values`.

    Source:
        Schulman et al. 2017, equation 9; Engstrom et al. 2020 (arXiv:2005.12729), section 3 (the clipping).

    Example:
        >>> import torch
        >>> value_errors(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0]))
        tensor([2., 0.])
    """
    _check_like("returns", returns, "values", values)
    returns = returns.detach()
    losses = 0.5 * (values - returns).square()
    if clip_range is None:
        return losses
    if not clip_range > 0:
        raise ValueError(f"Expected a positive clip_range, got {clip_range}")
    if old_values is None:
        raise ValueError("Expected old_values with clip_range, got None")
    _check_like("old_values", old_values, "values", values)
    old_values = old_values.detach()
    kept = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(losses, 0.5 * (kept - returns).square())


def entropy_bonus(entropies: Tensor, mask: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
    """Computes the mean entropy of the policy, to be subtracted from the loss: `loss - coefficient * entropy_bonus`.

    Args:
        entropies: (batch, time) in nats, of the distribution that each action was drawn from.
        mask: (batch, time) bool, True where an action counts.
        normalizer: see `masked_mean`.

    Returns:
        () in the dtype of `entropies` (float32 for half precision), in nats.

    Raises:
        ValueError: as `masked_mean`.

    Source:
        Schulman et al. 2017, equation 9, the term S; Williams & Peng 1991.

    Example:
        >>> import torch
        >>> entropy_bonus(torch.tensor([0.5, 1.5, 7.0]), torch.tensor([True, True, False]))
        tensor(1.)
    """
    return masked_mean(entropies, mask, normalizer=normalizer)


def preference_loss(margins: Tensor, *, normalizer: float | None = None) -> Tensor:
    """Computes the mean of -log sigmoid(margin): the negative log-likelihood of preferences, after Bradley and Terry.

    With margin = r(chosen) - r(rejected), the loss of a reward model; with r the implicit reward
    beta log(pi / pi_ref), that of DPO.

    Args:
        margins: (pairs,) floating point.
        normalizer: what to divide by; None is the number of pairs. Micro-batches pass the whole batch's.

    Returns:
        () in the dtype of `margins` (float32 for half precision), in nats.

    Raises:
        ValueError: on another rank, or a dtype that is not floating point.

    Source:
        Christiano et al. 2017 (arXiv:1706.03741), equation 1; Rafailov et al. 2023 (arXiv:2305.18290), equation 7.

    Example:
        >>> import torch
        >>> preference_loss(torch.tensor([0.0, 0.0]))
        tensor(0.6931)
    """
    if margins.ndim != 1 or not margins.is_floating_point():
        raise ValueError(f"Expected margins (pairs,) of floating point, got {margins.dtype} {tuple(margins.shape)}")
    losses = torch.nn.functional.softplus(-margins.to(torch.promote_types(margins.dtype, torch.float32)))
    return losses.sum() / max(len(margins) if normalizer is None else normalizer, 1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Computes `1 - Var[returns - values] / Var[returns]`: 1 is a perfect value function, 0 a constant one.

    Below 0 it is worse than a constant. A constant error is not seen: it changes no variance. The returns are to be
    Monte-Carlo returns: lambda-returns contain the values, which then explain themselves.

    Args:
        values: (batch, time).
        returns: (batch, time).
        mask: (batch, time) bool, True where a position counts.

    Returns:
        () in the dtype of `values` (float32 for half precision), without gradient. NaN where the returns do not vary
        and there is nothing to explain, as in Stable-Baselines3.

    Raises:
        ValueError: on a shape or dtype that does not fit.

    Example:
        >>> import torch
        >>> values, returns = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([0.0, 4.0, 8.0])
        >>> explained_variance(values, returns, torch.tensor([True, True, True]))
        tensor(0.7500)
    """
    _check_mask(mask, "values", values)
    _check_like("returns", returns, "values", values)
    with torch.no_grad():
        targets = returns[mask].double()
        errors = targets - values[mask].double()
        # The population's variance (the factor to the sample's would cancel out), written out: `var` warns on nothing.
        variance = (targets - targets.mean()).square().mean()
        residual = (errors - errors.mean()).square().mean()
        explained = torch.where(variance > 0, 1 - residual / variance, torch.nan)
        return explained.to(torch.promote_types(values.dtype, torch.float32))


def _check_like(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(f"Expected {name} of shape {tuple(other.shape)} like {other_name}, got {tuple(x.shape)}")


def _check_mask(mask: Tensor, other_name: str, other: Tensor) -> None:
    _check_like("mask", mask, other_name, other)
    if mask.dtype != torch.bool:
        raise ValueError(f"Expected mask of dtype torch.bool, got {mask.dtype}")
