"""Numbers to watch: averages that do not depend on how they were cut up, and where they are written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import torch
from torch import Tensor

from agents import processes


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
        """Count some means.

        Args:
            weight: Over how many things each value is a mean.
            values: Name to mean, scalars.
        """
        for name, value in values.items():
            self._add(name, _number(value) * weight, weight)

    def add_shares(self, weight: Tensor | float, share: Tensor | float, values: Mapping[str, Tensor]) -> None:
        """Count parts of a mean, such as the losses of micro-batches that are all divided by their batch's count.

        Args:
            weight: Over how many things the whole mean is.
            share: Which part of them this is.
            values: Name to what the part contributes to the mean, scalars.
        """
        part = weight * share
        for name, value in values.items():
            self._add(name, _number(value) * weight, part)

    def merge(self, other: Meter, *, when: Tensor | None = None) -> None:
        """Count what another meter has counted, and wait in its place for what it waits for.

        Args:
            other: The other one.
            when: () bool on the device, whether it counts at all; None: it does. Nobody waits for its value.
        """
        for name, total in other._sums.items():
            weight = other._weights[name]
            if when is not None:  # NaN times 0 is NaN
                total, weight = (
                    torch.where(when, torch.as_tensor(one, device=when.device), 0.0) for one in (total, weight)
                )
            self._add(name, total, weight)
        self._awaited += other._awaited
        other._awaited = []

    def await_numbers(self, numbers: Tensor, then: Callable[[list[float]], None]) -> None:
        """Have some numbers read together with the averages.

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
    """The values of scalars and `(k,)` tensors, for which the host waits once a device."""
    found = [[] if isinstance(one, Tensor) else [one] for one in numbers]
    tensors = [(place, one.reshape(-1)) for place, one in enumerate(numbers) if isinstance(one, Tensor)]
    for device in {one.device for _, one in tensors}:
        there = [(place, one) for place, one in tensors if one.device == device]
        flat = torch.cat([one.float() for _, one in there]).tolist()
        for (place, _), part in zip(there, _split(flat, [len(one) for _, one in there]), strict=True):
            found[place] = part
    return found


def _split(flat: list[float], lengths: Sequence[int]) -> list[list[float]]:
    ends = np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Distinct word n-grams over all word n-grams of a corpus, from 0 to 1.

    Args:
        texts: The corpus. Words are what stands between white space; n-grams do not cross texts.
        n: Words in an n-gram.

    Returns:
        The ratio; 0 where there is no n-gram. It falls as a corpus grows: compare corpora of equal size.

    Source: Li et al. (2016), A diversity-promoting objective function for neural conversation models.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.split()
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return len(counts) / total if total else 0.0


def parted(scores: Sequence[float], held_out: Sequence[float], *, window: int = 20, deviations: float = 3.0) -> bool:
    """Whether a score has risen while a held-out metric has fallen: what over-optimisation looks like.

    Over the last `window` updates, a line is fitted to either; each slope must be `deviations` of its standard errors
    from 0, the first above it and the second below, so that noise alone hardly ever does it.

    Args:
        scores: What is trained on, one mean an update, the latest last.
        held_out: What is not, alike.
        window: How many updates, at least 3. With fewer, nothing has parted yet.
        deviations: How clear both trends must be.

    Returns:
        Whether the two have parted.

    Raises:
        ValueError: If they are not as many, or the window is too small.

    Source: Gao, Schulman & Hilton (2023), Scaling laws for reward model overoptimization, arXiv:2210.10760: there the
        held-out metric is the gold reward.

    Example:
        >>> parted([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], window=4)
        True
    """
    if len(scores) != len(held_out):
        raise ValueError(f"Expected as many held-out metrics as scores, {len(scores)}, got {len(held_out)}")
    if window < 3:
        raise ValueError(f"Expected a window of at least 3 updates, got {window}")
    if len(scores) < window:
        return False
    return _trend(scores[-window:]) > deviations and _trend(held_out[-window:]) < -deviations


def _trend(values: Sequence[float]) -> float:
    """The slope of the least-squares line, in its standard errors; 0 for a constant."""
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (len(y) - 2) / float(x @ x))
    # A line without noise has no error but what rounding leaves.
    error = max(error, 1e-12 * max(1.0, float(np.abs(y).max())))
    return slope / error


class MetricsLog:
    """Writes one row of metrics an update: a JSONL file, TensorBoard, and Weights & Biases where asked for.

    Args:
        folder: The run's folder.
        wandb_project: A W&B project, or None. Needs `pip install "textenvs[wandb]"`.
        purge_step: What TensorBoard has from this step on is forgotten, since the run goes on from before it.

    Raises:
        ImportError: If W&B is asked for and not installed.
    """

    def __init__(self, folder: Path, wandb_project: str | None = None, *, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._wandb: Any = None
        if wandb_project is not None:
            try:
                import wandb
            except ImportError as error:
                raise ImportError('Weights & Biases is not installed: pip install "textenvs[wandb]"') from error
            self._wandb = wandb.init(project=wandb_project, dir=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._tensorboard: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def write(self, timesteps: int, row: Mapping[str, float]) -> None:
        """Write one row.

        Args:
            timesteps: Tokens played so far: the x-axis of every curve.
            row: Name to number.
        """
        self._file.write(json.dumps({"timesteps": timesteps, **row}) + "\n")
        self._file.flush()
        self.write_scalars(timesteps, row)

    def write_scalars(self, timesteps: int, scalars: Mapping[str, float]) -> None:
        """Write numbers that are no row of the file: to TensorBoard and Weights & Biases alone.

        Args:
            timesteps: Tokens played so far.
            scalars: Name to number.
        """
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, timesteps)
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=timesteps)

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        self.close()


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line that was cut in the middle is left out.

    Args:
        file: A metrics.jsonl.

    Returns:
        One dict a row.
    """
    rows: list[dict[str, float]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return rows


def plot_learning_curve(rows: Sequence[Mapping[str, float]], file: Path, title: str) -> None:
    """Reward, held-out metric, KL, entropy, diversity and length against tokens, as a PNG.

    Args:
        rows: Rows of a metrics file.
        file: Where to write the picture.
        title: What to write above it.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        ("score", "score (trained on)", "tab:green"),
        ("held_out", "held-out metric", "tab:olive"),
        ("kl", "KL to the start model (nats a response)", "tab:red"),
        ("entropy", "entropy (nats a token)", "tab:purple"),
        ("distinct_2", "distinct-2 of a batch", "tab:blue"),
        ("response_length", "response length (tokens)", "tab:gray"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.4), layout="constrained")
    tokens = [row["timesteps"] for row in rows]
    for axis, (name, label, color) in zip(axes.flat, panels, strict=True):
        values = [row.get(name, float("nan")) for row in rows]
        axis.plot(tokens, values, color=color)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)
