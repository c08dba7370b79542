"""Does a run that is killed come to the numbers of one that is not? 20 kills with SIGKILL, at random moments.

Each run is killed once, at a random call of something that it does (a step of the rollout, a gradient step, a file of a
checkpoint pushed to the disk, an evaluation) or from outside after a random time, and then goes on with --resume. Logs
(but for the columns with seconds), samples of evaluations, and the tensors of the last checkpoint must be, bit for bit,
those of a run that nobody disturbed.

    python -m benchmarks faults
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
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
from benchmarks.records import RESULTS

MOMENTS = {
    "rollout": ("agents.policy.policy", "Policy.step", 104),
    "update": ("agents.training.update", "optimizer_step", 28),
    "checkpoint": ("agents.training.checkpoints", "sync_file", 136),
    "evaluation": ("agents.training.run_folder", "RunFolder.write_evaluation", 6),
}
"""What is called at a moment: its module, its name, and how often in `RUN`, which a kill is drawn from."""

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
"""A run of a few seconds, with everything in it that remembers something from one update to the next."""


def play(argv: Sequence[str], moment: str | None = None, call: int = 1, fault: Callable[[], Any] | None = None) -> None:
    """Run a command of `python -m agents` in this process, and have something happen at a moment.

    Args:
        argv: Its words.
        moment: One of `MOMENTS`; None: nothing happens.
        call: At which call, from 1.
        fault: What happens; None: SIGKILL to this process.
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
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        agents_main(argv)


def start(argv: Sequence[str], **fault: Any) -> Any:
    """`play` in a process of its own, which costs no import: it is a copy of one that has the packages already.

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
    """What a finished run has come to, without what depends on the clock.

    Args:
        run: Its folder.

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
    """Kill runs, and compare what becomes of them with a run that was left alone."""

    kills: int = 20
    """How many runs are killed, once each."""
    seed: int = 0
    """Of the moments."""
    output: Path = RESULTS / "faults"
    """Where to write .md and .json."""


def main(argv: Sequence[str]) -> None:
    """Kill, resume, compare, and write the table.

    Args:
        argv: The command's words.

    Raises:
        SystemExit: If a run came to other numbers.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks faults")
    draw = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        straight = start([*RUN, "--output", f"{folder}/straight"])
        straight.join()
        seconds = time.perf_counter() - began
        expected = outcome(Path(folder, "straight"))
        for number in range(arguments.kills):
            moment = [*MOMENTS, "any"][number % (len(MOMENTS) + 1)]
            run = Path(folder, str(number))
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
            rows.append(
                {
                    "moment": moment,
                    "where": where,
                    "killed": killed,
                    "checkpoint": left[-1].timesteps if left else None,
                    "identical": resumed.exitcode == 0 and outcome(run) == expected,
                }
            )
            print(rows[-1], flush=True)
    command = f"python -m benchmarks faults {' '.join(argv)}".strip()
    result = {"command": command, "updates": len(expected["metrics"]), "seconds": seconds, "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    arguments.output.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(arguments.output.with_suffix(".md").read_text(encoding="utf-8"))
    if not all(row["identical"] for row in rows):
        raise SystemExit(1)


def table(result: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        result: What `main` writes as JSON.

    Returns:
        The text of a Markdown file.
    """
    rows = result["rows"]
    same, killed = (sum(row[name] for row in rows) for name in ("identical", "killed"))
    lines = [
        "# Runs that are killed",
        "",
        f"    {result['command']}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}. PPO, {result['updates']} updates on",
        "TextGen/Copy-v0, with a normalised reward, a schedule, a bonus and a KL controller that remember. Of",
        f"{len(rows)} runs, {killed} were killed with SIGKILL before their end, and {same} came to the numbers of the",
        "run that was left alone, bit for bit, after `--resume`.",
        "",
        "| moment | where | killed | tokens of the last checkpoint | identical |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        found = "none yet" if row["checkpoint"] is None else row["checkpoint"]
        said = ("yes" if row["killed"] else "no: it was over"), "yes" if row["identical"] else "NO"
        lines.append(f"| {row['moment']} | {row['where']} | {said[0]} | {found} | {said[1]} |")
    return "\n".join(lines) + "\n"
