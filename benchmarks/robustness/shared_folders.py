"""Strays, edits and races: what others do to a run's folder, and what the run makes of it.

A run is resumed in a folder into which somebody has put something, or from which somebody has taken something; two
commands start in one folder at once; processes and threads take a lock in turns, and are killed while they do. A run
that goes on must come to the numbers of one that was left alone, bit for bit; what is not the run's own must be as it
was; what is lost, or has no effect, must be said.

    python -m benchmarks folders
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro

from agents.__main__ import main as agents_main
from agents.locks import FolderLock
from agents.training import checkpoints
from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from benchmarks.robustness.kill_and_resume import RUN, outcome, start

_SHORT = [*RUN, "--total-timesteps", "240", "--eval-during", "0"]
"""A run of six updates, with a checkpoint after each. It is killed in the fourth before it is resumed."""


def _resume(run: Path) -> tuple[int, str]:
    """Resumes a run up to its end in this process. Returns its status and what it says."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("agents").addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            agents_main(["train", "--resume", str(run)])
    except SystemExit as stopped:
        return int(stopped.code or 0), " ".join(said.getvalue().split())
    finally:
        logging.getLogger("agents").removeHandler(handler)
    return 0, " ".join(said.getvalue().split())


# Strays ---------------------------------------------------------------------------------------------------------------


def _file(name: str, folder: Path, number: int) -> list[Path]:
    path = folder / name.format(f"{number:05d}")
    path.write_text("precious")
    return [path]


def _folder(name: str, folder: Path, number: int) -> list[Path]:
    path = folder / name.format(f"{number:05d}")
    path.mkdir()
    (path / "precious").write_text("precious")
    return [path, path / "precious"]


def _link(name: str, folder: Path, number: int) -> list[Path]:
    path, outside = folder / name.format(f"{number:05d}"), folder.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    path.symlink_to(outside)
    return [path, outside, outside / "precious"]


def _dangling(folder: Path, number: int) -> list[Path]:
    path = folder / f"{number:05d}"
    path.symlink_to(folder / "nowhere")
    return [path]


def _pipe(folder: Path, number: int) -> list[Path]:
    path = folder / f".{number:05d}.pipe"
    os.mkfifo(path)
    return [path]


STRAYS: dict[str, Callable[[Path, int], list[Path]]] = {
    "`.DS_Store`": partial(_file, ".DS_Store"),
    "`.nfs0001`": partial(_file, ".nfs0001"),
    "`.00007.swp`": partial(_file, ".{}.swp"),
    "`notes.txt`": partial(_file, "notes.txt"),
    "a file with the next number": partial(_file, "{}"),
    "a file `.new`": partial(_file, ".new"),
    "a file `.trial`": partial(_file, ".trial"),
    "a folder with the next number": partial(_folder, "{}"),
    "Jupyter's `.ipynb_checkpoints`": partial(_folder, ".ipynb_checkpoints"),
    "a link with the next number": partial(_link, "{}"),
    "a link `.new`": partial(_link, ".new"),
    "a link to nothing": _dangling,
    "a pipe": _pipe,
}
"""What lies among checkpoints, to what puts it there and returns the paths that must stay."""


def stray(base: Path, folder: Path, put: Callable[[Path, int], list[Path]], expected: dict[str, Any]) -> dict[str, Any]:
    """Resumes a run with a stray among its checkpoints.

    Args:
        base: A run that was killed; left as it is.
        folder: A folder that does not exist, for a copy of the run.
        put: One of `STRAYS`.
        expected: The outcome of the run without the stray.

    Returns:
        Whether it went on to the same numbers, left the stray alone, and said so.
    """
    run = Path(shutil.copytree(base, folder, symlinks=True))
    paths = put(run / checkpoints.FOLDER, checkpoints.numbers(run)[-1] + 1)
    before = {path: path.lstat().st_ino for path in paths}
    status, said = _resume(run)
    left = all(os.path.lexists(path) and path.lstat().st_ino == inode for path, inode in before.items())
    return {"identical": status == 0 and outcome(run) == expected, "left": left, "said": "Left alone in" in said}


# Edits ----------------------------------------------------------------------------------------------------------------


def _option(name: str, value: Any, run: Path) -> None:
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))


