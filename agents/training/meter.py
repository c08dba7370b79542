"""Averages of metrics that do not depend on how they were cut up: over updates, minibatches or processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agents.distributed import processes


class Meter:
    """Weighted averages, summed on the device and read once.

    Ten updates with one token each and one update with ten tokens give the same average: weights are counts of what
    was averaged, tokens as a rule.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._weights: dict[str, Tensor | float] = {}
        self._awaited: list[tuple[Tensor, Callable[[list[float]], None]]] = []

    def add(self, weight: Tensor | float, values: Mapping[str, Tensor | float]) -> None:
        """Counts some means.

        Args:
            weight: Over how many things each value is a mean.
            values: Name to mean, scalars.
        """
        for name, value in values.items():
            self._add(name, _number(value) * weight, weight)

    def add_shares(self, weight: Tensor | float, share: Tensor | float, values: Mapping[str, Tensor]) -> None:
        """Counts parts of a mean, such as the losses of micro-batches that are all divided by their batch's count.

        Args:
            weight: Over how many things the whole mean is.
            share: Which part of them this is.
            values: Name to what the part contributes to the mean, scalars.
        """
        part = weight * share
        for name, value in values.items():
            self._add(name, _number(value) * weight, part)

    def add_sums(self, count: int, values: Mapping[str, Tensor]) -> None:
        """Counts arrays of single values.

        Args:
            count: How many values each array has.
            values: Name to array, `(count,)`.
        """
        for name, value in values.items():
            self._add(name, value.detach().sum(), float(count))

    def merge(self, other: Meter, *, when: Tensor | None = None) -> None:
        """Counts what another meter has counted, and takes over the numbers that it awaits.

        Args:
            other: The other one.
            when: () bool on the device, True if it counts; None: it does. The host does not wait for its value.
        """
        for name, total in other._sums.items():
            weight = other._weights[name]
            if when is not None:  # NaN times 0 is NaN
                total, weight = (
                    torch.where(when, torch.as_tensor(number, device=when.device), 0.0) for number in (total, weight)
                )
            self._add(name, total, weight)
        self._awaited += other._awaited
        other._awaited = []

    def await_numbers(self, numbers: Tensor, then: Callable[[list[float]], None]) -> None:
        """Has some numbers read together with the averages.

        Args:
            numbers: `(k,)`.
            then: Called with them by `means`, in the order in which they were given.
        """
        self._awaited.append((numbers, then))

    def means(self) -> dict[str, float]:
        """Name to average, over all processes; NaN for what was counted with no weight at all."""
        awaited, self._awaited = self._awaited, []
        wanted = [*self._sums.values(), *self._weights.values()]
        read = iter(_read([*wanted, *(numbers for numbers, _ in awaited)]))
        sums, weights = [next(read)[0] for _ in self._sums], [next(read)[0] for _ in self._weights]
        for numbers, (_, then) in zip(read, awaited, strict=True):
            then(numbers)
        pairs = {name: (total, weight) for name, total, weight in zip(self._sums, sums, weights, strict=True)}
        return {
            name: total / weight if weight else float("nan") for name, (total, weight) in processes.sums(pairs).items()
        }

    def _add(self, name: str, total: Tensor | float, weight: Tensor | float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._weights[name] = self._weights.get(name, 0.0) + weight


def _number(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value


def _read(numbers: Sequence[Tensor | float]) -> list[list[float]]:
    """Reads scalars and `(k,)` tensors; the host waits once for each device."""
    values = [[] if isinstance(number, Tensor) else [number] for number in numbers]
    tensors = [(index, number.reshape(-1)) for index, number in enumerate(numbers) if isinstance(number, Tensor)]
    for device in {tensor.device for _, tensor in tensors}:
        there = [(index, tensor) for index, tensor in tensors if tensor.device == device]
        flat = torch.cat([tensor.float() for _, tensor in there]).tolist()
        for (index, _), part in zip(there, _split(flat, [len(tensor) for _, tensor in there]), strict=True):
            values[index] = part
    return values


def _split(flat: list[float], lengths: Sequence[int]) -> list[list[float]]:
    ends = np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]
