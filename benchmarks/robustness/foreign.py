"""Loads folders and data files that are spoilt, each in one way that has a name.

Each case runs in a process of its own, forked from one that has imported the packages, with a limit on its time and its
memory. What it loads must equal what the valid folder gives, or the file holds; or it raises a `ValueError` with a
message (a `CheckpointError` is one), or an `ImportError` where the library that reads it is not installed. Anything
else is a failure: another exception, another content, a process that was killed, or took too long.

    python -m benchmarks foreign
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from benchmarks.robustness import foreign_data, foreign_folders

ALL = ("data", *foreign_folders.KINDS)
"""The kinds of what is loaded."""

_SECONDS = 60  # of the wall clock, on a machine that may be busy
_CPU_SECONDS = 20
_BYTES = 3 << 30  # on top of what the process has when it is forked

Check = Callable[[], bool]
"""Loads something: True if it is what it should be. A ValueError refuses it."""


@dataclass(frozen=True)
class Outcome:
    """The end of a case.

    Attributes:
        result: "equal", "refused", or "FAILED".
        message: The refusal, or the failure.
        seconds: Its time.
    """

    result: str
    message: str
    seconds: float


def checks(
    folder: Path, *, kinds: Sequence[str] = ("data", *foreign_folders.KINDS)
) -> Iterator[tuple[str, str, Check]]:
    """Yields all cases.

    Args:
        folder: Where folders and files are made.
        kinds: The kinds that are wanted.

    Yields:
        The kind, the case's name and its check.
    """
    number = 0
    for kind in kinds:
        if kind == "data":
            for name, case in foreign_data.cases().items():
                yield kind, name, partial(_check_data, case, folder / str(number := number + 1))
            continue
        valid = folder / f"valid {kind}"
        foreign_folders.make(kind, valid)
        expected = foreign_folders.read(kind, valid)
        yield kind, "nothing", partial(_check_folder, kind, expected, lambda copy: None, valid, folder / "nothing")
        for name, mutation in foreign_folders.mutations(kind).items():
            target = folder / str(number := number + 1) / "folder"
            yield kind, name, partial(_check_folder, kind, expected, mutation, valid, target)


def _check_data(case: foreign_data.Case, folder: Path) -> bool:
    folder.mkdir()
    prompts = foreign_data.read(case, folder)
    return case.prompts is not None and prompts == sorted(case.prompts)


def _check_folder(
    kind: str, expected: dict[str, Any], mutation: foreign_folders.Mutation, valid: Path, copy: Path
) -> bool:
    shutil.copytree(valid, copy)
    mutation(copy)
    try:
        return foreign_folders.is_equal(foreign_folders.read(kind, copy), expected)
    except ValueError as error:
        # A sentence that names the folder: only then does its user know what to mend.
        if str(copy) not in str(error):
            raise RuntimeError(f"Expected the folder's name in {error}") from error
        raise


def run(check: Check, folder: Path) -> Outcome:
    """Runs a check in a process of its own.

    Args:
        check: The check.
        folder: A folder for its message, which all cases share.

    Returns:
        Its end.
    """
    said = folder / "outcome"
    said.unlink(missing_ok=True)
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        _run_and_exit(check, said)
    status, result = 0, None
    while time.perf_counter() - began < _SECONDS:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.002)
    else:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return Outcome("FAILED", f"took more than {_SECONDS} s", time.perf_counter() - began)
    seconds = time.perf_counter() - began
    result, _, message = said.read_text(encoding="utf-8").partition("\n") if said.exists() else ("", "", "")
    if status != 0 or not result:
        return Outcome("FAILED", f"the process ended with status {status}: {message}", seconds)
    return Outcome(result, message, seconds)


def _run_and_exit(check: Check, said: Path) -> None:
    """Runs a check within its limits, writes how it ended, and ends the process without a further line of this one."""
    try:
        warnings.simplefilter("ignore")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        try:
            result, message = ("equal", "") if check() else ("FAILED", "loaded, and is something else")
        except (ValueError, ImportError) as error:  # an ImportError: a library that reads it is not installed
            result, message = ("refused", str(error)) if str(error) else ("FAILED", "a ValueError without a message")
        except BaseException as error:  # the very thing that is looked for
            result = "FAILED"
            message = f"{type(error).__name__}: {error}\n" + "".join(traceback.format_tb(error.__traceback__)[-3:])
        said.write_text(f"{result}\n{message}", encoding="utf-8", errors="backslashreplace")
    finally:
        os._exit(0)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Load folders and data files that are spoilt, each in one way that has a name."""

    quick: bool = False
    """Every twentieth case, to see that all of it works."""
    output: Path = RESULTS / "foreign"
    """Name of the results: a .json and a .md file."""


def outcomes(*, every: int = 1, kinds: Sequence[str] = ALL) -> list[dict[str, Any]]:
    """Runs the cases.

    Args:
        every: Of so many cases, the first is run.
        kinds: The kinds that are wanted.

    Returns:
        A row a case: its kind, name, result, message and seconds.
    """
    torch.set_num_threads(1)  # a fork has the first thread alone
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rows = []
    with tempfile.TemporaryDirectory(prefix="foreign-") as name:
        folder = Path(name)
        for index, (kind, case, check) in enumerate(checks(folder, kinds=kinds)):
            if index % every:
                continue
            before = set(folder.iterdir())
            outcome = run(check, folder)
            rows.append({"kind": kind, "case": case, "result": outcome.result, "message": outcome.message,
                         "seconds": round(outcome.seconds, 3)})  # fmt: skip
            rows[-1]["message"] = rows[-1]["message"].replace(name, "")[:400]
            print(rows[-1], flush=True)
            for made in set(folder.iterdir()) - before:
                with contextlib.suppress(OSError):
                    shutil.rmtree(made) if made.is_dir() else made.unlink()
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs all cases, and writes the table.

    Args:
        argv: The options of the command.

    Raises:
        SystemExit: If a case failed.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks foreign")
    about = machine("torch", "transformers", "tokenizers", "safetensors")
    rows = outcomes(every=20 if arguments.quick else 1)
    results = {"command": command_line("foreign", argv), "machine": about, "rows": rows}
    write(arguments.output, results, page(results))
    if any(row["result"] == "FAILED" for row in rows):
        raise SystemExit(1)


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    rows = results["rows"]
    counts = Counter((row["kind"], row["result"]) for row in rows)
    failed = [row for row in rows if row["result"] == "FAILED"]
    slowest = max(rows, key=lambda row: row["seconds"])
    note = (
        f"One thread. {len(rows)} cases, each in a process with {_CPU_SECONDS} s and {_BYTES >> 30} GB beside what the "
        f"imported packages take; {len(failed)} failed. The slowest took {slowest['seconds']:.1f} s "
        f"({slowest['kind']}: {slowest['case']}). Messages are in the .json beside this page."
    )
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = [[kind, *(counts[kind, result] for result in ("equal", "refused", "FAILED"))] for kind in kinds]
    header = ["kind", "read as it is", "refused in a sentence", "failed"]
    parts = [*heading("Folders and files from somebody else", results, note), *table(header, cells)]
    if failed:
        parts += ["", *(f"- {row['kind']}, {row['case']}: `{row['message'][:200]!r}`" for row in failed)]
    listed = [[row["kind"], f"`{_cell(row['case'])}`", row["result"]] for row in rows]
    return "\n".join([*parts, "", *table(["kind", "what was done", "result"], listed)]) + "\n"


def _cell(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("|", "\\|").replace("`", "'")
