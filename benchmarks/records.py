"""The one writer of results, each with its command, machine and versions.

Rows go to a .jsonl file and whole measurements to a .json file; a .md page shows either.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import textenvs
from agents.files import to_json, write_text
from agents.locks import FileLock

RESULTS = Path(__file__).parent / "results"
"""The folder of the committed results."""


def command_line(name: str, argv: Sequence[str]) -> str:
    """Returns the command of a measurement with its options, as a shell reads it."""
    return shlex.join(["python", "-m", "benchmarks", name, *argv])


def machine(*packages: str) -> dict[str, Any]:
    """Describes the machine: CPU, cores, how busy it is, and versions.

    Args:
        *packages: Packages whose versions count, beside those of the environments.

    Returns:
        JSON values by name.
    """
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "textenvs": textenvs.__version__,
        **{name: version(name) for name in packages},
    }


def machine_line(about: dict[str, Any]) -> str:
    """Returns a sentence about a machine, as `machine` describes it, and one about versions."""
    others = ("cpu", "architecture", "cores", "load", "gflops")
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if name not in others)
    return (
        f"{about['cpu']} ({about['architecture']}), {about['cores']} cores; load at the start: {about['load']}. "
        f"Versions: {versions}."
    )


# Pages ----------------------------------------------------------------------------------------------------------------


def heading(title: str, results: dict[str, Any], note: str = "") -> list[str]:
    """Begins a page: title, command and machine.

    Args:
        title: The page's title.
        results: Results with "command" and "machine".
        note: Sentences that follow those about the machine.

    Returns:
        Lines of Markdown.
    """
    about = f"{machine_line(results['machine'])} {note}".rstrip()
    return [f"# {title}", "", f"    {results['command']}", "", about, ""]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Makes a table in Markdown.

    Args:
        header: The names of the columns.
        rows: Their cells.

    Returns:
        Its lines.
    """
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def write_page(output: Path, markdown: str, *, html: str | None = None, picture: bytes | None = None) -> None:
    """Writes a page, and the same as HTML and a PNG picture where there are such.

    Args:
        output: The files' name. A suffix of its own is replaced.
        markdown: The page.
        html: The page as HTML, or None.
        picture: A PNG, or None.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output.with_suffix(".md"), markdown)
    if html is not None:
        write_text(output.with_suffix(".html"), html)
    if picture is not None:
        output.with_suffix(".png").write_bytes(picture)


def write(output: Path, results: dict[str, Any], page: str, figure: Any = None) -> None:
    """Writes a measurement as JSON, as Markdown and, where there is a figure, as PNG, and prints the page.

    Args:
        output: The files' name, without a suffix.
        results: The measurement, with "command" and "machine".
        page: The same in Markdown.
        figure: A figure of Matplotlib, or None.

    Raises:
        ValueError: If the results do not say which command made them, and on what machine; or another command is
            writing them.
    """
    if missing := {"command", "machine"} - set(results):
        raise ValueError(f"Expected results with a command and a machine, got none of {sorted(missing)}")
    print(page)  # first: an hour of measuring should be seen, whatever becomes of the files
    with _lock(output, seconds=10.0):
        write_page(output, page)
        write_text(output.with_suffix(".json"), to_json(results, indent=1) + "\n")
        if figure is not None:
            figure.savefig(output.with_suffix(".png"), dpi=120)


def _lock(output: Path, seconds: float = 0.0) -> FileLock:
    """Takes the lock of some results, and waits for it for some seconds where another command has it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    while True:
        try:
            expected = f"results that no other command writes, got {str(output)!r}"
            return FileLock(output.with_suffix(".lock"), expected, "choose another file with --output")
        except ValueError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


# Rows -----------------------------------------------------------------------------------------------------------------


def all_rows(file: Path) -> list[dict[str, Any]]:
    """Reads the rows of a file, one JSON object a line. A line that was cut off in the middle is left out.

    Args:
        file: A .jsonl file, which need not exist.

    Returns:
        The rows, as they were written.
    """
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append_rows(file: Path, *rows: dict[str, Any]) -> None:
    """Writes rows to the end of a file, on lines of their own, also where the last line was cut off in the middle.

    Args:
        file: A .jsonl file, which need not exist.
        *rows: The rows.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        complete = True
        if stream.tell():
            stream.seek(-1, 2)
            complete = stream.read() == b"\n"
        stream.write(("" if complete else "\n").encode() + "".join(to_json(row) + "\n" for row in rows).encode())


class Ledger:
    """Results that grow run by run and outlive a stop at any moment: a .jsonl file of rows, and a page of all of them.

    They belong to this process until it ends, or until `close`.

    Args:
        output: The files' name, without a suffix.
        page: Makes the text of the page from the rows.

    Attributes:
        rows: All of them, those of earlier commands first.

    Raises:
        ValueError: If another command adds to them.
    """

    def __init__(self, output: Path, page: Callable[[list[dict[str, Any]]], str]) -> None:
        self._owner = _lock(output)
        self._output, self._page = output, page
        self._file = output.with_suffix(".jsonl")
        self.rows: list[dict[str, Any]] = all_rows(self._file)

    def done(self, *names: str) -> set[tuple[Any, ...]]:
        """Returns the rows' values under these names: the runs that need not be made again."""
        return {tuple(row[name] for name in names) for row in self.rows}

    def add(self, *rows: dict[str, Any]) -> None:
        """Adds the rows of a run to the file, and writes the page anew."""
        self.rows.extend(rows)
        append_rows(self._file, *rows)
        write_page(self._output, self._page(self.rows))

    def close(self) -> None:
        """Leaves the results to other commands."""
        self._owner.release()