def _lines(name: str, change: Callable[[list[bytes]], list[bytes]], run: Path) -> None:
    file = run / name
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def _remove(name: str, run: Path) -> None:
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _damage_last_checkpoint(run: Path) -> None:
    with (checkpoints.find(run).path / "optimizer.safetensors").open("ab") as file:
        file.write(b"\0")


_SAMPLES = "samples/test-000000000000.jsonl"

EDITS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "`gamma` edited in `config.json`": (partial(_option, "gamma", 0.5), "refused", "the run's own gamma"),
    "`env` edited in `config.json`": (partial(_option, "env", "TextGen/Sort-v0"), "refused", "the run's own env"),
    "`eval_episodes` edited in `config.json`": (
        partial(_option, "eval_episodes", 9),
        "refused",
        "the run's own eval_episodes",
    ),
    "an unknown option in `config.json`": (partial(_option, "gama", 0.5), "refused", "gama"),
    "`config.json` cut in the middle": (partial(_lines, "config.json", lambda lines: lines[:3]), "refused", "JSON"),
    "`keep_checkpoints` edited in `config.json`": (partial(_option, "keep_checkpoints", 3), "goes on", ""),
    "`run.lock` deleted": (partial(_remove, "run.lock"), "goes on", ""),
    "`tensorboard/` deleted": (partial(_remove, "tensorboard"), "goes on", ""),
    "half a row at the end of `metrics.jsonl`": (
        partial(_lines, "metrics.jsonl", lambda lines: [*lines, b'{"timesteps": 1']),
        "goes on",
        "",
    ),
    "the last checkpoint damaged": (_damage_last_checkpoint, "goes on", "Passing over a checkpoint"),
    "a row of `metrics.jsonl` deleted": (
        partial(_lines, "metrics.jsonl", lambda lines: lines[1:]),
        "goes on, less what is lost",
        "rows that it had",
    ),
    "a row of `metrics.jsonl` overwritten": (
        partial(_lines, "metrics.jsonl", lambda lines: [lines[0], b"\0" * 20 + b"\n", *lines[2:]]),
        "goes on, less what is lost",
        "is damaged in line 2",
    ),
    "`metrics.jsonl` deleted": (
        partial(_remove, "metrics.jsonl"),
        "goes on, less what is lost",
        "has 0 of the",
    ),
    "`evaluations.jsonl` deleted": (
        partial(_remove, "evaluations.jsonl"),
        "goes on, less what is lost",
        "has 0 of the",
    ),
    "`samples/` deleted": (partial(_remove, "samples"), "goes on, less what is lost", "are gone"),
    "an episode of `samples/` deleted": (
        partial(_lines, _SAMPLES, lambda lines: lines[1:]),
        "goes on, less what is lost",
        "but it is damaged",
    ),
}
"""A change by hand, to what makes it, what is right, and what has to be said."""


def edit(base: Path, folder: Path, name: str, expected: dict[str, Any]) -> dict[str, Any]:
    """Resumes a run in whose folder something was changed.

    Args:
        base: A run that was killed; left as it is.
        folder: A folder that does not exist, for a copy of the run.
        name: One of `EDITS`.
        expected: The outcome of the run without the edit.

    Returns:
        Whether what is right happened, and what had to be said was.
    """
    change, right, message = EDITS[name]
    run = Path(shutil.copytree(base, folder))
    change(run)
    before = _contents(run)
    status, said = _resume(run)
    if right == "refused":
        happened = status == 2 and _contents(run) == before
    elif status:
        happened = False
    elif right == "goes on":
        happened = outcome(run) == expected
    else:
        found = {name: digest for name, digest in _last_files(run).items() if name.endswith(".safetensors")}
        happened = found == expected["tensors"] and (run / "summary.json").is_file()
    has_warned = "Left alone" in said or "rows that it had" in said or "is damaged" in said
    return {"happened": happened, "said": message in said if message else not has_warned}


def _last_files(run: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((checkpoints.find(run).path / checkpoints.MANIFEST).read_text())["files"]
    return files


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}


# Races ----------------------------------------------------------------------------------------------------------------


