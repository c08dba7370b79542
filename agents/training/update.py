"""One update of the policy, as every algorithm makes it: epochs, minibatches, the price of KL, the gradient.

    rewards = priced_rewards(rollout, config)                     # with bonuses, less KL where the return pays for it
    advantages = priced_advantages(advantages, rollout, config)   # less KL where the token itself pays for it
    metrics = optimize(policy, optimizer, rollout, loss, config, generator)

An algorithm writes `loss(now, taken) -> (losses, terms)` over flat arrays of actions. Everything else is here, once:
which actions a minibatch holds, what the sum of their losses is divided by, the entropy bonus, KL in the loss, and the
call of `Policy.loss`. The optimiser's step itself is `agents.training.optimization.optimizer_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from agents.advantages import normalize, rounding_error
from agents.losses import kl_estimate
from agents.policy.head import Places
from agents.policy.policy import ActionEvaluation, Policy
from agents.rollout import Actions, Rollout, micro_batches, minibatches, reference_log_probs
from agents.training.config import RunConfig
from agents.training.meter import Meter
from agents.training.optimization import optimizer_step

Loss = Callable[[ActionEvaluation, Actions], tuple[Tensor, dict[str, Tensor]]]
"""From a policy's evaluation of some actions and what was recorded of them to the loss of each, `(k,)`, and to terms
that are logged, `(k,)` each: their means over tokens become metrics."""


def priced_rewards(rollout: Rollout, config: RunConfig) -> Tensor:
    """Computes the rewards to learn from: those of the environment, bonuses, and KL where the return pays for it.

    Args:
        rollout: Fresh episodes; with a price on KL, their `ref_log_probs` too. Not edited.
        config: Of `kl_credit`, `kl_coef` and `kl_estimator`.

    Returns:
        `(batch, time)` float32, in units of the score.

    Raises:
        ValueError: If KL has a price and there are no `ref_log_probs`.
    """
    rewards = rollout.rewards_and_bonuses
    return rewards - _kl_price(rollout, config) if config.kl_credit == "return" and config.kl_coef else rewards


def priced_advantages(
    advantages: Tensor,
    rollout: Rollout,
    config: RunConfig,
    *,
    normalized: bool,
    center: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """Charges each token for its own KL where the config says so, and then normalises over the batch.

    The price is in units of the score whatever the normalisation: KL is charged first, and what advantages are divided
    by afterwards divides it too. In a batch (or with `scale`, at an action) where no episode does better than another,
    nothing is learned, the price of KL neither: its rounding would be blown up to the size of an advantage.

    Args:
        advantages: `(batch, time)` float32, in units of the score.
        rollout: The episodes that they belong to.
        config: Of `kl_credit`, `kl_coef` and `kl_estimator`.
        normalized: If True, shifted and scaled to mean 0 and standard deviation 1 over the batch's tokens.
        center: If False, scaled only, by the root mean square: every advantage keeps its sign.
        scale: `(batch, time)`, what each advantage is divided by before that, such as its group's standard deviation;
            0 where there is nothing to learn. None: nothing.

    Returns:
        `(batch, time)` float32.

    Raises:
        ValueError: If KL has a price and there are no `ref_log_probs`.
    """
    mask = rollout.response_mask
    earned = advantages
    if config.kl_credit == "token" and config.kl_coef:
        advantages = advantages - _kl_price(rollout, config)
    if scale is not None:
        advantages = torch.where(scale > 0, advantages / scale, 0)
    if not normalized:
        return advantages
    noise = rounding_error(rollout.rewards_and_bonuses, mask)
    differs = (torch.where(mask, earned, 0).abs() > noise).any()
    return torch.where(differs, normalize(advantages, mask, center=center), 0)


def _kl_price(rollout: Rollout, config: RunConfig) -> Tensor:
    return (config.kl_coef or 0.0) * rollout.kl(config.kl_estimator)


def optimize(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    loss: Loss,
    config: RunConfig,
    generator: torch.Generator,
    *,
    rows: Tensor | None = None,
    epochs: int = 1,
    minibatch_size: int | None = None,
    minibatch_tokens: int | None = None,
    target_kl: float | None = None,
    prepare: Callable[[Rollout], Rollout] | None = None,
    metrics: Mapping[str, Tensor | float] | None = None,
) -> dict[str, float]:
    """Takes optimiser steps on a batch of episodes.

    The gradient is that of the mean over the minibatch's tokens of `losses - entropy_coef * entropies`, and of the KL
    with `kl_credit="loss"`. With `loss_mean="episode"` it is of the sum over each episode, averaged over episodes, and
    with "response" of the mean over each episode, averaged over episodes.

    Args:
        policy: The policy that is trained.
        optimizer: Over the policy's parameters.
        rollout: The episodes, with whatever `loss` reads of them.
        loss: See `Loss`.
        config: Micro-batches, the largest norm, the entropy bonus, the price of KL and `loss_mean`.
        generator: Source of the minibatches' order.
        rows: `(k,)` int64, the episodes to learn from, in one optimiser step an epoch; None: all of them.
        epochs: Passes over the episodes.
        minibatch_size: Episodes in a minibatch, on average; None: all of them are one optimiser step.
        minibatch_tokens: Tokens in a minibatch, on average, in place of `minibatch_size`.
        target_kl: The update ends before the first minibatch on which the policy, as it is then, is further than this
            many nats a token from the one that played (the term "approx_kl"); None: never.
        prepare: Called with each micro-batch before its pass, to add what `loss` reads of the policy as it is.
        metrics: More numbers to log, () each. They are read with the others, so the device is waited for once.

    Returns:
        The metrics: those, token means of the terms, "entropy", what `optimizer_step` counts, and "epochs", the passes
        that were made, a fraction where `target_kl` ended one. With minibatches, "kl_of_update" too: nats a token from
        the policy that played to the policy after the last step, on 16 to 31 of the episodes.
    """
    meter = Meter()
    meter.add(1.0, metrics or {})
    whole = torch.arange(len(rollout), device=rollout.response_mask.device) if rows is None else rows
    near = None if target_kl is None else partial(_is_near, target_kl)
    cut = partial(micro_batches, rollout)
    passes = 0.0
    for passes, batch in _batches(rollout, whole, epochs, minibatch_size, minibatch_tokens, generator):
        accept = near if passes else None  # the first minibatch meets the policy that played
        minibatch_loss = _MinibatchLoss.of(policy, rollout, batch, loss, config, prepare)
        if not optimizer_step(optimizer, batch, minibatch_loss, config, meter, cut=cut, accept=accept):
            break
    else:
        passes = float(epochs)
    if minibatch_size is not None:
        meter.add(1.0, {"kl_of_update": _kl_of_update(policy, rollout, whole, config)})
    return {**meter.means(), "epochs": passes}


def _batches(
    rollout: Rollout,
    rows: Tensor,
    epochs: int,
    minibatch_size: int | None,
    minibatch_tokens: int | None,
    generator: torch.Generator,
) -> Iterator[tuple[float, Tensor]]:
    """Yields the minibatches of all epochs, `(k,)` int64 each, with the passes that are made before each."""
    for epoch in range(epochs):
        batches = [rows]
        if minibatch_size is not None:
            batches = minibatches(rollout, minibatch_size, generator, tokens=minibatch_tokens)
        for number, batch in enumerate(batches):
            yield epoch + number / len(batches), batch


@torch.no_grad()
def _kl_of_update(policy: Policy, rollout: Rollout, rows: Tensor, config: RunConfig) -> Tensor:
    """Estimates KL(policy that played || policy as it is), (), nats a token, on 16 to 31 of the episodes.

    They are spread evenly over the likely and the unlikely ones, so the choice depends neither on the order of the
    batch nor on how it is cut.
    """
    likelihood = (rollout.log_probs * rollout.response_mask).sum(dim=1)[rows]
    chosen = rows[likelihood.argsort()][:: max(1, len(rows) // 16)]
    part = rollout.select(chosen)
    now = reference_log_probs(policy, part, temperature=config.temperature, micro_batch_size=config.micro_batch_size)
    return kl_estimate(part.log_probs, now, "k3", mask=part.response_mask).sum() / part.response_mask.sum()


def _is_near(target_kl: float, metrics: Meter) -> bool:
    return metrics.means().get("approx_kl", 0.0) <= target_kl


@dataclass(frozen=True)
class _MinibatchLoss:
    """The loss of a minibatch, as a function of a micro-batch: what its rows add.

    Attributes:
        policy: The policy that is trained.
        rollout: The episodes.
        loss: Of single actions.
        config: The settings.
        prepare: Called with each micro-batch before its pass.
        tokens: () int64, actions of the minibatch: what metrics are means over.
        normalizer: () int64, what the sum of the losses is divided by. Micro-batches share it, so that the cut changes
            no number.
    """

    policy: Policy
    rollout: Rollout
    loss: Loss
    config: RunConfig
    prepare: Callable[[Rollout], Rollout] | None
    tokens: Tensor
    normalizer: Tensor

    @classmethod
    def of(
        cls,
        policy: Policy,
        rollout: Rollout,
        rows: Tensor,
        loss: Loss,
        config: RunConfig,
        prepare: Callable[[Rollout], Rollout] | None,
    ) -> _MinibatchLoss:
        mask = rollout.response_mask[rows]
        tokens = mask.sum()
        normalizer = tokens if config.loss_mean == "token" else mask.any(dim=1).sum()
        return cls(policy, rollout, loss, config, prepare, tokens, normalizer.clamp(min=1))

    def __call__(self, rows: Tensor, meter: Meter) -> Tensor:
        """Returns the part of the loss, (), that a micro-batch of `rows` adds."""
        part = self.rollout.select(rows)
        if self.prepare is not None:
            part = self.prepare(part)
        return self.policy.loss(
            part.input_ids,
            part.positions,
            part.response_mask,
            partial(self._of_actions, part, meter),
            temperature=self.config.temperature,
            allowed=part.action_masks,
        )

    def _of_actions(self, part: Rollout, meter: Meter, now: ActionEvaluation, places: Places) -> Tensor:
        config, taken = self.config, Actions(part, places)
        losses, terms = self.loss(now, taken)
        if config.entropy_coef:
            losses = losses - config.entropy_coef * now.entropies
        if config.kl_credit == "loss" and config.kl_coef:
            losses = losses + config.kl_coef * kl_estimate(now.log_probs, taken.ref_log_probs, config.kl_estimator)
        meter.add_sums(len(losses), {**terms, "entropy": now.entropies})
        if config.loss_mean == "response":
            losses = losses / taken.response_lengths
        return losses.sum() / self.normalizer
