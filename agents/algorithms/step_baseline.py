"""What a state is worth by its step alone: the mean return of earlier batches at the same token position.

    V(s_t) = m_t + critic(s_t)

The state of an episode includes how much of its budget is left (Pardo et al. 2018, "Time Limits in Reinforcement
Learning", arXiv:1712.00378), and a language model's last hidden state, which is made to tell the next token, hardly
says. Where a score is paid token by token, the step tells more of a return to go than any linear function of that
state: on Translate 64 % of its variance against 44 % (benchmarks/results/values.md). So the critic is not asked for it,
and learns the rest. A function of the step alone leaves the policy gradient unbiased, as every baseline does. To begin
values at a potential is to shape rewards with it (Wiewiora 2003, arXiv:1106.5267); a test holds both updates equal.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agents.advantages import discounted_returns, moving_average, per_step_means
from agents.rollout import Rollout

if TYPE_CHECKING:
    from agents.training.agent import Agent

DECAY = 0.9
"""What each batch leaves of the moving average before it."""


def step_means(memory: MutableMapping[str, Any], name: str, returns: Tensor, mask: Tensor, decay: float) -> Tensor:
    """The mean return at each step over earlier batches; this one joins them.

    Args:
        memory: Where they are kept, under `name`, as JSON: an agent's.
        name: See there.
        returns: `(batch, time)`, of each action.
        mask: `(batch, time)` bool, which actions count.
        decay: What this batch leaves of the moving average before it, in [0, 1].

    Returns:
        `(time,)` float64, on the device of `returns`; NaN where no earlier batch got that far.
    """
    now, alive = per_step_means(returns, mask)
    before = torch.tensor(memory.get(name, []), dtype=torch.float64)
    memory[name] = moving_average(before, now[alive], decay).tolist()
    known = now.new_full(now.shape, torch.nan)
    count = min(len(before), len(known))
    known[:count] = before[:count].to(known)
    return known


def beneath(memory: MutableMapping[str, Any], returns: Tensor, mask: Tensor) -> Tensor:
    """What each action's step is worth, for a critic to be added to.

    Args:
        memory: Of the agent.
        returns: `(batch, time)`, of each action.
        mask: `(batch, time)` bool, which actions count.

    Returns:
        `(batch, time)` float32, the moving average of earlier batches, and at a step that none of them got to, the mean
        of this one; 0 where masked.
    """
    known = step_means(memory, "step_values", returns, mask, DECAY)
    means = torch.where(known.isnan(), per_step_means(returns, mask)[0], known)
    return torch.where(mask, means.float(), 0)


def prepare(agent: Agent, rollout: Rollout) -> Rollout:
    """Put what each action's step is worth into a rollout, where the config says so. See `Algorithm.prepare`.

    Args:
        agent: Whose config and memory are used.
        rollout: Fresh episodes.

    Returns:
        The rollout, with `baselines`.
    """
    if not agent.config.step_values:  # type: ignore[attr-defined]
        return rollout
    mask = rollout.response_mask
    returns = discounted_returns(rollout.rewards_and_bonuses, mask, gamma=agent.config.gamma)
    return replace(rollout, baselines=beneath(agent.carried, returns, mask))


def estimates(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """V of a rollout's states, and how much of it is not the critic's.

    Args:
        rollout: Fresh episodes, with `baselines` by `prepare`; None: the critic's word is all there is.

    Returns:
        `(batch, time)` V of the states before the actions, `(batch,)` V of the states after the last ones, and
        `(batch, time)` what the critic's targets are less than the returns by: what it is added to.
    """
    if rollout.baselines is None:
        return rollout.values, rollout.last_values, torch.zeros_like(rollout.values)
    mask, means = rollout.response_mask, rollout.baselines
    # Where an episode was cut off, the step after its last action; beyond the longest episode, that one's last.
    after = mask.sum(dim=1).clamp(max=mask.shape[1] - 1)
    steps = torch.where(mask, means, -torch.inf).amax(dim=0)  # every row that is alive has the same
    steps = torch.where(steps.isinf(), 0, steps)
    return rollout.values + means, rollout.last_values + steps[after], means
