"""The optimiser, how its step size falls, and one step of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.distributed import fsdp, processes
from agents.distributed.deepspeed import Zero
from agents.policy.policy import Policy
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from agents.training.schedules import schedule


def make_optimizer(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser that a config names, over everything that is trained.

    Args:
        policy: Whose parameters.
        config: Which optimiser, its step size, epsilon, momentum and weight decay.

    Returns:
        The optimiser.
    """
    parameters = [one for one in policy.parameters() if one.requires_grad]
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
    """Put the step size in force that the config's schedule and warm-up give at this point of the run.

    Args:
        optimizer: Whose step size.
        config: The schedule.
        progress: Share of the run's tokens that are played, from 0 to 1.

    Returns:
        The step size. The very first update of a warm-up has one of 0.

    Raises:
        ValueError: If the config leaves the step size open.
    """
    if config.learning_rate is None:
        raise ValueError("Expected a config with a learning_rate, got None: config.filled_in(pretrained) decides it")
    warm = 1.0 if progress >= config.warmup else progress / config.warmup
    rate = config.learning_rate * warm * schedule(config.learning_rate_schedule, progress, config.learning_rate_final)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


_STREAK, _SKIPPED, _LIMIT = "skipped_in_a_row", "skipped_steps", "micro_batch_limit"


_LOG = logging.getLogger(__name__)


_ASYNCHRONOUS = ("cuda",)
"""Devices that compute while the host goes on: to read a number there is to wait for them."""


LossOf = Callable[[Tensor, Meter], Tensor]
"""From the rows of a micro-batch to its loss. Metrics go into the meter, and count if the step is taken."""


