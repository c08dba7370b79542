"""The folder of a run: at most one process writes into it, and its logs agree with its checkpoints.

    run/
        config.json                every option, for --config and --resume
        checkpoints/               see agents.training.checkpoints
        metrics.jsonl              one row an update
        evaluations.jsonl          one row an evaluation
        samples/SPLIT-TOKENS.jsonl one row an episode of an evaluation
        tensorboard/
        run.lock                   held by the process that trains, see agents.locks

After a stop, a log may hold rows that are later than the last checkpoint, and end in the middle of a line. A run that
is resumed cuts its logs back to the checkpoint, and so writes what it would have written without the stop. There is no
checkpoint of an update whose row is not in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agents.evaluation.evaluation import Evaluation
from agents.files import sync_file, to_json, write_text
from agents.locks import FolderLock
from agents.training import checkpoints
from agents.training.metrics_log import LogLine, MetricsLog, read_lines

METRICS = "metrics.jsonl"

EVALUATIONS = "evaluations.jsonl"

SAMPLES = "samples"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownRun:
    """A run's folder as an agent has last seen it.

    Attributes:
        last: The number of its last checkpoint.
        rows: Number of rows that each log had at the checkpoint of the agent's state, by the log's name.
    """

    last: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)


class RunFolder:
    """A run's folder, open for training.

    What is missing or damaged there is said in warnings, and does not keep the run from going on.

    Args:
        folder: Made if it does not exist.
        timesteps: Tokens that the agent has played: later rows of the logs are cut off.
        evaluated: Tokens played before its last evaluation: later evaluations are cut off. -1: there was none.
        known: The folder as the agent has last seen it. None: it never did, and the folder must be new.
        wandb_project: A W&B project, or None.

    Attributes:
        path: The folder.
        logged: Tokens played up to the last update whose row is in the log.

    Raises:
        ValueError: If another process writes to it, or did so since the agent was loaded, or it holds another run.
        OSError: If it cannot be written to; says what to do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timesteps: int,
        evaluated: int,
        known: KnownRun | None = None,
        wandb_project: str | None = None,
    ) -> None:
        self.path, self.logged = folder, timesteps
        if known is None:  # before there is anything to write, the lock's file included
            check_new(folder, resume_with=f"agents.load({str(folder)!r})")
        self._lock = FolderLock(folder)
        try:
            if known is None:
                check_new(folder, resume_with=f"agents.load({str(folder)!r})")
            elif (last := last_checkpoint(folder)) > known.last:
                raise ValueError(
                    f"Expected the run in {str(folder)!r} as this agent knows it, with checkpoint {known.last} as its "
                    f"last, got {last}: another process has trained in it. agents.load() it again"
                )
            rows = {
                METRICS: cut_back(folder / METRICS, lambda row: row["timesteps"] <= timesteps),
                EVALUATIONS: cut_back(folder / EVALUATIONS, lambda row: row["timesteps"] <= evaluated),
            }
            _warn_of_losses(folder, known.rows if known else {}, rows)
            self._rows = {name: len(kept) for name, kept in rows.items()}
            self._metrics = MetricsLog(folder, wandb_project, purge_step=timesteps + 1 if timesteps else None)
        except BaseException:
            self._lock.release()
            raise

    def write_metrics(self, timesteps: int, row: Mapping[str, float]) -> None:
        """Writes one row of metrics into every log.

        Args:
            timesteps: Tokens played so far.
            row: Name to number.

        Raises:
            OSError: If it cannot be written. No checkpoint is written after that, see `logged`.
        """
        self._metrics.write(timesteps, row)
        self._rows[METRICS] += 1
        self.logged = timesteps

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
        self._rows[EVALUATIONS] += 1
        self._metrics.write_scalars(
            timesteps, {f"{split}/{name}": value for name, value in summary.items() if isinstance(value, float)}
        )

    def sync(self) -> dict[str, int]:
        """Pushes the logs to the disk, before a checkpoint that is later than their rows.

        Returns:
            The number of rows that each log has, by its name.

        Raises:
            SaveError: If a log cannot be written, or the folder is no longer this run's.
        """
        try:
            self._lock.confirm()
            for name in (METRICS, EVALUATIONS):
                if (self.path / name).is_file():
                    sync_file(self.path / name)
        except (OSError, ValueError) as error:
            raise checkpoints.SaveError(
                f"Expected to write a checkpoint into {str(self.path)!r}, got: {error}"
            ) from error
        return dict(self._rows)

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
        folder: The run's folder, whose lock is held.
    """
    for name in (METRICS, EVALUATIONS):
        if (folder / name).is_file():
            write_text(folder / name, "")


def last_checkpoint(folder: Path) -> int:
    """Returns the number of a folder's last checkpoint whose manifest can be read; 0 where there is none."""
    return max((checkpoint.number for checkpoint in checkpoints.listed(folder)), default=0)


