"""Train agents on a suite, one JSONL row a run: which algorithm, on which task, at what cost.

    python -m benchmarks learn --suite smoke --agents reinforce,actor_critic,ppo
    python -m benchmarks learn --suite diagnostics --agents ppo,my_module:MyAlgorithm --seeds 5 --jobs 2
    python -m benchmarks report --results runs/learn-diagnostics.jsonl

Each run is a process of its own, with one thread. A run that fails is a row with its error, and is counted as such; one
that was done before is not repeated, so a stopped command goes on where it was; one that failed is tried again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.contestants import Trained, Unavailable, make_env, split_agents, train
from benchmarks.suite import SUITES, Experiment

AVERAGED = 3
"""Updates whose mean training score has to reach the threshold: one lucky batch does not solve a task."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train agents on a suite. Agents: see benchmarks/contestants.py."""

    suite: str = "smoke"
    """smoke, diagnostics, language or real."""
    agents: str = "reinforce,actor_critic,ppo"
    """Names, with commas between them; MODULE:NAME is yours."""
    seeds: int | None = None
    """Seeds 0, 1, 2, ...; None: as many as the suite wants."""
    envs: str | None = None
    """Only these experiments (Copy,Password), of the suite's."""
    payouts: str | None = None
    """Only these payouts (immediate,sparse)."""
    tokens: int | None = None
    """Another budget than the suite's. Rows say so, and are not mixed with others."""
    max_seconds: float | None = None
    """A run stops after this many seconds of training, whatever is left of its budget."""
    jobs: int = 1
    """Runs at a time."""
    output: Path | None = None
    """A .jsonl file. Default: runs/learn-SUITE.jsonl."""


@dataclass(frozen=True)
class Run:
    """One agent, experiment and seed.

    Attributes:
        suite: The suite's name.
        agent: As on the command line.
        experiment: What it learns.
        seed: The seed.
        max_seconds: See `Arguments`.
    """

    suite: str
    agent: str
    experiment: Experiment
    seed: int
    max_seconds: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        one = self.experiment
        return self.suite, self.agent, one.name, one.payout, one.tokens, self.seed

    @property
    def columns(self) -> dict[str, Any]:
        """What its row says of it."""
        one = self.experiment
        return {
            "suite": self.suite, "agent": self.agent, "env": one.name, "env_id": one.env, "payout": one.payout,
            "budget": one.tokens, "seed": self.seed, "model": one.model, "max_seconds": self.max_seconds,
        }  # fmt: skip


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the run that made a row."""
    return tuple(row[name] for name in ("suite", "agent", "env", "payout", "budget", "seed"))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The last row of each run in a results file; a line that was cut off in the middle is left out.

    Args:
        file: A .jsonl file, there or not.

    Returns:
        The rows, in the order in which their runs were first written.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[key_of(row)] = row
    return list(rows.values())


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
    task = make_env(experiment, "test", num_envs=1).task
    own_scale = not set(experiment.env_kwargs) - {"task"} and experiment.model == "tiny"
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


# Running them -----------------------------------------------------------------------------------------------------------


def wanted(arguments: Arguments) -> list[Run]:
    """The runs that a command asks for, seeds outermost: a stopped one has whole seeds.

    Raises:
        ValueError: If there is no such suite or experiment.
    """
    if arguments.suite not in SUITES:
        raise ValueError(f"Expected --suite to be one of {sorted(SUITES)}, got {arguments.suite!r}")
    suite = SUITES[arguments.suite]
    experiments = list(suite.experiments)
    for option, attribute in (("envs", "name"), ("payouts", "payout")):
        text = getattr(arguments, option)
        if text is not None:
            chosen = text.split(",")
            known = {getattr(one, attribute) for one in experiments}
            if not known.issuperset(chosen):
                raise ValueError(f"Expected --{option} from {sorted(known)}, got {text!r}")
            experiments = [one for one in experiments if getattr(one, attribute) in chosen]
    if arguments.tokens is not None:
        experiments = [replace(one, tokens=arguments.tokens) for one in experiments]
    seeds = suite.seeds if arguments.seeds is None else arguments.seeds
    return [
        Run(suite.name, agent, one, seed, arguments.max_seconds)
        for seed in range(seeds)
        for one in experiments
        for agent in split_agents(arguments.agents)
    ]


def _child(run: Run, answer: Connection) -> None:
    answer.send(measure(run))


class _Process:
    """A run in a process of its own, which is forked from one that has imported torch already."""

    def __init__(self, run: Run) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.contestants"])
        self.run = run
        self._answer, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(run, theirs))
        self.process.start()
        theirs.close()

    def row(self) -> dict[str, Any] | None:
        """Its row, or None while it goes on. A process that dies without one has failed."""
        if not self._answer.poll():
            return None
        try:
            found: dict[str, Any] = self._answer.recv()
        except EOFError:
            self.process.join()
            found = {**self.run.columns, "status": "failed", "reason": f"the process ended: {self.process.exitcode}"}
        self.process.join()
        return found


def line(row: dict[str, Any]) -> str:
    """What the progress says of a row."""
    where = f"{row['agent']:<24} {row['env']:<20} {row['payout']:<10} seed {row['seed']}"
    if row["status"] != "ok":
        return f"{where}  {row['status']}: {row['reason']}"
    scale = "" if row.get("normalised") is None else f" ({row['normalised']:+.2f} of top)"
    return f"{where}  score {row['score']:+.3f}{scale}  {row['tokens']:,} tokens  {row['cpu_seconds']:.0f} CPU s"


def main(argv: Sequence[str]) -> None:
    """Do the runs that are missing.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks learn")
    try:
        runs = wanted(arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    file = arguments.output or Path("runs") / f"learn-{arguments.suite}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {key_of(row) for row in read_rows(file) if row["status"] == "ok"}
    missing = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before; {file}", flush=True)
    total, finished, failed = len(missing), 0, 0
    running: list[_Process] = []
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported in the process that runs are forked from
    machine = f"{platform.system()} {platform.machine()}, torch {torch.__version__}"
    try:
        while missing or running:
            while missing and len(running) < arguments.jobs:
                running.append(_Process(missing.pop(0)))
            for process in list(running):
                row = process.row()
                if row is None:
                    continue
                running.remove(process)
                row["machine"] = machine
                with file.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(row) + "\n")
                finished += 1
                failed += row["status"] == "failed"
                print(f"[{finished}/{total}] {line(row)}", flush=True)
            time.sleep(0.2)
    except KeyboardInterrupt:
        for process in running:
            process.process.terminate()
        print(f"\nStopped. The same command goes on with the other {total - finished} runs.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{finished - failed} runs done, {failed} failed. Report: python -m benchmarks report --results {file}")
