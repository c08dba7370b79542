"""One optimiser step on a minibatch, whatever happens on the way.

A minibatch goes through the model in micro-batches. Where the accelerator has no memory for one, it is halved and the
step begins again. A loss or a gradient that is NaN or infinite is not let into the weights: the step is skipped and
counted, and after so many in a row the run stops. Several processes share the rows and add up what they find.

The optimiser keeps the two numbers that outlast a step, so they are in every checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from agents import processes, sharding
from agents.config import OptimizerConfig
from agents.metrics import Meter

_STREAK, _SKIPPED, _LIMIT = "skipped_in_a_row", "skipped_steps", "micro_batch_limit"
_LOG = logging.getLogger(__name__)

LossOf = Callable[[Tensor], tuple[Tensor, Callable[[], None]]]
"""From the rows of a micro-batch to its loss, and to what counts its metrics, which is called if the step is taken."""


class NonFiniteError(RuntimeError):
    """Losses or gradients were NaN or infinite too often in a row.

    Attributes:
        rows: `(k,)` int64, the rows of the minibatch that was the last.
    """

    def __init__(self, message: str, rows: Tensor) -> None:
        super().__init__(message)
        self.rows = rows


def step(
    policy: nn.Module,
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
        policy: Who is trained.
        optimizer: Over its parameters.
        rows: `(k,)` int64, the minibatch, the same in every process.
        loss_of: See `LossOf`. Losses are parts of the minibatch's: divided by what the whole minibatch counts.
        config: Size of micro-batches, largest norm, and how many steps in a row may be skipped.
        meter: Gets `grad_norm`, before clipping, and `skipped`, the share of steps that were.
        cut: Makes micro-batches of at most so many rows, such as `agents.rollout.micro_batches` of a rollout.

    Raises:
        NonFiniteError: If too many steps in a row were skipped; says what was NaN or infinite. The weights are those
            from before the first of them.
        torch.OutOfMemoryError: If there is no memory for a single episode.
    """
    memory = optimizer.param_groups[0]
    while True:
        size = min(config.micro_batch_size, memory.get(_LIMIT, config.micro_batch_size))
        found = _gradient(policy, rows, loss_of, size, cut)
        if found is not None:
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
    loss, counts = found
    processes.sum_gradients(policy.parameters())
    loss = processes.total(loss)
    norm = sharding.whole(nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm))
    finite_loss, finite_norm = torch.stack([loss.isfinite(), norm.to(loss.device).isfinite()]).tolist()
    if finite_loss and finite_norm:
        optimizer.step()
        for count in counts:
            count()
        meter.add(1.0, {"grad_norm": norm, "skipped": 0.0})
        memory[_STREAK] = 0
    else:
        meter.add(1.0, {"skipped": 1.0})
        memory[_STREAK] = streak(optimizer) + 1
        memory[_SKIPPED] = skipped(optimizer) + 1
    optimizer.zero_grad(set_to_none=True)
    if streak(optimizer) > config.max_skipped_steps:
        what = f"a loss of {float(loss)}" if not finite_loss else f"a gradient of norm {float(norm)}"
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
    policy: nn.Module, rows: Tensor, loss_of: LossOf, size: int, cut: Callable[[Tensor, int], Sequence[Tensor]]
) -> tuple[Tensor, list[Callable[[], None]]] | None:
    """The loss, whose gradient is then in the parameters, and what counts the metrics; None: out of memory."""
    total, counts = torch.zeros((), device=rows.device), []
    mine = processes.share(rows)
    parts = list(cut(mine, size)) if len(mine) else []
    cut_up = sharding.is_sharded(policy)  # then all processes gather its layers together, pass by pass
    idle = processes.largest([len(parts)])[0] - len(parts) if cut_up else 0
    try:
        with processes.among_others():
            for part in parts:
                loss, count = loss_of(part)
                loss.backward()
                total = total + loss.detach()
                counts.append(count)
            for _ in range(idle):
                loss, _ = loss_of(rows[:1])
                (0 * loss).backward()
    except torch.OutOfMemoryError as error:
        if cut_up:
            raise torch.OutOfMemoryError(
                f"Expected memory for a forward and backward pass over {size} episodes, got none. Policies that are "
                "cut over several processes do not try again with fewer: lower micro_batch_size"
            ) from error
        return None  # and not on from here: the error holds on to what fills the memory
    return total, counts
