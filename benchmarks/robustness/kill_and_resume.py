"""Kills runs at random moments, resumes them, and compares them with a run that was left alone.

Each run is killed once, at a random call of something that it does (a step of the rollout, a gradient step, a file of a
checkpoint pushed to the disk, an evaluation) or from outside after a random time, and then continues with --resume. Its
logs (except the columns with seconds), the samples of its evaluations, and the tensors of its last checkpoint must
equal, bit for bit, those of a run that was not disturbed.

    python -m benchmarks faults
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro

from agents.__main__ import main as agents_main
from agents.training import checkpoints
from benchmarks.records import RESULTS, command_line, heading, machine, table, write

MOMENTS = {
    "rollout": ("agents.policy.policy", "Policy.step", 104),
    "update": ("agents.training.update", "optimizer_step", 28),
    "checkpoint": ("agents.training.checkpoints", "sync_file", 136),
    "evaluation": ("agents.training.run_folder", "RunFolder.write_evaluation", 6),
}
"""The function that is called at a moment: its module, its name, and its number of calls in `RUN`, from which a kill is
drawn."""

RUN = [
    "train", "--algorithm", "ppo", "--env", "TextGen/Copy-v0", "--device", "cpu", "--seed", "7",
    "--model", '{"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, '
    '"num_attention_heads": 2}',
    "--num-envs", "8", "--episodes-per-update", "8", "--minibatch-size", "4", "--total-timesteps", "300",
    "--reward", '{"sum": [{"normalised": "correct_prefix"}, {"length": {"target": 4, "weight": {"linear": [0, 1]}}}]}',
    "--bonuses", '{"novelty": 0.1}', "--kl-coef", "0.1", "--kl-target", "0.1", "--entropy-coef", "0.01",
    "--learning-rate-schedule", "linear", "--warmup", "0.2", "--eval-episodes", "8", "--eval-during", "2",
    "--checkpoint-seconds", "0",
]  # fmt: skip
"""A run of a few seconds with everything in it that carries something from one update to the next."""


def play(argv: Sequence[str], moment: str | None = None, call: int = 1, fault: Callable[[], Any] | None = None) -> None:
    """Runs a command of `python -m agents` in this process, with a fault at one moment.

    Args:
        argv: The words of the command.
        moment: One of `MOMENTS`; None: no fault.
        call: The call at which the fault happens, from 1.
        fault: The fault; None: SIGKILL to this process.
    """
    torch.set_num_threads(1)
    if moment is not None:
        module, name, _ = MOMENTS[moment]
        owner: Any = import_module(module)
        *path, attribute = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        original, calls = getattr(owner, attribute), [0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                if fault is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    fault()
            return original(*args, **kwargs)

        setattr(owner, attribute, counted)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        agents_main(argv)


def start(argv: Sequence[str], **fault: Any) -> Any:
    """Starts `play` in a process of its own, forked from one that has imported the packages already.

    Args:
        argv: The words of a command.
        **fault: Arguments of `play`.

    Returns:
        The process, started.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.robustness.kill_and_resume"])
    process = context.Process(target=play, args=(list(argv),), kwargs=fault)
    process.start()
    return process


def outcome(run: Path) -> dict[str, Any]:
    """Reads the outcome of a finished run, except what depends on the clock.

    Args:
        run: The run's folder.

    Returns:
        Rows of the logs, digests of samples and of the tensors in the last checkpoint.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = checkpoints.find(run)
    files = json.loads((last.path / checkpoints.MANIFEST).read_text())["files"]
    return {
        "metrics": [{name: value for name, value in row.items() if "second" not in name} for row in rows],
        "evaluations": (run / "evaluations.jsonl").read_text(),
        "samples": {path.name: path.read_text() for path in sorted((run / "samples").iterdir())},
        "tensors": {name: digest for name, digest in files.items() if name.endswith(".safetensors")},
        "best": checkpoints.find(run, "best").timesteps,
    }


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Kill runs, resume them, and compare them with a run that was left alone."""

    kills: int = 20
    """Runs to kill, once each."""
    seed: int = 0
    """Seed of the moments."""
    quick: bool = False
    """Two kills, to see that all of it works."""
    output: Path = RESULTS / "faults"
    """Name of the results: a .json and a .md file."""


def kill_once(
    number: int, folder: Path, draw: random.Random, seconds: float, expected: dict[str, Any]
) -> dict[str, Any]:
    """Kills a run at a random moment, resumes it, and compares its outcome.

    Args:
        number: The run's number, which also chooses the kind of moment.
        folder: The folder in which the run's folder is made.
        draw: Draws the moment.
        seconds: Duration of an undisturbed run.
        expected: The outcome of an undisturbed run.

    Returns:
        The row of the run.
    """
    moment = [*MOMENTS, "any"][number % (len(MOMENTS) + 1)]
    run = folder / str(number)
    command = [*RUN, "--output", str(run)]
    if moment == "any":
        delay = draw.uniform(0.2, 0.9) * seconds
        process = start(command)
        process.join(delay)
        process.kill()
        where = f"after {delay:.2f} s"
    else:
        call = draw.randint(1, MOMENTS[moment][2])
        process = start(command, moment=moment, call=call)
        where = f"call {call} of {MOMENTS[moment][1]}"
    process.join()
    killed = process.exitcode == -signal.SIGKILL
    left = checkpoints.listed(run)
    resumed = start(["train", "--resume", str(run)] if (run / "config.json").exists() else command)
    resumed.join()
    return {
        "moment": moment,
        "where": where,
        "killed": killed,
        "checkpoint": left[-1].timesteps if left else None,
        "identical": resumed.exitcode == 0 and outcome(run) == expected,
    }


def main(argv: Sequence[str]) -> None:
    """Kills, resumes, compares, and writes the table.

    Args:
        argv: The options of the command.

    Raises:
        SystemExit: If the outcome of a run differs.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks faults")
    draw = random.Random(arguments.seed)
    about, rows = machine("torch", "transformers"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        undisturbed = start([*RUN, "--output", str(folder / "undisturbed")])
        undisturbed.join()
        seconds = time.perf_counter() - began
        expected = outcome(folder / "undisturbed")
        for number in range(2 if arguments.quick else arguments.kills):
            rows.append(kill_once(number, folder, draw, seconds, expected))
            print(rows[-1], flush=True)
    results = {
        "command": command_line("faults", argv),
        "machine": about,
        "updates": len(expected["metrics"]),
        "seconds": seconds,
        "rows": rows,
    }
    write(arguments.output, results, page(results))
    if not all(row["identical"] for row in rows):
        raise SystemExit(1)


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    rows = results["rows"]
    same, killed = (sum(row[name] for row in rows) for name in ("identical", "killed"))
    note = (
        f"One thread. PPO, {results['updates']} updates on TextGen/Copy-v0, with a normalised reward, a schedule, a "
        "bonus and a KL controller that carry something from one update to the next. Of "
        f"{len(rows)} runs, {killed} were killed with SIGKILL before their end, and {same} came to the numbers of the "
        "run that was left alone, bit for bit, after `--resume`."
    )
    cells = [
        [
            row["moment"],
            row["where"],
            "yes" if row["killed"] else "no: it was over",
            "none yet" if row["checkpoint"] is None else row["checkpoint"],
            "yes" if row["identical"] else "NO",
        ]
        for row in rows
    ]
    header = ["moment", "where", "killed", "tokens of the last checkpoint", "identical"]
    return "\n".join([*heading("Runs that are killed", results, note), *table(header, cells)]) + "\n"
