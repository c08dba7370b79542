"""The folder of a run: at most one process writes into it, and its logs agree with its checkpoints.

    run/
        config.json                every option, for --config and --resume
        checkpoints/               see agents.training.checkpoints
        metrics.jsonl              one row an update
        evaluations.jsonl          one row an evaluation
        samples/SPLIT-TOKENS.jsonl one row an episode of an evaluation
        tensorboard/
        run.lock                   held by the process that trains

After a stop, a log may hold rows that are later than the last checkpoint, and end in the middle of a line. A run that
is resumed cuts its logs back to the checkpoint, and so writes what it would have written without the stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agents.evaluation.evaluation import Evaluation
from agents.files import FileLock, sync_file, to_json, write_text
from agents.training import checkpoints
from agents.training.metrics_log import MetricsLog

METRICS = "metrics.jsonl"

EVALUATIONS = "evaluations.jsonl"

SAMPLES = "samples"

LOCK = "run.lock"


class FolderLock(FileLock):
    """A lock that lets one process at a time train in a folder.

    Args:
        folder: The run's folder.

    Raises:
        ValueError: If another process holds it; says which.
        OSError: If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        expected = f"a run folder that nobody trains in, got {str(folder)!r}"
        super().__init__(folder / LOCK, expected, "choose another folder with --output")


class RunFolder:
    """A run's folder, open for training.

    Args:
        folder: Made if it does not exist.
        timesteps: Tokens that the agent has played: later rows of the logs are cut off.
        evaluated: Tokens played before its last evaluation: later evaluations are cut off. -1: there was none.
        wandb_project: A W&B project, or None.

    Raises:
        ValueError: If another process trains in it.
        OSError: If it cannot be written to; says what to do.
    """

    def __init__(self, folder: Path, *, timesteps: int, evaluated: int, wandb_project: str | None = None) -> None:
        self.path = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
        except OSError as error:
            raise OSError(
                f"Expected a run folder that can be written to, got {str(folder)!r}: {error}. Choose another with "
                "--output, or free this one"
            ) from error
        try:
            cut_back(folder / METRICS, lambda row: row["timesteps"] <= timesteps)
            cut_back(folder / EVALUATIONS, lambda row: row["timesteps"] <= evaluated)
            self._metrics = MetricsLog(folder, wandb_project, purge_step=timesteps + 1 if timesteps else None)
        except BaseException:
            self._lock.release()
            raise

    def write_metrics(self, timesteps: int, row: Mapping[str, float]) -> None:
        """Writes one row of metrics into every log.

        Args:
            timesteps: Tokens played so far.
            row: Name to number.
        """
        self._metrics.write(timesteps, row)

    def write_evaluation(self, timesteps: int, split: str, evaluation: Evaluation, sampling: Mapping[str, Any]) -> None:
        """Writes one evaluation: its numbers, and a row for each episode.

        Args:
            timesteps: Tokens played so far.
            split: Which examples.
            evaluation: The evaluation.
            sampling: The settings that it sampled with.
        """
        file = samples_file(self.path, split, timesteps)
        file.parent.mkdir(exist_ok=True)
        write_text(file, "".join(to_json(row) + "\n" for row in evaluation.samples()))
        summary = evaluation.summary()
        row = {"timesteps": timesteps, "split": split, "sampling": dict(sampling), **summary}
        with (self.path / EVALUATIONS).open("a", encoding="utf-8") as stream:
            stream.write(to_json(row) + "\n")
        self._metrics.write_scalars(
            timesteps, {f"{split}/{name}": value for name, value in summary.items() if isinstance(value, float)}
        )

    def sync(self) -> None:
        """Pushes the logs to the disk, before a checkpoint that is later than their rows."""
        for name in (METRICS, EVALUATIONS):
            if (self.path / name).is_file():
                sync_file(self.path / name)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the logs and releases the lock, whatever happened."""
        try:
            self._metrics.close()
        finally:
            self._lock.release()


def check_new(folder: Path, *, resume_with: str, files: tuple[str, ...] = ()) -> None:
    """Raises if a folder holds a run, whose logs and checkpoints another one would replace.

    Args:
        folder: The folder, which need not exist.
        resume_with: The command that resumes that run, for the message.
        files: Names of further files that mark the folder of a run.

    Raises:
        ValueError: If it holds one.
    """
    logs = [folder / name for name in (METRICS, EVALUATIONS)]
    logged = any(log.is_file() and log.stat().st_size > 0 for log in logs)
    if logged or checkpoints.numbers(folder) or any((folder / name).exists() for name in files):
        raise ValueError(
            f"Expected a new folder for this run, got {str(folder)!r}, which holds another run: choose another, or go "
            f"on with {resume_with}"
        )


def begin_again(folder: Path) -> None:
    """Empties the logs of a run that was stopped before its first checkpoint.

    Args:
        folder: The run's folder.
    """
    for name in (METRICS, EVALUATIONS):
        cut_back(folder / name, lambda row: False)


def samples_file(run: Path, split: str, timesteps: int) -> Path:
    """Returns the file that the episodes of an evaluation are written to."""
    return run / SAMPLES / f"{split}-{timesteps:012d}.jsonl"


def read_evaluation(run: Path, split: str, timesteps: int) -> Evaluation:
    """Reads an evaluation from a run's folder.

    Args:
        run: The run's folder.
        split: Which examples.
        timesteps: Tokens that were played before it.

    Returns:
        The evaluation, without the settings that it sampled with.

    Raises:
        ValueError: If there is no such evaluation.
    """
    rows = [row for row in _rows(run / EVALUATIONS) if (row["split"], row["timesteps"]) == (split, timesteps)]
    file = samples_file(run, split, timesteps)
    if not rows or not file.is_file():
        raise ValueError(f"Expected an evaluation on {split} at {timesteps:,} tokens in {str(run)!r}, got none")
    return Evaluation.of(rows[-1], _rows(file))


def cut_back(file: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Keeps the rows of a log up to the first that is not wanted, or that was cut in the middle.

    Args:
        file: A .jsonl file, which need not exist.
        is_wanted: Tells if a row is to be kept.
    """
    if not file.is_file():
        return
    text = file.read_bytes()
    kept = 0
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
            if not line.endswith(b"\n") or not is_wanted(row):
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        kept += len(line)
    if kept < len(text):
        write_text(file, text[:kept].decode("utf-8"))


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
