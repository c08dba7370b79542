"""Several processes that train one policy: each plays its share of the lanes, and all of them take the same steps.

    accelerate launch --num_processes 2 --cpu -m agents train ...

Every process has a copy of the policy. It plays its own lanes, and then the episodes are put together, so that what
looks at a whole batch (normalised advantages, baselines, bonuses, the order of minibatches) is computed from the same
numbers everywhere. Of each minibatch a process takes every n-th episode through the model; the gradients are added up,
and every process takes the same step. So n processes make the update that one process would make of the same episodes,
up to the order in which floats are added. Where there is one process, every function here returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor


class LostProcessError(RuntimeError):
    """Raised in the other processes when one has ended: they cannot continue without it."""


@contextmanager
def together() -> Iterator[None]:
    """A context for what all processes do at once, which fails when one of them has ended.

    Raises:
        LostProcessError: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def among_others() -> Iterator[None]:
    """A context for a computation that talks to the other processes, and may also fail for reasons of its own.

    Raises:
        LostProcessError: If another process has ended. Other errors stay what they are.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL's errors have a class; gloo's are plain ones that name a line of its source.
        if isinstance(error, distributed.DistError) or "gloo/" in str(error):
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> LostProcessError:
    return LostProcessError(
        f"Expected {count()} processes that train together, but one of them has ended: its own message says why "
        f"({error})"
    )


def flag(name: str) -> bool:
    """Reads a boolean from a variable of the process's environment, where `accelerate launch` writes its config.

    Args:
        name: The variable's name.

    Returns:
        True if it says yes; False if it says no, or is not there.
    """
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def start(device: str | None = None, *, pieces: bool = True) -> str | None:
    """Joins the other processes, where a launcher has started several.

    Args:
        device: The user's choice: "cpu", or None, with which Accelerate chooses.
        pieces: If False, the policy cannot be cut over the processes, as FSDP and DeepSpeed do, and both are refused.

    Returns:
        The device of this process; `device` where there is one process.

    Raises:
        ImportError: If there are several, and Accelerate is not installed.
        ValueError: If Accelerate's config asks for what is not supported.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    try:
        accelerate = import_module("accelerate")
    except ImportError as error:
        raise ImportError('Several processes need Accelerate: pip install "textenvs[accelerate]"') from error
    if (mixed := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ValueError(
            f"Expected mixed_precision: no in Accelerate's config, got {mixed!r}: it is --precision that says so here"
        )
    for cutter in ("FSDP", "DEEPSPEED"):
        if not pieces and flag(f"ACCELERATE_USE_{cutter}"):
            raise ValueError(
                f"Expected distributed_type MULTI_GPU in Accelerate's config, got {cutter}, which train alone supports"
            )
    state = accelerate.PartialState(cpu=device == "cpu")
    return "cpu" if state.device.type == "cpu" else str(state.device)


def count() -> int:
    """Returns how many processes train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Returns the number of this process, from 0. Number 0 alone writes, prints and evaluates."""
    return distributed.get_rank() if _is_distributed() else 0


def own_share(total: int, name: str) -> int:
    """Returns this process's share of a number that all processes have together.

    Args:
        total: The number.
        name: Its name, for the message.

    Returns:
        An equal share of it.

    Raises:
        ValueError: If there are no equal shares.
    """
    if total % count():
        raise ValueError(f"Expected {name} to be a multiple of the {count()} processes, got {total}")
    return total // count()


def share(rows: Tensor) -> Tensor:
    """Returns this process's part of some rows.

    Args:
        rows: `(k,)` int64, the same in every process.

    Returns:
        Every `count()`-th of them; there may be none.
    """
    return rows[rank() :: count()]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds up the gradients of all processes, in every process.

    A process in which a parameter has no gradient counts as zeros, if another process has one.

    Args:
        parameters: The same ones in the same order, everywhere. Those that are cut over the processes are left alone:
            FSDP has added up their gradients already.
    """
    if count() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if isinstance(trained[0], DTensor):
        return
    has_gradient = [parameter.grad is not None for parameter in trained]
    flags = torch.tensor(has_gradient, dtype=torch.int32, device=trained[0].device)
    with together():
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    moved = [parameter for parameter, flag in zip(trained, flags.tolist(), strict=True) if flag]
    gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in moved]
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])  # one message in place of many
    with together():
        distributed.all_reduce(flat)
    for parameter, gradient in zip(moved, flat.split([parameter.numel() for parameter in moved]), strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype)


def total(number: Tensor) -> Tensor:
    """Adds up a number over all processes, in every process.

    Args:
        number: A tensor, the same shape everywhere.

    Returns:
        The sum.
    """
    if count() == 1:
        return number
    summed = number.to(_device(), copy=True)
    with together():
        distributed.all_reduce(summed)
    return summed.to(number.device)


def largest(numbers: list[int]) -> list[int]:
    """Finds the largest of each number over all processes, so that all do what one of them wants.

    Args:
        numbers: As many in every process.

    Returns:
        As many, the same in every process.
    """
    if count() == 1:
        return numbers
    most = torch.tensor(numbers, device=_device())
    with together():
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return [int(number) for number in most.tolist()]


def sums(values: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Adds up pairs of numbers by name over all processes.

    Args:
        values: Name to pair. Processes may have different names.

    Returns:
        Name to pair, for every name that any process has.
    """
    if count() == 1:
        return dict(values)
    of_processes: list[Any] = [None] * count()
    with together():
        distributed.all_gather_object(of_processes, dict(values))
    added: dict[str, tuple[float, float]] = {}
    for of_process in of_processes:
        for name, (first, second) in of_process.items():
            before = added.get(name, (0.0, 0.0))
            added[name] = (before[0] + first, before[1] + second)
    return added


def from_first(value: Any) -> Any:
    """Sends a value of the first process to every process.

    Args:
        value: Anything that can be pickled. Only the first process's is read.

    Returns:
        The first process's value.
    """
    if count() == 1:
        return value
    box = [value]
    with together():
        distributed.broadcast_object_list(box, src=0)
    return box[0]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _device() -> torch.device:
    """Returns the device of tensors that are sent: NCCL sends only those of its GPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if distributed.get_backend() == "nccl"
        else torch.device("cpu")
    )
