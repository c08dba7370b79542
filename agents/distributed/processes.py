"""Several processes that train one policy: each plays its share of the lanes, and all of them take the same steps.

    accelerate launch --num_processes 2 --cpu -m agents train ...

Every process has a copy of the policy. It plays its own lanes, and then the episodes are put together, so that what
looks at a whole batch (normalised advantages, baselines, bonuses, the order of minibatches) is computed from the same
numbers everywhere. Of each minibatch a process takes every n-th episode through the model; the gradients are added up,
and every process takes the same step. So n processes make the update that one process would make of the same episodes,
up to the order in which floats are added. Everything here is a plain nothing where there is one process.
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
    """Another process has ended, so that those that are left cannot go on."""


@contextmanager
def together() -> Iterator[None]:
    """What all processes do at once, which fails when one of them has ended.

    Raises:
        LostProcessError: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def among_others() -> Iterator[None]:
    """A computation that talks to the other processes on its way, and may fail for reasons of its own as well.

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
    """Whether a variable of the environment says yes, as `accelerate launch` writes what its config file has.

    Args:
        name: The variable's.

    Returns:
        Whether it does; not where there is none.
    """
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def start(device: str | None = None, *, pieces: bool = True) -> str | None:
    """Join the other processes, where a launcher has started several.

    Args:
        device: What the user asked for: "cpu", or None for what Accelerate chooses.
        pieces: Whether what is trained can be cut over the processes, as FSDP and DeepSpeed do.

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
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this is, from 0. Number 0 alone writes, prints and evaluates."""
    return distributed.get_rank() if _together() else 0


def own_share(total: int, name: str) -> int:
    """Returns this process's share of a number that all processes have together.

    Args:
        total: The number.
        name: What it is called, for the message.

    Returns:
        An equal share of it.

    Raises:
        ValueError: If there are no equal shares.
    """
    if total % count():
        raise ValueError(f"Expected {name} to be a multiple of the {count()} processes, got {total}")
    return total // count()


def share(rows: Tensor) -> Tensor:
    """This process's part of some rows.

    Args:
        rows: `(k,)` int64, the same in every process.

    Returns:
        Every `count()`-th of them; there may be none.
    """
    return rows[rank() :: count()]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all processes, in every process. Who has none counts as zeros, if somebody has one.

    Args:
        parameters: The same ones in the same order, everywhere. Of what is cut over the processes, gradients are added
            up already.
    """
    if count() == 1:
        return
    trained = [one for one in parameters if one.requires_grad]
    if isinstance(trained[0], DTensor):
        return
    flags = torch.tensor([one.grad is not None for one in trained], dtype=torch.int32, device=trained[0].device)
    with together():
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    moved = [one for one, flag in zip(trained, flags.tolist(), strict=True) if flag]
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten().float() for one in moved])
    with together():
        distributed.all_reduce(flat)
    for one, gradient in zip(moved, flat.split([one.numel() for one in moved]), strict=True):
        one.grad = gradient.view_as(one).to(one.dtype)


def total(number: Tensor) -> Tensor:
    """The sum of a number over all processes, in every process.

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
    """The largest of each number over all processes: what one wants, all do.

    Args:
        numbers: As many everywhere.

    Returns:
        As many, the same everywhere.
    """
    if count() == 1:
        return numbers
    found = torch.tensor(numbers, device=_device())
    with together():
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return [int(one) for one in found.tolist()]


def sums(values: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Pairs of numbers by name, added up over all processes; a name need not be everywhere.

    Args:
        values: Name to pair.

    Returns:
        Every name that is somewhere.
    """
    if count() == 1:
        return dict(values)
    everyone: list[Any] = [None] * count()
    with together():
        distributed.all_gather_object(everyone, dict(values))
    added: dict[str, tuple[float, float]] = {}
    for one in everyone:
        for name, (first, second) in one.items():
            before = added.get(name, (0.0, 0.0))
            added[name] = (before[0] + first, before[1] + second)
    return added


def from_first(value: Any) -> Any:
    """What the first process has, in every process.

    Args:
        value: Anything that can be pickled. What the others pass is not read.

    Returns:
        The first one's.
    """
    if count() == 1:
        return value
    box = [value]
    with together():
        distributed.broadcast_object_list(box, src=0)
    return box[0]


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _device() -> torch.device:
    """Where collectives expect small tensors: NCCL knows those of its GPU alone."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if distributed.get_backend() == "nccl"
        else torch.device("cpu")
    )