def two_starts(folder: Path, expected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Starts two runs with different seeds in one folder at once.

    Args:
        folder: A folder that does not exist.
        expected: The outcome of each run alone.

    Returns:
        Whether one was refused, and the other's outcome is its own.
    """
    run = folder / "run"
    commands = [[*_SHORT, "--seed", str(seed), "--output", str(run)] for seed in (7, 8)]
    statuses = _at_once(commands)
    winner = json.loads((run / "config.json").read_text())["seed"] - 7
    right = statuses[winner] == 0 and statuses[1 - winner] == 2 and outcome(run) == expected[winner]
    return {"right": right}


def two_resumes(base: Path, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Resumes a run twice at once.

    Args:
        base: A run that was killed; left as it is.
        folder: A folder that does not exist, for a copy of the run.
        expected: Its outcome.

    Returns:
        Whether one was refused, or came when the other was done, and the outcome is that of one.
    """
    run = Path(shutil.copytree(base, folder))
    statuses = _at_once([["train", "--resume", str(run)]] * 2)
    return {"right": sorted(statuses) in ([0, 2], [0, 0]) and outcome(run) == expected}


def _at_once(commands: Sequence[Sequence[str]]) -> list[int]:
    processes = [start(command) for command in commands]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def hammer(folder: Path, seconds: float, threads: int, counts: Any = None) -> tuple[int, int, int]:
    """Takes and releases a folder's lock as often as possible, in several threads.

    Args:
        folder: The folder.
        seconds: For how long.
        threads: Number of threads.
        counts: A queue that gets what is returned; None: there is none.

    Returns:
        How often it was taken, how often refused, and how often somebody else was in there at the same time.
    """
    until, totals, guard = time.monotonic() + seconds, [0, 0, 0], threading.Lock()
    inside = folder / "inside"

    def work() -> None:
        own = [0, 0, 0]
        while time.monotonic() < until:
            try:
                with FolderLock(folder):
                    own[0] += 1
                    try:
                        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    except FileExistsError:
                        own[2] += 1
                    inside.unlink(missing_ok=True)
            except ValueError:
                own[1] += 1
        with guard:
            for place, count in enumerate(own):
                totals[place] += count

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if counts is not None:
        counts.put(tuple(totals))
    return totals[0], totals[1], totals[2]


def two_processes_of_two_threads(folder: Path, seconds: float) -> dict[str, Any]:
    """Lets two processes of two threads each take one lock for some seconds."""
    folder.mkdir()
    context = _context()
    counts = context.Queue()
    processes = [context.Process(target=hammer, args=(folder, seconds, 2, counts)) for _ in range(2)]
    for process in processes:
        process.start()
    rows = [counts.get() for _ in processes]
    for process in processes:
        process.join()
    counts.close()
    counts.join_thread()
    taken, refused, together = map(sum, zip(*rows, strict=True))
    return {"taken": taken, "refused": refused, "together": together, "right": taken > 0 and together == 0}


def kills(folder: Path, number: int, draw: random.Random) -> dict[str, Any]:
    """Kills processes that take and release a lock, at random moments, and takes it at once.

    Args:
        folder: A folder that does not exist.
        number: Number of kills.
        draw: Draws the moments.

    Returns:
        How often the lock was free, and whether it always was.
    """
    folder.mkdir()
    free = 0
    for _ in range(number):
        (folder / "inside").unlink(missing_ok=True)
        process = _context().Process(target=hammer, args=(folder, 60.0, 1))
        process.start()
        while not (folder / "inside").exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.01))
        process.kill()
        process.join()
        with contextlib.suppress(ValueError), FolderLock(folder):
            free += 1
    return {"free": free, "right": free == number}


def _context() -> Any:
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.robustness.kill_and_resume", "benchmarks.robustness.shared_folders"])
    return context


# The command ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Put strays into a run's folder, edit it, and let processes and threads race for it."""

    tries: int = 10
    """Starts of two runs in one folder, and as many double resumes."""
    seconds: float = 10.0
    """Seconds in which processes and threads take one lock in turns."""
    kills: int = 100
    """Kills of processes that take a lock."""
    seed: int = 0
    """Seed of the moments."""
    quick: bool = False
    """A few of each, to see that all of it works."""
    output: Path = RESULTS / "folders"
    """Name of the results: a .json and a .md file."""