class NonFiniteError(RuntimeError):
    """Losses or gradients were NaN or infinite too often in a row.

    Attributes:
        rows: `(k,)` int64, the rows of the minibatch that was the last.
    """

    def __init__(self, message: str, rows: Tensor) -> None:
        super().__init__(message)
        self.rows = rows


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    loss_of: LossOf,
    config: OptimizerConfig,
    meter: Meter,
    *,
    cut: Callable[[Tensor, int], Sequence[Tensor]] = Tensor.split,
) -> None:
    """Take the gradient of a minibatch, clip it once, and make one step.

    Args:
        optimizer: Over everything that is trained.
        rows: `(k,)` int64, the minibatch, the same in every process.
        loss_of: See `LossOf`. Losses are parts of the minibatch's: divided by what the whole minibatch counts.
        config: Size of micro-batches, largest norm, and how many steps in a row may be skipped.
        meter: Gets the metrics, `grad_norm`, before clipping, and `skipped`, the share of steps that were.
        cut: Makes micro-batches of at most so many rows, such as `agents.rollout.micro_batches` of a rollout.

    Raises:
        NonFiniteError: If too many steps in a row were skipped; says what was NaN or infinite. The weights are those
            from before the first of them. With a fused Adam on a GPU, the meter raises it when it is read.
        torch.OutOfMemoryError: If there is no memory for a single episode.
    """
    memory = optimizer.param_groups[0]
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    cutter = optimizer if isinstance(optimizer, Zero) else None
    sharded = cutter is not None or fsdp.is_sharded(parameters)
    backward = Tensor.backward if cutter is None else cutter.backward
    while True:
        size = min(config.micro_batch_size, memory.get(_LIMIT, config.micro_batch_size))
        found = Meter()
        loss = _gradient(rows, loss_of, size, cut, found, backward, sharded=sharded)
        if loss is not None:
            break
        optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise torch.OutOfMemoryError(
                "Expected memory for a forward and backward pass over one episode, got none: lower max_new_tokens, or "
                "use gradient_checkpointing, bfloat16 or a smaller model"
            )
        memory[_LIMIT] = size // 2
        _LOG.warning("Out of memory with micro-batches of %d episodes: from now on they have %d.", size, size // 2)
    loss = processes.total(loss)
    if cutter is None:
        processes.sum_gradients(parameters)
        norm = fsdp.whole(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    else:
        norm = cutter.clip_and_step(config.max_grad_norm)
    numbers = torch.stack([loss, norm.to(loss)])
    found.add(1.0, {"grad_norm": norm})

    def count(loss_and_norm: list[float]) -> None:
        _count(optimizer, rows, loss_and_norm, config.max_skipped_steps)

    if rows.device.type in _ASYNCHRONOUS and optimizer.defaults.get("fused") and not sharded:
        taken = numbers.isfinite().all()
        _fused_step(optimizer, taken)
        meter.merge(found, when=taken)
        meter.add(1.0, {"skipped": (~taken).float()})
        meter.await_numbers(numbers, count)
    else:
        read = numbers.tolist()
        if finite := all(map(math.isfinite, read)):
            if cutter is None:
                optimizer.step()
            meter.merge(found)
        meter.add(1.0, {"skipped": float(not finite)})
        count(read)
    optimizer.zero_grad(set_to_none=True)


def _fused_step(optimizer: Any, taken: Tensor) -> None:
    """A step of a fused Adam that changes nothing, its state neither, unless `taken`, () bool on the device."""
    optimizer.found_inf, optimizer.grad_scale = (~taken).float(), None  # where GradScaler puts them
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf, optimizer.grad_scale


def _count(optimizer: torch.optim.Optimizer, rows: Tensor, loss_and_norm: list[float], limit: int) -> None:
    """Count a step that was skipped, and stop after too many in a row."""
    memory = optimizer.param_groups[0]
    loss, norm = loss_and_norm
    if math.isfinite(loss) and math.isfinite(norm):
        memory[_STREAK] = 0
        return
    memory[_STREAK] = streak(optimizer) + 1
    memory[_SKIPPED] = skipped(optimizer) + 1
    if streak(optimizer) > limit:
        optimizer.zero_grad(set_to_none=True)
        what = f"a loss of {loss}" if not math.isfinite(loss) else f"a gradient of norm {norm}"
        raise NonFiniteError(
            f"Expected finite losses and gradients, got {what} on the last of {streak(optimizer)} minibatches in a row",
            rows,
        )


def skipped(optimizer: torch.optim.Optimizer) -> int:
    """How many steps have been skipped so far.

    Args:
        optimizer: The optimiser.

    Returns:
        The number, those before the checkpoint included.
    """
    return int(optimizer.param_groups[0].get(_SKIPPED, 0))


def streak(optimizer: torch.optim.Optimizer) -> int:
    """How many steps have been skipped since the last that was taken.

    Args:
        optimizer: The optimiser.

    Returns:
        The number.
    """
    return int(optimizer.param_groups[0].get(_STREAK, 0))


def _gradient(
    rows: Tensor,
    loss_of: LossOf,
    size: int,
    cut: Callable[[Tensor, int], Sequence[Tensor]],
    found: Meter,
    backward: Callable[[Tensor], None],
    *,
    sharded: bool,
) -> Tensor | None:
    """The loss, whose gradient is then in the parameters; None: out of memory."""
    total = torch.zeros((), device=rows.device)
    mine = processes.share(rows)
    parts = list(cut(mine, size)) if len(mine) else []
    # Of a policy in pieces, all processes gather the layers together, pass by pass.
    idle = processes.largest([len(parts)])[0] - len(parts) if sharded else 0
    try:
        with processes.among_others():
            for part in parts:
                loss = loss_of(part, found)
                backward(loss)
                total = total + loss.detach()
            for _ in range(idle):
                backward(0 * loss_of(rows[:1], Meter()))
    except torch.OutOfMemoryError as error:
        if sharded:
            raise torch.OutOfMemoryError(
                f"Expected memory for a forward and backward pass over {size} episodes, got none. Policies that are "
                "cut over several processes do not try again with fewer: lower micro_batch_size"
            ) from error
        return None  # and not on from here: the error holds on to what fills the memory
    return total
