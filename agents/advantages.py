"""Returns, advantages and baselines: pure functions from rewards and values to the weights of a policy gradient.

One row is one episode and the time axis is the agent's actions, as in a `Rollout`. `response_mask` is True where an
action counts; what stands elsewhere is never read, whatever it is (NaN included), and comes back as 0. A position that
does not count is skipped, not stepped through: the next state of an action is that of the row's next counted action.

`terminated` and `truncated` say how a row ended. Only `terminated` makes the future worth nothing. A row that was
truncated, or that was cut off with neither flag, has a future which these rewards do not show: `last_values`, the value
of the state after its last action, stands for it (Pardo et al. 2018, "Time Limits in Reinforcement Learning").

All results are constants for autograd.

Sources:
    Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
    Sutton & Barto 2018, "Reinforcement Learning: An Introduction", second edition.
    Kakade & Langford 2002, "Approximately Optimal Approximate Reinforcement Learning".
    Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes generalized advantage estimates and the value function's targets.

    With `delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)`, the advantage is `sum_k (gamma * gae_lambda)^k * delta_{t+k}`
    over the rest of the episode. The trace never leaves a row, so either flag stops it; `terminated` alone sets the
    value after the last action to 0.

    Args:
        rewards: (batch, time), the reward of each action.
        values: (batch, time) floating point, V of the state in which each action was taken.
        terminated: (batch,) bool, the row's last action ended the task. It wins where both flags are set.
        truncated: (batch,) bool, the row's last action was cut off from outside.
        response_mask: (batch, time) bool, True where an action counts.
        gamma: discount in [0, 1].
        gae_lambda: weight of long traces in [0, 1]. 0 gives the one-step TD error, 1 the return minus the value.
        last_values: (batch,), V of the state after each row's last action. Read only where a row with a counted action
            is not `terminated`; may be None where there is no such row.

    Returns:
        advantages: (batch, time) in the dtype of `values` (float32 for half precision), 0 where masked.
        returns: (batch, time) alike, `advantages + values`: the TD(lambda) return, target of the value function.

    Raises:
        ValueError: on a shape or dtype that does not fit, on `gamma` or `gae_lambda` outside [0, 1], and where a row
            needs `last_values` and there are none.

    Source:
        Schulman et al. 2016, equations 11 (delta) and 16; 17 and 18 are the limits. The targets are the lambda-returns
        of Sutton & Barto 2018, section 12.1.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([True]), torch.tensor([False])
        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
        >>> gae(rewards, values, yes, no, torch.ones(1, 2, dtype=torch.bool), gae_lambda=0.5)
        (tensor([[0.1250, 0.7500]]), tensor([[0.6250, 1.0000]]))
    """
    _check_matrix("rewards", rewards)
    _check_like("values", values, "rewards", rewards)
    _check_mask("response_mask", response_mask, "rewards", rewards)
    _check_flags("terminated", terminated, rewards)
    _check_flags("truncated", truncated, rewards)
    _check_unit_interval("gamma", gamma)
    _check_unit_interval("gae_lambda", gae_lambda)
    if not values.is_floating_point():
        raise ValueError(f"Expected values of a floating point dtype, got {values.dtype}")
    with torch.no_grad():
        dtype = _accurate(values.dtype)
        bootstrap = _bootstrap(last_values, terminated, truncated, response_mask, dtype)
        values = torch.where(response_mask, values, 0).to(dtype)
        next_values = _next_values(values, bootstrap, response_mask)
        deltas = torch.where(response_mask, rewards.to(dtype) + gamma * next_values - values, 0)
        nothing = torch.zeros_like(bootstrap)
        advantages = _discounted_sum(deltas, nothing, response_mask, gamma * gae_lambda)
        return advantages, advantages + values


