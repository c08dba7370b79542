"""Devices: the choice of one, and arrays on their way to it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Returns an array as a tensor on a device. The host does not wait for what the device still has to do before.

    Args:
        array: An array of any shape, of a dtype that PyTorch has.
        device: Where to put it.

    Returns:
        The tensor; on a CPU it shares its memory with the array.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from memory that is not pinned, the copy waits until the device has come to it
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor if device.type == "cpu" else tensor.to(device)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Chooses the device: the one named, else CUDA, else Apple's MPS, else the CPU.

    Args:
        device: The device that the user asked for, or None.

    Returns:
        The device.

    Raises:
        ValueError: If torch knows no such device, or there is none on this machine.
    """
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device that this machine has (cpu, cuda, mps), got {device!r}: {error}"
        ) from error
    return chosen
