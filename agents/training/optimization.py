"""The optimiser, and one step of it, whatever happens on the way: several processes, no memory, NaN."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from agents.distributed import fsdp, processes
from agents.distributed.deepspeed import Zero
from agents.policy.policy import Policy
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from agents.training.schedules import schedule

_LOG = logging.getLogger(__name__)

_ASYNCHRONOUS = ("cuda",)
"""Devices that compute while the host goes on: to read a number there is to wait for them."""

# Kept in the optimiser's first parameter group, so that they are saved and loaded with it.
_SKIPPED_IN_A_ROW, _SKIPPED, _MICRO_BATCH_LIMIT = "skipped_in_a_row", "skipped_steps", "micro_batch_limit"

LossOf = Callable[[Tensor, Meter], Tensor]
"""From the rows of a micro-batch to its part of the minibatch's loss, (). Metrics go into the meter, and count if the
step is taken."""


class NonFiniteError(RuntimeError):
    """Losses or gradients were NaN or infinite too often in a row.

    Attributes:
        rows: `(k,)` int64, the rows of the last minibatch; none if they are not known.
    """

    def __init__(self, message: str, rows: Tensor | None = None) -> None:
        super().__init__(message)
        self.rows = torch.zeros(0, dtype=torch.int64) if rows is None else rows


def make_optimizer(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Makes the optimiser that a config names, over everything that is trained.

    Args:
        policy: The policy whose parameters are trained.
        config: The optimiser's name, learning rate, epsilon, momentum and weight decay.

    Returns:
        The optimiser.

    Raises:
        ValueError: If weights that are trained are not in float32.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"Expected weights to train in float32, got {parameter.dtype}, in which steps are lost to rounding: "
                "make the policy of model.float(), and compute in less with policy.adapt(precision='bfloat16')"
            )
    lr, decay = config.filled_in(policy.pretrained).learning_rate, config.weight_decay
    assert lr is not None
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, eps=config.adam_epsilon, momentum=config.momentum, weight_decay=decay
        )
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(parameters, lr=lr, eps=config.adam_epsilon, weight_decay=decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, progress: float) -> float:
    """Sets the learning rate that the config's schedule and warm-up give at this point of the run.

    Args:
        optimizer: The optimiser, all groups of which get it.
        config: The schedule.
        progress: Share of the run's tokens that are played, from 0 to 1.

    Returns:
        The learning rate. In the very first update of a warm-up it is 0.

    Raises:
        ValueError: If the config leaves the learning rate open.
    """
    if config.learning_rate is None:
        raise ValueError("Expected a config with a learning_rate, got None: config.filled_in(pretrained) decides it")
    warm = 1.0 if progress >= config.warmup else progress / config.warmup
    rate = config.learning_rate * warm * schedule(config.learning_rate_schedule, progress, config.learning_rate_final)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    loss_of: LossOf,
    config: OptimizerConfig,
    meter: Meter,
    *,
    cut: Callable[[Tensor, int], Sequence[Tensor]] = Tensor.split,
    accept: Callable[[Meter], bool] | None = None,
) -> bool:
    """Computes the gradient of a minibatch, clips it once, and takes one step.

    Args:
        optimizer: Over everything that is trained.
        rows: `(k,)` int64, the minibatch, the same in every process.
        loss_of: See `LossOf`. Losses are parts of the minibatch's: divided by what the whole minibatch counts.
        config: Size of micro-batches, largest norm, and how many steps in a row may be skipped.
        meter: Gets the metrics, `grad_norm`, before clipping, and `skipped`, the share of steps that were.
        cut: Makes micro-batches of at most so many rows, such as `agents.rollout.micro_batches` of a rollout.
        accept: Asked with the metrics of the pass, which are those of the weights as they are; False: no step is taken,
            and the meter gets nothing. To ask is to wait for the device.

    Returns:
        True unless `accept` said no.

    Raises:
        NonFiniteError: If too many steps in a row were skipped; says what was NaN or infinite. The weights are those
            from before the first of them. With a fused Adam on a GPU, the meter raises it when it is read.
        torch.OutOfMemoryError: If there is no memory for a single episode.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    zero = optimizer if isinstance(optimizer, Zero) else None
    sharded = zero is not None or fsdp.is_sharded(parameters)
    loss, metrics = _gradient(optimizer, rows, loss_of, config, cut, zero, sharded=sharded)
    if accept is not None and not accept(metrics):
        optimizer.zero_grad(set_to_none=True)
        return False
    loss = processes.total(loss)
    if zero is None:
        processes.sum_gradients(parameters)
        norm = fsdp.whole(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    else:
        norm = zero.clip_and_step(config.max_grad_norm)
    metrics.add(1.0, {"grad_norm": norm})
    loss_and_norm = torch.stack([loss, norm.to(loss)])
    count = partial(_count_skipped, optimizer, rows, config.max_skipped_steps)
    if rows.device.type in _ASYNCHRONOUS and optimizer.defaults.get("fused") and not sharded:
        # The device decides by itself if the step is taken, and the host reads the numbers with the meter's.
        taken = loss_and_norm.isfinite().all()
        _fused_step(optimizer, taken)
        meter.merge(metrics, when=taken)
        meter.add(1.0, {"skipped": (~taken).float()})
        meter.await_numbers(loss_and_norm, count)
    else:
        numbers = loss_and_norm.tolist()
        if finite := all(map(math.isfinite, numbers)):
            if zero is None:  # ZeRO has taken its step, or skipped it
                optimizer.step()
            meter.merge(metrics)
        meter.add(1.0, {"skipped": float(not finite)})
        count(numbers)
    optimizer.zero_grad(set_to_none=True)
    return True


def skipped_steps(optimizer: torch.optim.Optimizer) -> int:
    """Returns how many steps have been skipped so far, those before the checkpoint included."""
    return int(optimizer.param_groups[0].get(_SKIPPED, 0))


def skipped_in_a_row(optimizer: torch.optim.Optimizer) -> int:
    """Returns how many steps have been skipped since the last that was taken."""
    return int(optimizer.param_groups[0].get(_SKIPPED_IN_A_ROW, 0))


def _gradient(
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    loss_of: LossOf,
    config: OptimizerConfig,
    cut: Callable[[Tensor, int], Sequence[Tensor]],
    zero: Zero | None,
    *,
    sharded: bool,
) -> tuple[Tensor, Meter]:
    """Computes the gradient in micro-batches, which are halved for good while there is no memory for one.

    Returns:
        The loss, (), whose gradient is then in the parameters, and the metrics.
    """
    group = optimizer.param_groups[0]
    backward = Tensor.backward if zero is None else zero.backward
    share = processes.share(rows)
    while True:
        size = min(config.micro_batch_size, group.get(_MICRO_BATCH_LIMIT, config.micro_batch_size))
        total, metrics = torch.zeros((), device=rows.device), Meter()
        parts = list(cut(share, size)) if len(share) else []
        # Layers of a sharded policy are gathered by all processes together, so all make the same number of passes.
        idle = processes.largest([len(parts)])[0] - len(parts) if sharded else 0
        try:
            with processes.among_others():
                for part in parts:
                    total += _backward(loss_of(part, metrics), backward)
                for _ in range(idle):
                    _backward(0 * loss_of(rows[:1], Meter()), backward)
            return total, metrics
        except torch.OutOfMemoryError as error:
            if sharded:
                raise torch.OutOfMemoryError(
                    f"Expected memory for a forward and backward pass over {size} episodes, got none. Policies that "
                    "are cut over several processes do not try again with fewer: lower micro_batch_size"
                ) from error
        # Only here, where the error and with it its traceback are gone, is the memory free that they filled.
        optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise torch.OutOfMemoryError(
                "Expected memory for a forward and backward pass over one episode, got none: lower max_new_tokens, or "
                "use gradient_checkpointing, bfloat16 or a smaller model"
            )
        group[_MICRO_BATCH_LIMIT] = size // 2
        _LOG.warning("Out of memory with micro-batches of %d episodes: from now on they have %d.", size, size // 2)


def _backward(loss: Tensor, backward: Callable[[Tensor], None]) -> Tensor:
    """Adds a loss's gradient to the parameters'. Returns the loss without its graph, which ends with this call."""
    backward(loss)
    return loss.detach()


def _fused_step(optimizer: Any, taken: Tensor) -> None:
    """Takes a step of a fused Adam that changes neither weights nor state unless `taken`, () bool on the device."""
    optimizer.found_inf, optimizer.grad_scale = (~taken).float(), None  # where GradScaler puts them
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf, optimizer.grad_scale


def _count_skipped(
    optimizer: torch.optim.Optimizer, rows: Tensor, max_skipped_steps: int, loss_and_norm: list[float]
) -> None:
    """Counts a step that was skipped, and stops after too many in a row."""
    group = optimizer.param_groups[0]
    loss, norm = loss_and_norm
    if math.isfinite(loss) and math.isfinite(norm):
        group[_SKIPPED_IN_A_ROW] = 0
        return
    group[_SKIPPED_IN_A_ROW] = skipped_in_a_row(optimizer) + 1
    group[_SKIPPED] = skipped_steps(optimizer) + 1
    if skipped_in_a_row(optimizer) > max_skipped_steps:
        optimizer.zero_grad(set_to_none=True)
        reason = f"a loss of {loss}" if not math.isfinite(loss) else f"a gradient of norm {norm}"
        raise NonFiniteError(
            f"Expected finite losses and gradients, got {reason} on the last of {skipped_in_a_row(optimizer)} "
            "minibatches in a row",
            rows,
        )