def cumulative_advantage(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.0,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes how much better whole episodes went than somebody's value function expected, and which actions did it.

    The cumulative advantage is `sum_t gamma^t * A_t`, with the advantages of `gae`. At `gae_lambda = 0` they are the
    TD errors `delta_t`, the sum telescopes, and it is the discounted return (and `gamma^T * V(s_T)`, where truncated)
    minus `V(s_0)`, whatever V is. With V the exact values of a policy mu, its mean over episodes of a policy pi is then
    `J(pi) - J(mu)`. At `gae_lambda > 0` it is another number: each TD error comes up in the advantages of all actions
    before it, and counts `(1 - gae_lambda^(k+1)) / (1 - gae_lambda)` times (at 1: `k + 1` times), so that late tokens
    weigh more than early ones.

    Args:
        rewards: (batch, time), the reward of each action.
        values: (batch, time) floating point, V of the state in which each action was taken.
        terminated: (batch,) bool, see `gae`.
        truncated: (batch,) bool, see `gae`.
        response_mask: (batch, time) bool, True where an action counts.
        gamma: discount in [0, 1].
        gae_lambda: weight of long traces in [0, 1].
        last_values: (batch,), see `gae`.

    Returns:
        totals: (batch,) in the dtype of `values` (float32 for half precision).
        shares: (batch, time) alike, what each action's TD error adds to its row's total; 0 where masked.

    Raises:
        ValueError: as `gae` does.

    Source:
        Kakade & Langford 2002, lemma 6.1: the performance difference is the mean discounted sum of advantages.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([True]), torch.tensor([False])
        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
        >>> cumulative_advantage(rewards, values, yes, no, torch.ones(1, 2, dtype=torch.bool))
        (tensor([0.5000]), tensor([[-0.2500,  0.7500]]))
    """
    _check_unit_interval("gae_lambda", gae_lambda)
    ends = (terminated, truncated, response_mask)
    errors, _ = gae(rewards, values, *ends, gamma=gamma, gae_lambda=0.0, last_values=last_values)
    step = response_mask.cumsum(dim=1).to(errors.dtype) - 1  # k: how many counted actions came before
    times = (1 - gae_lambda ** (step + 1)) / (1 - gae_lambda) if gae_lambda < 1 else step + 1
    shares = torch.where(response_mask, gamma**step * times * errors, 0)
    return shares.sum(dim=1), shares


def discounted_returns(
    rewards: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    terminated: Tensor | None = None,
    last_values: Tensor | None = None,
) -> Tensor:
    """Computes the reward-to-go of each action, `G_t = r_t + gamma * G_{t+1}`.

    Args:
        rewards: (batch, time), the reward of each action.
        response_mask: (batch, time) bool, True where an action counts.
        gamma: discount in [0, 1].
        terminated: (batch,) bool, as for `gae`. Needed with `last_values`, and of no effect without.
        last_values: (batch,), V of the state after each row's last action: for a row that is not `terminated`, it
            stands for the rewards to come. None, the default, takes those as 0, as plain REINFORCE does.

    Returns:
        (batch, time) in the dtype of `rewards` (at least float32), 0 where masked.

    Raises:
        ValueError: on a shape or dtype that does not fit, on `gamma` outside [0, 1], and on `last_values` without
            `terminated`: to bootstrap from the end of a task would count rewards that do not exist.

    Source:
        Sutton & Barto 2018, equations 3.8 and 3.9.

    Example:
        >>> import torch
        >>> discounted_returns(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, True, False]]), gamma=0.5)
        tensor([[2., 2., 0.]])
    """
    _check_matrix("rewards", rewards)
    _check_mask("response_mask", response_mask, "rewards", rewards)
    _check_unit_interval("gamma", gamma)
    if terminated is not None:
        _check_flags("terminated", terminated, rewards)
    with torch.no_grad():
        dtype = _accurate(rewards.dtype)
        future = torch.zeros(rewards.shape[0], dtype=dtype, device=rewards.device)
        if last_values is not None:
            if terminated is None:
                raise ValueError("Expected terminated with last_values: a row that is terminated must not bootstrap")
            future = _bootstrap(last_values, terminated, torch.zeros_like(terminated), response_mask, dtype)
        return _discounted_sum(torch.where(response_mask, rewards, 0).to(dtype), future, response_mask, gamma)


def rounding_error(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Bounds what rounding may add to a sum of rewards.

    Payouts telescope: two episodes that both score 1 have rewards of float32 whose sums differ by 1e-7. Divided by its
    own size, such a difference would look like any other.

    Args:
        rewards: (batch, time) floating point.
        response_mask: (batch, time) bool, True where an action counts.

    Returns:
        () float64: eight units of rounding (`torch.finfo(dtype).eps`) of the largest sum of absolute rewards.

    Raises:
        ValueError: On a shape or dtype that does not fit.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([[0.25, 0.75], [0.5, 0.0]])
        >>> float(rounding_error(rewards, rewards > 0)) == 8 * torch.finfo(torch.float32).eps
        True
    """
    _check_matrix("rewards", rewards)
    _check_mask("response_mask", response_mask, "rewards", rewards)
    with torch.no_grad():
        sums = torch.where(response_mask, rewards, 0).double().abs().sum(dim=1)
        return 8 * torch.finfo(rewards.dtype).eps * sums.max() if len(sums) else sums.sum()


