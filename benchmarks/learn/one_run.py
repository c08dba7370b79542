"""One run: an agent learns an experiment, and is judged. What comes of it is a row."""

from __future__ import annotations

import time
import traceback
from typing import Any

import numpy as np
import torch

from benchmarks.learn.contestants import train
from benchmarks.learn.playing import Trained, Unavailable, make_env, tokenizer_of
from benchmarks.learn.suite import Experiment, Run
from textenvs.tokenizer import fingerprint

AVERAGED = 3
"""Updates whose mean training score has to reach the threshold: one lucky batch does not solve a task."""


def measure(run: Run) -> dict[str, Any]:
    """Do a run.

    Args:
        run: Which.

    Returns:
        Its row. `status` is "ok", "skipped" (with the reason) or "failed" (with the error).
    """
    torch.set_num_threads(1)
    one = run.experiment
    row = run.columns
    started, cpu = time.perf_counter(), time.process_time()
    try:
        reason = one.missing()
        if reason is not None:
            raise Unavailable(reason)
        trained = train(run.agent, one, run.seed, run.max_seconds)
        row |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        row |= judged(trained, one)
    except Unavailable as reason:
        return {**row, "status": "skipped", "reason": str(reason)}
    except Exception as error:  # whatever it is, it is a result, and the other runs go on
        lines = traceback.format_exc().strip().splitlines()
        return {**row, "status": "failed", "reason": f"{type(error).__name__}: {error}", "trace": lines[-8:]}
    return {**row, "status": "ok"}


def judged(trained: Trained, experiment: Experiment) -> dict[str, Any]:
    """What a trained agent is worth: test scores, on their scale, and how soon training reached the threshold.

    Args:
        trained: The agent.
        experiment: What it learned.

    Returns:
        Columns of the row.
    """
    own, tokenizer = make_env(experiment, "test", num_envs=1), tokenizer_of(experiment)
    task = own.task
    # What random tokens score, and how long texts are, depends on what a token is.
    same_tokens = tokenizer is None or fingerprint(tokenizer) == fingerprint(own.tokenizer)
    own_scale = same_tokens and not set(experiment.env_kwargs) - {"task"}
    row: dict[str, Any] = {"tokens": trained.tokens, "config": trained.config, "curve": thinned(trained.curve)}
    for split in ("test", "shifted"):
        if split not in task.splits:
            continue
        scores, more = trained.scores(split, experiment.episodes)
        suffix = "" if split == "test" else "_shifted"
        reference = task.reference_scores(split) if own_scale else None
        row[f"score{suffix}"] = float(scores.mean())
        row[f"normalised{suffix}"] = None if reference is None else reference.normalised(float(scores.mean()))
        if split == "test":
            row |= more
            if reference is not None:
                row |= {"random": reference.random, "top": reference.top, "threshold": reference.threshold}
                row |= time_to(trained.curve, reference.threshold)
    if trained.curve:
        last = [score for tokens, _, score in trained.curve if tokens > 0.8 * trained.curve[-1][0]]
        row["late_deviation"] = float(np.std(last))
    return row


def time_to(curve: list[tuple[int, float, float]], threshold: float) -> dict[str, Any]:
    """When the mean training score of `AVERAGED` updates first reached a threshold.

    Args:
        curve: Tokens, CPU-seconds and score of each update.
        threshold: The score.

    Returns:
        `tokens_to_threshold` and `cpu_seconds_to_threshold`, None where it never did.

    Example:
        >>> time_to([(10, 1.0, 0.0), (20, 2.0, 1.0), (30, 3.0, 1.0), (40, 4.0, 1.0)], 0.9)
        {'tokens_to_threshold': 40, 'cpu_seconds_to_threshold': 4.0}
    """
    for end in range(AVERAGED, len(curve) + 1):
        part = curve[end - AVERAGED : end]
        if sum(score for _, _, score in part) / AVERAGED >= threshold:
            return {"tokens_to_threshold": part[-1][0], "cpu_seconds_to_threshold": part[-1][1]}
    return {"tokens_to_threshold": None, "cpu_seconds_to_threshold": None}


def thinned(curve: list[tuple[int, float, float]], points: int = 60) -> list[tuple[int, float, float]]:
    """A curve of at most so many points, each the mean score of its stretch, rounded: results are committed."""
    if not curve:
        return []
    parts = np.array_split(np.array(curve, dtype=np.float64), min(points, len(curve)))
    return [(int(part[-1, 0]), round(float(part[-1, 1]), 2), round(float(part[:, 2].mean()), 4)) for part in parts]
