"""Output on the console: of several processes, the first one alone prints, and an evaluation is one line."""

from __future__ import annotations

import os
import sys

from agents.distributed import processes
from agents.evaluation.evaluation import Evaluation


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
    if evaluation.held_out is not None:
        interval = f"[{evaluation.held_out_low:+.3f}, {evaluation.held_out_high:+.3f}]"
        parts.append(f"{evaluation.held_out_name} {evaluation.held_out:+.3f} {interval}")
    if evaluation.kl is not None:
        parts.append(f"KL {evaluation.kl:.2f}")
    parts.append(f"distinct-2 {evaluation.distinct_2:.3f}")
    parts.append(f"length {evaluation.response_length:.1f}")
    return "  ".join(parts) + f"  ({evaluation.episodes} episodes)"
