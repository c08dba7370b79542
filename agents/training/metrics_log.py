"""The log of a run's metrics: one JSON object a row, TensorBoard, and a plot of the learning curve."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from agents.files import to_json

_LOG = logging.getLogger(__name__)

_LINE_STYLES = ("dotted", "dashdot", "dashed", "solid")
"""Of the level lines in the score's panel, from the lowest."""


class MetricsLog:
    """Writes a row of metrics for each update: to a JSONL file, TensorBoard, and Weights & Biases where asked for.

    Where TensorBoard is not installed, a warning says so, and the rest is written.

    Args:
        folder: The run's folder.
        wandb_project: A W&B project, or None. Needs `pip install "textenvs[wandb]"`.
        purge_step: TensorBoard forgets what it has from this step on: the run is resumed from before it.

    Raises:
        ImportError: If W&B is asked for and not installed.
    """

    def __init__(self, folder: Path, wandb_project: str | None = None, *, purge_step: int | None = None) -> None:
        writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter as writer  # slow, and only runs with a folder need it
        except ImportError as error:
            _LOG.warning(
                "TensorBoard cannot be imported (%s): metrics go to metrics.jsonl alone. pip install tensorboard", error
            )
        self._wandb: Any = None
        if wandb_project is not None:
            try:
                import wandb
            except ImportError as error:
                raise ImportError('Weights & Biases is not installed: pip install "textenvs[wandb]"') from error
            self._wandb = wandb.init(project=wandb_project, dir=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        tensorboard = str(folder / "tensorboard")
        self._tensorboard: Any = None if writer is None else writer(tensorboard, purge_step=purge_step)

    def write(self, timesteps: int, row: Mapping[str, float]) -> None:
        """Writes one row.

        Args:
            timesteps: Tokens played so far: the x-axis of every curve.
            row: Name to number. NaN is null in the file: JSON has no word for it.
        """
        self._file.write(to_json({"timesteps": timesteps, **row}) + "\n")
        self._file.flush()
        self.write_scalars(timesteps, row)

    def write_scalars(self, timesteps: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers to TensorBoard and Weights & Biases alone, and not to the file.

        Args:
            timesteps: Tokens played so far.
            scalars: Name to number.
        """
        for name, value in scalars.items() if self._tensorboard is not None else ():
            self._tensorboard.add_scalar(name, value, timesteps)
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=timesteps)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes everything, whatever happened."""
        self.close()


class LogLine(NamedTuple):
    """A line of a .jsonl file.

    Attributes:
        number: The line's number, from 1.
        text: The line, with its end.
        row: The JSON object in it; None where it is damaged, or cut in the middle by a stop.
    """

    number: int
    text: bytes
    row: dict[str, Any] | None


def read_lines(file: Path) -> list[LogLine]:
    """Reads the lines of a log, the damaged ones too.

    Args:
        file: A .jsonl file, which need not exist.

    Returns:
        The lines that are not empty.
    """
    lines = []
    for number, text in enumerate(file.read_bytes().split(b"\n") if file.is_file() else (), start=1):
        if text.strip():
            lines.append(LogLine(number, text + b"\n", _row(text)))
    if lines and not _ends_a_line(file):
        lines[-1] = lines[-1]._replace(row=None)
    return lines


def _row(text: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read() == b"\n"


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Reads the rows of a metrics file; lines that are damaged, or were cut in the middle, are left out.

    Args:
        file: A metrics.jsonl.

    Returns:
        A dict for each row. A null is NaN, as it was when it was written.
    """
    rows = [line.row for line in read_lines(file) if line.row is not None]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def plot_learning_curve(
    rows: Sequence[Mapping[str, float]],
    file: Path,
    title: str,
    *,
    lines: Mapping[str, float] | None = None,
    held_out_name: str | None = None,
) -> None:
    """Draws score, held-out metric, KL, entropy, diversity and length against tokens, as a PNG.

    Args:
        rows: Rows of a metrics file.
        file: Where to write the picture.
        title: The title above it.
        lines: Scores to read the curve against, by name, such as "demonstrations": level lines in the score's panel.
        held_out_name: Name of the held-out metric.
    """
    import matplotlib  # slow to import, and nothing else needs it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    panels = [
        ("score", "score (trained on)", "tab:green"),
        ("held_out", held_out_name or "held-out metric", "tab:olive"),
        ("kl", "KL to the start model (nats a response)", "tab:red"),
        ("entropy", "entropy (nats a token)", "tab:purple"),
        ("distinct_2", "distinct-2 of a batch", "tab:blue"),
        ("response_length", "response length (tokens)", "tab:gray"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.4), layout="constrained")
    tokens = [row["timesteps"] for row in rows]
    for axis, (name, label, color) in zip(axes.flat, panels, strict=True):
        values = [row.get(name, math.nan) for row in rows]
        axis.plot(tokens, values, color=color)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="x", style="plain")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    for (name, score), style in zip(sorted((lines or {}).items(), key=lambda line: line[1]), cycle(_LINE_STYLES)):
        axes[0, 0].axhline(score, color="black", linewidth=0.8, linestyle=style, label=f"{name} {score:.3g}")
    if lines:
        axes[0, 0].legend(fontsize=7, loc="best")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)