def normalize(
    advantages: Tensor,
    response_mask: Tensor,
    *,
    center: bool = True,
    eps: float = 1e-8,
    tolerance: float | Tensor = 0.0,
) -> Tensor:
    """Scales advantages to unit size over all counted positions of the batch.

    `center=True` gives mean 0 and standard deviation 1. `center=False` keeps the sign of every advantage, and so which
    actions are reinforced: it divides by the root mean square, not by the standard deviation, which says nothing about
    the size of what has not been centred (and is 0 for a constant).

    The standard deviation is the population's (divided by n, not n - 1): it is defined for a single token, and does not
    change when a batch is doubled. Stable-Baselines3 divides by n - 1; our result is sqrt(n / (n - 1)) times as large.

    Args:
        advantages: (batch, time) floating point.
        response_mask: (batch, time) bool, True where an action counts.
        center: whether to subtract the mean.
        eps: added to the divisor. Where all advantages are equal, the centred result is 0.
        tolerance: advantages of this size or less are rounding: if the divisor is not larger, the result is 0.

    Returns:
        (batch, time) in the dtype of `advantages`, 0 where masked.

    Raises:
        ValueError: on a shape or dtype that does not fit, and on `eps` that is not positive.

    Example:
        >>> import torch
        >>> normalize(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[-1.,  1.,  0.]])
    """
    _check_matrix("advantages", advantages)
    _check_mask("response_mask", response_mask, "advantages", advantages)
    if not advantages.is_floating_point():
        raise ValueError(f"Expected advantages of a floating point dtype, got {advantages.dtype}")
    if not eps > 0:
        raise ValueError(f"Expected a positive eps, got {eps}")
    with torch.no_grad():
        # float64: a constant's mean is then exactly that constant, and squares of float32 do not overflow.
        counted = torch.where(response_mask, advantages, 0).double()
        count = response_mask.sum().clamp(min=1)
        if center:
            counted = torch.where(response_mask, counted - counted.sum() / count, 0)
        size = (counted.square().sum() / count).sqrt()
        scaled = torch.where(size > tolerance, counted / (size + eps), 0)
        return scaled.to(advantages.dtype)


def per_step_baseline(returns: Tensor, response_mask: Tensor) -> Tensor:
    """Computes the mean, at each time step, over the rows that are still alive.

    The simplest baseline for rewards-to-go, which shrink as an episode goes on. A row's own return is part of the mean,
    which shrinks the expected gradient by (n - 1) / n where n rows are alive; `leave_one_out_baseline` does not.

    Args:
        returns: (batch, time), the return of each action.
        response_mask: (batch, time) bool, True where an action counts.

    Returns:
        (batch, time) in the dtype of `returns` (at least float32), 0 where masked.

    Raises:
        ValueError: on a shape or dtype that does not fit.

    Source:
        Sutton & Barto 2018, section 13.4, REINFORCE with baseline, equation 13.11.

    Example:
        >>> import torch
        >>> per_step_baseline(torch.tensor([[4.0, 2.0], [8.0, 9.0]]), torch.tensor([[True, True], [True, False]]))
        tensor([[6., 2.],
                [6., 0.]])
    """
    _check_matrix("returns", returns)
    _check_mask("response_mask", response_mask, "returns", returns)
    means, _ = per_step_means(returns, response_mask)
    return torch.where(response_mask, means, 0).to(_accurate(returns.dtype))


