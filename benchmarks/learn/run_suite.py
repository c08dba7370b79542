"""Train agents on a suite, one JSONL row a run: which algorithm, on which task, at what cost.

    python -m benchmarks learn --suite smoke --agents reinforce,actor_critic,ppo
    python -m benchmarks learn --suite diagnostics --agents ppo,my_module:MyAlgorithm --seeds 5 --jobs 2
    python -m benchmarks report --results runs/learn-diagnostics.jsonl

Each run is a process of its own, with one thread. A run that fails is a row with its error, and is counted as such; one
that was done before is not repeated, so a stopped command goes on where it was; one that failed is tried again.
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
from collections.abc import Iterator, Sequence
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
from benchmarks.records import all_rows, append_rows


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train agents on a suite. Agents: see benchmarks/learn/contestants.py."""

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
    model: str | None = None
    """Another start model than the suite's: the folder of one, such as `python -m agents sft` leaves."""
    tokens: int | None = None
    """Another budget than the suite's. Rows say so, and are not mixed with others."""
    max_seconds: float | None = None
    """A run stops after this many seconds of training, whatever is left of its budget. Not mixed with others either."""
    jobs: int = 1
    """Runs at a time."""
    output: Path | None = None
    """A .jsonl file. Default: runs/learn-SUITE.jsonl."""


_KEY = ("suite", "agent", "env", "payout", "budget", "seed", "model", "max_seconds")


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the run that made a row: its `Run.key`."""
    return tuple(row.get(name) for name in _KEY)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The last row of each run in a results file.

    Args:
        file: A .jsonl file, there or not.

    Returns:
        The rows, in the order in which their runs were first written.
    """
    return list({key_of(row): row for row in all_rows(file)}.values())


# Running them ---------------------------------------------------------------------------------------------------------


def split_agents(text: str) -> list[str]:
    """The agents of a command line: separated by commas, but for those inside brackets.

    Example:
        >>> split_agents("ppo,reinforce[baseline=none],my_module:Mine")
        ['ppo', 'reinforce[baseline=none]', 'my_module:Mine']
    """
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


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
    if arguments.model is not None:
        experiments = [replace(one, model=arguments.model) for one in experiments]
    seeds = suite.seeds if arguments.seeds is None else arguments.seeds
    return [
        Run(suite.name, agent, one, seed, arguments.max_seconds)
        for seed in range(seeds)
        for one in experiments
        for agent in split_agents(arguments.agents)
    ]


def _child(run: Run, answer: Connection) -> None:
    from benchmarks.learn.one_run import measure  # has been imported where this was forked from

    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer.send(measure(run))


def _end_with_parent() -> None:
    """End this process when its parent has ended, however: nobody is left to write its row down."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Process:
    """A run in a process of its own, which is forked from one that has imported torch already."""

    def __init__(self, run: Run) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.learn.one_run"])
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


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, and a terminal that closes, stop the command as Ctrl-C does; not where they are ignored (nohup)."""

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
    from agents.files import FileLock  # brings torch, which whoever asks for --help need not wait for

    os.environ["OMP_NUM_THREADS"] = "1"  # of the process that runs are forked from
    expected = f"results that no other command adds to, got {str(file)!r}"
    try:
        lock = FileLock(file.with_suffix(".lock"), expected, "choose another file with --output")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    try:
        with _stoppable():
            _do(runs, file, arguments.jobs)
    finally:
        lock.release()


def _do(runs: list[Run], file: Path, jobs: int) -> None:
    """Do the runs that a file does not have."""
    done = {key_of(row) for row in read_rows(file) if row["status"] == "ok"}
    missing = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before; {file}", flush=True)
    total, finished, failed = len(missing), 0, 0
    running: list[_Process] = []
    where = {
        "machine": f"{platform.system()} {platform.machine()}, torch {version('torch')}",
        "textenvs": textenvs.__version__,
    }
    try:
        while missing or running:
            while missing and len(running) < jobs:
                running.append(_Process(missing.pop(0)))
            for process in list(running):
                row = process.row()
                if row is None:
                    continue
                running.remove(process)
                append_rows(file, {**row, **where})
                finished += 1
                failed += row["status"] == "failed"
                print(f"[{finished}/{total}] {line(row)}", flush=True)
            time.sleep(0.2)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on with the other {total - finished} runs.", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for process in running:
            process.process.terminate()
    print(f"{finished - failed} runs done, {failed} failed. Report: python -m benchmarks report --results {file}")
