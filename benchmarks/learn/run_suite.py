"""Trains agents on a suite, one JSONL row a run: which algorithm, on which task, at what cost.

    python -m benchmarks learn --suite smoke --agents reinforce,actor_critic,ppo
    python -m benchmarks learn --suite diagnostics --agents ppo,my_module:MyAlgorithm --seeds 5 --jobs 2
    python -m benchmarks report --results runs/learn-diagnostics.jsonl

Each run is a process of its own, with one thread. A run that fails is a row with its error, and is counted as such. A
run that was done before is not repeated, so that a stopped command continues where it was; one that failed is tried
again.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import tyro

import textenvs
from benchmarks.learn.suite import SUITES, Run
from benchmarks.records import all_rows, append_rows, command_line


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train agents on a suite. The agents are listed in benchmarks/learn/contestants.py."""

    suite: str = "smoke"
    """A suite of benchmarks/learn/suite.py: smoke, diagnostics, language, real, fresh, sentiment, policies, warm_start
    or sb3."""
    agents: str | None = None
    """Names, with commas between them; MODULE:NAME is yours. None: those of the suite."""
    seeds: int | None = None
    """Seeds 0, 1, 2, ...; None: as many as the suite needs."""
    envs: str | None = None
    """Only these experiments of the suite (Copy,Password)."""
    payouts: str | None = None
    """Only these payouts (immediate,sparse)."""
    model: str | None = None
    """Another start model than the suite's: the folder of one, such as `python -m agents sft` leaves."""
    tokens: int | None = None
    """Another budget than the suite's. Rows say so, and are not mixed with others."""
    max_seconds: float | None = None
    """A run stops after this many seconds of training, whatever is left of its budget. Its row is not mixed with
    others either."""
    jobs: int = 1
    """Runs at a time."""
    output: Path | None = None
    """A .jsonl file. Default: runs/learn-SUITE.jsonl."""


_KEY = ("suite", "agent", "env", "payout", "budget", "seed", "model", "max_seconds")


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the key of the run that made a row: its `Run.key`."""
    return tuple(row.get(name) for name in _KEY)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Reads the last row of each run in a results file.

    Args:
        file: A .jsonl file, which need not exist.

    Returns:
        The rows, in the order in which their runs were first written.
    """
    return list({key_of(row): row for row in all_rows(file)}.values())


def split_agents(text: str) -> list[str]:
    """Splits the agents of a command line at commas, except inside brackets.

    Example:
        >>> split_agents("ppo,reinforce[baseline=none],my_module:Mine")
        ['ppo', 'reinforce[baseline=none]', 'my_module:Mine']
    """
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def wanted(arguments: Arguments) -> list[Run]:
    """Lists the runs that a command asks for, seeds outermost, so that a stopped one has whole seeds.

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
            known = {getattr(experiment, attribute) for experiment in experiments}
            if not known.issuperset(chosen):
                raise ValueError(f"Expected --{option} from {sorted(known)}, got {text!r}")
            experiments = [experiment for experiment in experiments if getattr(experiment, attribute) in chosen]
    if arguments.tokens is not None:
        experiments = [replace(experiment, tokens=arguments.tokens) for experiment in experiments]
    if arguments.model is not None:
        experiments = [replace(experiment, model=arguments.model) for experiment in experiments]
    seeds = suite.seeds if arguments.seeds is None else arguments.seeds
    agents = suite.agents if arguments.agents is None else split_agents(arguments.agents)
    return [
        Run(suite.name, agent, experiment, seed, arguments.max_seconds)
        for seed in range(seeds)
        for experiment in experiments
        for agent in agents
    ]


def _child(run: Run, answer: Connection) -> None:
    from benchmarks.learn.one_run import measure  # the process that this was forked from has imported it

    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer.send(measure(run))


def _end_with_parent() -> None:
    """Ends this process when its parent has ended, however: nobody is left to write its row."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class RunProcess:
    """A run in a process of its own, which is forked from one that has imported torch already.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.learn.one_run"])
        self.run = run
        self._answer, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(run, theirs))
        self.process.start()
        theirs.close()

    def row(self) -> dict[str, Any] | None:
        """Returns the row of the run, or None while it is under way. A process that dies without one has failed."""
        if not self._answer.poll():
            return None
        try:
            row: dict[str, Any] = self._answer.recv()
        except EOFError:
            self.process.join()
            row = {**self.run.columns, "status": "failed", "reason": f"the process ended: {self.process.exitcode}"}
        self.process.join()
        return row


@contextmanager
def _stoppable() -> Iterator[None]:
    """Makes SIGTERM, and a closed terminal, stop the command as Ctrl-C does. Ignored signals (nohup) stay ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    taken = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def line(row: dict[str, Any]) -> str:
    """Returns the line that progress shows for a row."""
    where = f"{row['agent']:<24} {row['env']:<20} {row['payout']:<10} seed {row['seed']}"
    if row["status"] != "ok":
        return f"{where}  {row['status']}: {row['reason']}"
    scale = "" if row.get("normalised") is None else f" ({row['normalised']:+.2f} of top)"
    return f"{where}  score {row['score']:+.3f}{scale}  {row['tokens']:,} tokens  {row['cpu_seconds']:.0f} CPU s"


def main(argv: Sequence[str], start: Callable[[Run], Any] = RunProcess) -> None:
    """Makes the runs that are missing.

    Args:
        argv: The options of the command.
        start: Starts a run, whose `row` is None until it has ended.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks learn")
    try:
        runs = wanted(arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    file = arguments.output or Path("runs") / f"learn-{arguments.suite}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    from agents.locks import FileLock  # imports torch, for which --help should not wait

    os.environ["OMP_NUM_THREADS"] = "1"  # of the process that runs are forked from
    expected = f"results that no other command adds to, got {str(file)!r}"
    try:
        lock = FileLock(file.with_suffix(".lock"), expected, "choose another file with --output")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    try:
        with _stoppable():
            _make(runs, file, arguments.jobs, command_line("learn", argv), start)
    finally:
        lock.release()


def _make(runs: list[Run], file: Path, jobs: int, command: str, start: Callable[[Run], Any]) -> None:
    """Makes the runs that a file does not have."""
    done = {key_of(row) for row in read_rows(file) if row["status"] == "ok"}
    missing = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before; {file}", flush=True)
    total, finished, failed = len(missing), 0, 0
    running: list[Any] = []
    origin = {
        "command": command,
        "machine": f"{platform.system()} {platform.machine()}, torch {version('torch')}",
        "textenvs": textenvs.__version__,
    }
    try:
        while missing or running:
            while missing and len(running) < jobs:
                running.append(start(missing.pop(0)))
            for process in list(running):
                row = process.row()
                if row is None:
                    continue
                running.remove(process)
                append_rows(file, {**row, **origin})
                finished += 1
                failed += row["status"] == "failed"
                print(f"[{finished}/{total}] {line(row)}", flush=True)
            time.sleep(0.2)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command continues with the other {total - finished} runs.", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for process in running:
            process.process.terminate()
    print(f"{finished - failed} runs done, {failed} failed. Report: python -m benchmarks report --results {file}")