def per_step_means(returns: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean, at each time step, over the rows that are still alive, and where there are any.

    Args:
        returns: (batch, time), the return of each action.
        response_mask: (batch, time) bool, True where an action counts.

    Returns:
        means: (time,) float64, 0 where no row is alive.
        alive: (time,) bool, whether any row is.

    Raises:
        ValueError: on a shape or dtype that does not fit.

    Example:
        >>> per_step_means(torch.tensor([[4.0, 2.0], [8.0, 9.0]]), torch.tensor([[True, False], [True, False]]))[0]
        tensor([6., 0.], dtype=torch.float64)
    """
    _check_matrix("returns", returns)
    _check_mask("response_mask", response_mask, "returns", returns)
    with torch.no_grad():
        totals = torch.where(response_mask, returns, 0).double().sum(0)
        return totals / response_mask.sum(0).clamp(min=1), response_mask.any(0)


def moving_average(before: Tensor, now: Tensor, decay: float) -> Tensor:
    """Computes `decay * before + (1 - decay) * now`, time step by time step; a step seen once only is what was seen.

    Args:
        before: (m,), the average so far; m may be 0.
        now: (n,), the newest means.
        decay: weight of the past in [0, 1].

    Returns:
        (max(m, n),) float64, on the CPU.

    Raises:
        ValueError: on a shape that does not fit, and on `decay` outside [0, 1].

    Example:
        >>> moving_average(torch.tensor([4.0]), torch.tensor([8.0, 2.0]), 0.75).tolist()
        [5.0, 2.0]
    """
    for name, x in (("before", before), ("now", now)):
        if x.ndim != 1:
            raise ValueError(f"Expected {name} of shape (time,), got {tuple(x.shape)}")
    _check_unit_interval("decay", decay)
    with torch.no_grad():
        before, now = before.detach().double().cpu(), now.detach().double().cpu()
        both = min(len(before), len(now))
        mixed = decay * before[:both] + (1 - decay) * now[:both]
        return torch.cat([mixed, before[both:], now[both:]])


def group_normalize(returns: Tensor, response_mask: Tensor, group: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Computes, at each time step, how many standard deviations a return lies above the mean of its group.

    Only rows that are still alive are compared. A group with one row, or whose returns differ by rounding alone (64
    units of it, relative to the largest return), is worth 0.

    The standard deviation is the population's, as in `normalize`; implementations of GRPO that divide by n - 1 (torch's
    `std`) get sqrt((n - 1) / n) times as much.

    Args:
        returns: (batch, time), the return of each action.
        response_mask: (batch, time) bool, True where an action counts.
        group: (batch,) integers. Rows with the same number are compared.
        eps: added to the standard deviation, in units of the return.

    Returns:
        (batch, time) in the dtype of `returns` (at least float32), 0 where masked.

    Raises:
        ValueError: on a shape or dtype that does not fit.

    Source:
        Shao et al. 2024 (arXiv:2402.03300), section 4.1.2, the advantage under outcome supervision, which is a constant
        over a response. Its extension to each time step is ours.

    Example:
        >>> group_normalize(torch.tensor([[3.0], [5.0]]), torch.ones(2, 1, dtype=torch.bool), torch.tensor([7, 7]))
        tensor([[-1.0000],
                [ 1.0000]])
    """
    _check_matrix("returns", returns)
    _check_mask("response_mask", response_mask, "returns", returns)
    _check_group(group, returns)
    if not eps > 0:
        raise ValueError(f"Expected a positive eps, got {eps}")
    centred, deviation = group_deviations(returns, response_mask, group)
    return torch.where(deviation > 0, centred / (deviation + eps), 0)


def group_deviations(returns: Tensor, response_mask: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Computes, at each time step, how far a return lies above the mean of its group, and the group's deviation.

    Args:
        returns: (batch, time), the return of each action.
        response_mask: (batch, time) bool, True where an action counts.
        group: (batch,) integers. Rows with the same number are compared.

    Returns:
        centred: (batch, time) in the dtype of `returns` (at least float32), 0 where masked.
        deviation: Alike, the population's standard deviation of the group at that step; 0 where the group has one row,
            or its returns differ by rounding alone.

    Raises:
        ValueError: On a shape or dtype that does not fit.

    Example:
        >>> import torch
        >>> one_step = torch.tensor([[3.0], [5.0]])
        >>> [x.tolist() for x in group_deviations(one_step, one_step > 0, torch.tensor([7, 7]))]
        [[[-1.0], [1.0]], [[1.0], [1.0]]]
    """
    _check_matrix("returns", returns)
    _check_mask("response_mask", response_mask, "returns", returns)
    _check_group(group, returns)
    dtype = _accurate(returns.dtype)
    with torch.no_grad():
        counted = torch.where(response_mask, returns, 0).double()
        ids, row_group = torch.unique(group, return_inverse=True)

        def of_group(x: Tensor) -> Tensor:
            return x.new_zeros(len(ids), returns.shape[1]).index_add(0, row_group, x)[row_group]

        count = of_group(response_mask.double()).clamp(min=1)
        centred = torch.where(response_mask, counted - of_group(counted) / count, 0)
        deviation = (of_group(centred.square()) / count).sqrt()
        largest = counted.new_zeros(len(ids), returns.shape[1])
        rows = row_group[:, None].expand_as(counted)
        largest = largest.scatter_reduce(0, rows, counted.abs(), "amax")[row_group]
        differs = deviation > 64 * torch.finfo(dtype).eps * largest
        return centred.to(dtype), torch.where(differs, deviation, 0).to(dtype)


def n_step_advantages(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    response_mask: Tensor,
    *,
    n_steps: int,
    gamma: float = 1.0,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes n-step advantages and the value function's targets.

    The return of an action is the next `n_steps` rewards and then the value of the state that they lead to,
    `sum_{k < n} gamma^k r_{t+k} + gamma^n V(s_{t+n})`; nearer the end of its row, all rewards to the end, and what
    follows there as in `gae`. The advantage is the return minus V(s_t).

    Args:
        rewards: (batch, time), the reward of each action.
        values: (batch, time) floating point, V of the state in which each action was taken.
        terminated: (batch,) bool, as for `gae`.
        truncated: (batch,) bool, as for `gae`.
        response_mask: (batch, time) bool, True where an action counts.
        n_steps: how many rewards, at least 1.
        gamma: discount in [0, 1].
        last_values: (batch,), as for `gae`.

    Returns:
        advantages: (batch, time) in the dtype of `values` (float32 for half precision), 0 where masked.
        returns: (batch, time) alike, `advantages + values`.

    Raises:
        ValueError: as `gae`, and on `n_steps` below 1.

    Source:
        Mnih et al. 2016 (arXiv:1602.01783), section 4; Sutton & Barto 2018, equation 7.1. (A3C bootstraps all steps of
        a segment from its end; here every action looks n steps ahead of itself.)

    Example:
        >>> yes, no = torch.tensor([True]), torch.tensor([False])
        >>> rewards, values = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, 0.25, 4.0]])
        >>> n_step_advantages(rewards, values, yes, no, torch.ones(1, 3, dtype=torch.bool), n_steps=2)[1]
        tensor([[5., 3., 2.]])
    """
    if n_steps < 1:
        raise ValueError(f"Expected n_steps of at least 1, got {n_steps}")
    # The n-step advantage is the first n terms of GAE's sum at lambda 1: delta_t + gamma delta_{t+1} + ...
    deltas, _ = gae(
        rewards,
        values,
        terminated,
        truncated,
        response_mask,
        gamma=gamma,
        gae_lambda=0.0,
        last_values=last_values,
    )
    with torch.no_grad():
        advantages, shifted, nothing = deltas, deltas, deltas.new_zeros(len(deltas))
        for _ in range(min(n_steps, deltas.shape[1]) - 1):
            shifted = torch.where(response_mask, gamma * _next_values(shifted, nothing, response_mask), 0)
            advantages = advantages + shifted
        return advantages, torch.where(response_mask, advantages + values.to(advantages.dtype), 0)


def leave_one_out_baseline(returns: Tensor, response_mask: Tensor, group: Tensor | None = None) -> Tensor:
    """Computes the mean, at each time step, over the *other* rows that are still alive.

    It does not depend on the action that it is a baseline for, so the policy gradient stays unbiased.

    Args:
        returns: (batch, time), the return of each action.
        response_mask: (batch, time) bool, True where an action counts.
        group: (batch,) integers. Rows with the same number, such as the answers to one prompt, are compared with each
            other only. None: all rows are one group.

    Returns:
        (batch, time) in the dtype of `returns` (at least float32), 0 where masked and where no other row is alive.

    Raises:
        ValueError: on a shape or dtype that does not fit.

    Source:
        Kool et al. 2019, applied to each time step; Ahmadian et al. 2024 (arXiv:2402.14740) as RLOO.

    Example:
        >>> import torch
        >>> leave_one_out_baseline(torch.tensor([[3.0], [6.0], [9.0]]), torch.ones(3, 1, dtype=torch.bool))
        tensor([[7.5000],
                [6.0000],
                [4.5000]])
    """
    _check_matrix("returns", returns)
    _check_mask("response_mask", response_mask, "returns", returns)
    if group is not None:
        _check_group(group, returns)
    with torch.no_grad():
        # float64: a row's own return is taken out of the sum again, and must not leave its rounding error behind.
        counted = torch.where(response_mask, returns, 0).double()
        alive = response_mask.to(counted.dtype)
        if group is None:
            totals, counts = counted.sum(0), alive.sum(0)
        else:
            ids, row_group = torch.unique(group, return_inverse=True)
            zeros = counted.new_zeros(len(ids), returns.shape[1])
            totals = zeros.index_add(0, row_group, counted)[row_group]
            counts = zeros.index_add(0, row_group, alive)[row_group]
        others = counts - alive
        means = torch.where(response_mask, (totals - counted) / others.clamp(min=1), 0)
        return means.to(_accurate(returns.dtype))


def _discounted_sum(terms: Tensor, last: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Computes `y_t = terms_t + discount * y_{t+1}` over each row's counted positions, with `last` after the last one.

    Args:
        terms: (batch, time), 0 where `mask` is False.
        last: (batch,).
        mask: (batch, time) bool.
        discount: factor from each counted position to the one before it.

    Returns:
        (batch, time), 0 where `mask` is False.
    """
    # Time first, so that each step of the loop reads and writes contiguous rows. A masked step adds 0 and discounts
    # nothing: it hands on what it got.
    terms = terms.T.contiguous()
    # A tensor of that dtype: torch.where makes float32 of two numbers, and 0.99 would differ from float64's.
    discounts = torch.where(mask.T, torch.tensor(discount, dtype=terms.dtype, device=terms.device), 1)
    sums = torch.empty_like(terms)
    carry = last
    for step in reversed(range(terms.shape[0])):
        carry = torch.addcmul(terms[step], discounts[step], carry, out=sums[step])
    return torch.where(mask, sums.T, 0)


def _next_values(values: Tensor, bootstrap: Tensor, mask: Tensor) -> Tensor:
    """Returns (batch, time): the value at the row's next counted position, `bootstrap` (batch,) where there is none."""
    batch, time = values.shape
    positions = torch.arange(1, time + 1, device=values.device).expand(batch, time)
    # nearest[:, t] is the first counted position at or after t; `time` is that of the bootstrap.
    nearest = torch.where(mask, positions - 1, time).flip(1).cummin(1).values.flip(1)
    extended = torch.cat([values, bootstrap[:, None]], dim=1)
    following = torch.cat([nearest[:, 1:], nearest.new_full((batch, min(time, 1)), time)], dim=1)
    return extended.gather(1, following)


def _bootstrap(
    last_values: Tensor | None, terminated: Tensor, truncated: Tensor, mask: Tensor, dtype: torch.dtype
) -> Tensor:
    """Returns (batch,): the value after each row's last action, 0 where the row is terminated or empty."""
    needed = mask.any(1) & ~terminated
    if last_values is None:
        count = int(needed.sum())
        if count:
            cut = int((needed & truncated).sum())
            raise ValueError(
                f"Expected last_values: {count} of {len(mask)} rows go on after their last action "
                f"({cut} truncated, {count - cut} with neither flag), got None"
            )
        return torch.zeros(mask.shape[0], dtype=dtype, device=mask.device)
    _check_vector("last_values", last_values, mask)
    return torch.where(needed, last_values, 0).to(dtype)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype to sum in: at least float32, since half precision loses a long episode's small rewards."""
    return torch.promote_types(dtype, torch.float32)


def _check_matrix(name: str, x: Tensor) -> None:
    if x.ndim != 2:
        raise ValueError(f"Expected {name} of shape (batch, time), got {tuple(x.shape)}")


def _check_like(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(f"Expected {name} of shape {tuple(other.shape)} like {other_name}, got {tuple(x.shape)}")


def _check_mask(name: str, mask: Tensor, other_name: str, other: Tensor) -> None:
    _check_like(name, mask, other_name, other)
    if mask.dtype != torch.bool:
        raise ValueError(f"Expected {name} of dtype torch.bool, got {mask.dtype}")


def _check_vector(name: str, x: Tensor, rows: Tensor) -> None:
    if x.shape != rows.shape[:1]:
        raise ValueError(f"Expected {name} of shape ({rows.shape[0]},), one for each row, got {tuple(x.shape)}")


def _check_group(group: Tensor, rows: Tensor) -> None:
    _check_vector("group", group, rows)
    if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool:
        raise ValueError(f"Expected group of an integer dtype, got {group.dtype}")


def _check_flags(name: str, flags: Tensor, rows: Tensor) -> None:
    _check_vector(name, flags, rows)
    if flags.dtype != torch.bool:
        raise ValueError(f"Expected {name} of dtype torch.bool, got {flags.dtype}")


def _check_unit_interval(name: str, x: float) -> None:
    if not 0 <= x <= 1:
        raise ValueError(f"Expected {name} in [0, 1], got {x}")