def main(argv: Sequence[str]) -> None:
    """Makes the strays, the edits and the races, and writes the tables.

    Args:
        argv: The options of the command.

    Raises:
        SystemExit: If something was not right.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks folders")
    quick = arguments.quick
    tries, seconds, count = (1, 0.5, 5) if quick else (arguments.tries, arguments.seconds, arguments.kills)
    about = machine("torch", "transformers")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base, other, whole = root / "base", root / "other", root / "whole"
        runs = [
            start([*_SHORT, "--output", str(base)], moment="update", call=14),
            start([*_SHORT, "--output", str(whole)]),
            start([*_SHORT, "--seed", "8", "--output", str(other)]),
        ]
        for process in runs:
            process.join()
        expected = outcome(whole)
        strays = [
            {"stray": what, **stray(base, root / f"stray-{number}", put, expected)}
            for number, (what, put) in enumerate(list(STRAYS.items())[: 3 if quick else None])
        ]
        edits = [
            {"edit": what, "right": EDITS[what][1], **edit(base, root / f"edit-{number}", what, expected)}
            for number, what in enumerate(list(EDITS)[: 3 if quick else None])
        ]
        alone = [expected, outcome(other)]
        starts = [two_starts(root / f"start-{number}", alone)["right"] for number in range(tries)]
        resumes = [two_resumes(base, root / f"resume-{number}", expected)["right"] for number in range(tries)]
        turns = two_processes_of_two_threads(root / "turns", seconds)
        killed = kills(root / "kills", count, random.Random(arguments.seed))
    results = {
        "command": command_line("folders", argv),
        "machine": about,
        "strays": strays,
        "edits": edits,
        "races": {
            "starts": {"tries": tries, "right": sum(starts)},
            "resumes": {"tries": tries, "right": sum(resumes)},
            "turns": {"seconds": seconds, **turns},
            "kills": {"tries": count, **killed},
        },
    }
    write(arguments.output, results, page(results))
    if not _is_right(results):
        raise SystemExit(1)


def _is_right(results: dict[str, Any]) -> bool:
    races = results["races"]
    return (
        all(row["identical"] and row["left"] and row["said"] for row in results["strays"])
        and all(row["happened"] and row["said"] for row in results["edits"])
        and all(races[name]["right"] == races[name]["tries"] for name in ("starts", "resumes"))
        and races["turns"]["right"]
        and races["kills"]["right"]
    )


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    races = results["races"]
    turns, killed = races["turns"], races["kills"]
    note = (
        "One thread. The run is PPO on TextGen/Copy-v0, killed in its fourth update and resumed. Identical: metrics, "
        "evaluations, samples and weights are those of the run that was left alone, bit for bit."
    )
    yes = {True: "yes", False: "NO"}
    lines = heading("What others do to a run's folder", results, note)
    lines += ["## Strays among checkpoints", ""]
    cells = [[row["stray"], *(yes[row[name]] for name in ("identical", "left", "said"))] for row in results["strays"]]
    lines += table(["stray", "identical", "still there, as it was", "named in a warning"], cells)
    lines += ["", "## Edits", "", "A run that is refused changes nothing.", ""]
    cells = [[row["edit"], row["right"], yes[row["happened"]], yes[row["said"]]] for row in results["edits"]]
    lines += table(["edit", "what is right", "happened", "said (or nothing, where nothing is lost)"], cells)
    lines += ["", "## Races", ""]
    rows = [
        [
            "two starts at once, with different seeds",
            "one is refused, and the folder is identical to the other's",
            f"{races['starts']['right']} of {races['starts']['tries']}",
        ],
        [
            "two resumes at once",
            "one is refused, or finds the run done; identical",
            f"{races['resumes']['right']} of {races['resumes']['tries']}",
        ],
        [
            f"two processes of two threads, {turns['seconds']:.0f} s",
            "never two owners",
            f"taken {turns['taken']:,} times, refused {turns['refused']:,}, two at once {turns['together']}",
        ],
        [
            "`kill -9` of a process that takes the lock",
            "the lock is free at once",
            f"{killed['free']} of {killed['tries']}",
        ],
    ]
    return "\n".join([*lines, *table(["race", "what is right", "result"], rows)]) + "\n"
