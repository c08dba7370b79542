"""What commands share: of several processes, the first alone prints and writes; an evaluation is one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.distributed import processes
from agents.evaluation.evaluation import Evaluation
from agents.locks import FolderLock
from textenvs.render import visible_line


def join_processes(device: str | None, *, pieces: bool) -> str | None:
    """Joins the other processes, where there are some, and silences all but the first.

    Args:
        device: The device that the user asked for.
        pieces: If True, the model may be cut into pieces over the processes.

    Returns:
        The device of this process.
    """
    device = processes.start(device, pieces=pieces)
    if processes.rank() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lasts
    return device


@contextmanager
def owned(folder: Path, check: Callable[[Path], None] | None = None) -> Iterator[None]:
    """A context in which a folder belongs to this command, from the first look at it to the end.

    Of several processes, the first one alone looks into the folder and writes there.

    Args:
        folder: The folder.
        check: Raises if the folder cannot be written to. Asked twice: before the lock's file is made, in a folder that
            may be somebody's, and again when nobody else can write there.

    Raises:
        ValueError: If another process holds the folder, or of `check`.
    """
    if processes.rank() > 0:
        yield
        return
    if check is not None:
        check(folder)
    with FolderLock(folder):
        if check is not None:
            check(folder)
        yield


def evaluation_line(label: str, evaluation: Evaluation) -> str:
    """An evaluation's numbers in one line.

    Args:
        label: What was evaluated.
        evaluation: The evaluation.

    Returns:
        The line.
    """
    interval = f"[{evaluation.score_low:+.3f}, {evaluation.score_high:+.3f}]"
    parts = [f"{label:>10}: score {evaluation.score:+.3f} {interval}"]
    if evaluation.share is not None:
        parts.append(f"{evaluation.share:.0%} of the demonstrations'")
    if evaluation.held_out is not None:
        interval = f"[{evaluation.held_out_low:+.3f}, {evaluation.held_out_high:+.3f}]"
        parts.append(f"{evaluation.held_out_name} {evaluation.held_out:+.3f} {interval}")
    if evaluation.kl is not None:
        parts.append(f"KL {evaluation.kl:.2f}")
    parts.append(f"distinct-2 {evaluation.distinct_2:.3f}")
    parts.append(f"length {evaluation.response_length:.1f}")
    return visible_line("  ".join(parts) + f"  ({evaluation.episodes} episodes)")