def _warn_of_losses(folder: Path, expected: Mapping[str, int], rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Says what is missing in a run's folder, and what there is in it that is not the run's."""
    if strays := checkpoints.strays(folder):
        names = ", ".join(strays[:10])
        _LOG.warning("Left alone in %s, since it is none of the run's: %s", folder / checkpoints.FOLDER, names)
    for name, kept in rows.items():
        if len(kept) < expected.get(name, 0):
            _LOG.warning(
                "%s has %d of the %d rows that it had at this checkpoint: the others are lost, and the run goes on.",
                *(folder / name, len(kept), expected[name]),
            )
    for row in rows[EVALUATIONS]:
        try:
            _evaluation(folder, row)
        except (KeyError, ValueError) as error:
            _LOG.warning("%s. The run goes on without it", error)


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
    rows = [line.row for line in read_lines(run / EVALUATIONS) if line.row is not None]
    rows = [row for row in rows if (row.get("split"), row.get("timesteps")) == (split, timesteps)]
    if not rows:
        raise ValueError(f"Expected {_name(run, split, timesteps)}, got none in {EVALUATIONS}")
    return _evaluation(run, rows[-1])


def _evaluation(run: Path, row: Mapping[str, Any]) -> Evaluation:
    """Reads the episodes of an evaluation whose row is in the log."""
    split, timesteps = row["split"], row["timesteps"]
    file = samples_file(run, split, timesteps)
    if not file.is_file():
        raise ValueError(f"Expected {_name(run, split, timesteps)}, but its episodes, {file.name}, are gone")
    try:
        return Evaluation.of(row, [line.row or {} for line in read_lines(file)])
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected {_name(run, split, timesteps)}, but it is damaged: {error}") from error


def _name(run: Path, split: str, timesteps: int) -> str:
    return f"an evaluation on {split} at {timesteps:,} tokens in {str(run)!r}"


def cut_back(file: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Keeps the rows of a log up to the first that is not wanted.

    A stop may leave half a row at the end, which is cut off. Lines between rows that cannot be read were damaged later:
    they are taken out, into a file of their own beside the log, with a warning.

    Args:
        file: A .jsonl file, which need not exist.
        is_wanted: Tells if a row is to be kept.

    Returns:
        The rows that are kept.
    """
    kept: list[LogLine] = []
    damaged: list[LogLine] = []
    pending: list[LogLine] = []  # damaged, if a row follows
    for line in read_lines(file):
        try:
            wanted = line.row is not None and is_wanted(line.row)
        except (KeyError, TypeError):
            line, wanted = line._replace(row=None), False
        if line.row is None:
            pending.append(line)
        elif not wanted:
            break
        else:
            damaged += pending
            pending = []
            kept.append(line)
    if damaged:
        beside = file.with_name(f"{file.name}.damaged")
        with beside.open("ab") as stream:
            stream.write(b"".join(line.text for line in damaged))
        numbers = ", ".join(str(line.number) for line in damaged[:10])
        _LOG.warning("%s is damaged in line %s, which is now in %s", file, numbers, beside.name)
    text = b"".join(line.text for line in kept)
    if file.is_file() and text != file.read_bytes():
        write_text(file, text.decode("utf-8"))
    return [line.row for line in kept if line.row is not None]
