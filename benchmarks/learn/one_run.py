"""One run: an agent learns an experiment and is tested. Its row says how that went."""

from __future__ import annotations

import time
import traceback
from typing import Any

import numpy as np
import torch

from benchmarks.learn.contestants import train
from benchmarks.learn.playing import Curve, Trained, Unavailable, make_env, tokenizer_of
from benchmarks.learn.suite import Experiment, Run
from textenvs.tokenizer import fingerprint

AVERAGED = 3
"""Updates whose mean training score has to reach the threshold: one lucky batch does not solve a task."""


def measure(run: Run) -> dict[str, Any]:
    """Trains and tests, with one thread.

    Args:
        run: The run.

    Returns:
        Its row. `status` is "ok", "skipped" (with the reason) or "failed" (with the error).
    """
    torch.set_num_threads(1)
    row = run.columns
    started, cpu = time.perf_counter(), time.process_time()
    try:
        reason = run.experiment.missing()
        if reason is not None:
            raise Unavailable(reason)
        trained = train(run.agent, run.experiment, run.seed, run.max_seconds)
        row |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        row |= test_columns(trained, run.experiment)
    except Unavailable as reason:
        return {**row, "status": "skipped", "reason": str(reason)}
    except Exception as error:  # an error of any kind is a result, and the other runs continue
        lines = traceback.format_exc().strip().splitlines()
        return {**row, "status": "failed", "reason": f"{type(error).__name__}: {error}", "trace": lines[-8:]}
    return {**row, "status": "ok"}


def test_columns(trained: Trained, experiment: Experiment) -> dict[str, Any]:
    """Tests a trained agent: its scores, also on the task's scale, and how soon training reached the threshold.

    Args:
        trained: The agent.
        experiment: The experiment that it learned.

    Returns:
        Columns of the row.
    """
    envs, tokenizer = make_env(experiment, "test", num_envs=1), tokenizer_of(experiment)
    task = envs.task
    # The score of random tokens, and the length of texts, depend on the tokenizer.
    same_tokens = tokenizer is None or fingerprint(tokenizer) == fingerprint(envs.tokenizer)
    # A mask keeps the task's scale, whose 0 is random tokens of the whole vocabulary.
    has_scale = same_tokens and not set(experiment.env_kwargs) - {"task", "action_mask"}
    row: dict[str, Any] = {"tokens": trained.tokens, "config": trained.config, "curve": thinned(trained.curve)}
    for split in ("test", "shifted"):
        if split not in task.splits:
            continue
        scores, columns = trained.scores(split, experiment.episodes)
        suffix = "" if split == "test" else "_shifted"
        reference = task.reference_scores(split) if has_scale else None
        row[f"score{suffix}"] = float(scores.mean())
        row[f"normalised{suffix}"] = None if reference is None else reference.normalised(float(scores.mean()))
        if split == "test":
            row |= columns
            if reference is not None:
                row |= {"random": reference.random, "top": reference.top, "threshold": reference.threshold}
                row |= time_to(trained.curve, reference.threshold)
    if trained.curve:
        last = [score for tokens, _, score in trained.curve if tokens > 0.8 * trained.curve[-1][0]]
        row["late_deviation"] = float(np.std(last))
    return row


def time_to(curve: Curve, threshold: float) -> dict[str, Any]:
    """Finds when the mean training score of `AVERAGED` updates first reached a threshold.

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


def thinned(curve: Curve, points: int = 60) -> Curve:
    """Reduces a curve to so many points at most, each the mean score of its stretch, rounded: results are committed."""
    if not curve:
        return []
    parts = np.array_split(np.array(curve, dtype=np.float64), min(points, len(curve)))
    return [(int(part[-1, 0]), round(float(part[-1, 1]), 2), round(float(part[:, 2].mean()), 4)) for part in parts]
