"""Files of results that grow row by row, one JSON object a line, and outlive a stop at any moment."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import textenvs

RESULTS = Path(__file__).parent / "results"


def all_rows(file: Path) -> list[dict[str, Any]]:
    """All rows of a file; a line that was cut off in the middle is left out.

    Args:
        file: A .jsonl file, there or not.

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
    """Write rows at the end of a file, on lines of their own, also where the last one was cut off in the middle.

    Args:
        file: A .jsonl file, there or not.
        *rows: What it gets.
    """
    with file.open("ab+") as opened:
        whole = True
        if opened.tell():
            opened.seek(-1, 2)
            whole = opened.read() == b"\n"
        opened.write(("" if whole else "\n").encode() + "".join(json.dumps(row) + "\n" for row in rows).encode())


class Ledger:
    """Results that grow run by run: a .jsonl file of rows, and a .md page made of all of them.

    Args:
        output: The files' name, without a suffix.
        page: Makes the text of the page of the rows.

    Attributes:
        rows: All of them, those of earlier commands first.
    """

    def __init__(self, output: Path, page: Callable[[list[dict[str, Any]]], str]) -> None:
        self._file, self._page = output.with_suffix(".jsonl"), page
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = all_rows(self._file)

    def done(self, *names: str) -> set[tuple[Any, ...]]:
        """What the rows have under these names: the runs that need not be made again."""
        return {tuple(row[name] for name in names) for row in self.rows}

    def add(self, *found: dict[str, Any]) -> None:
        """Write the rows of a run down, and the page anew."""
        self.rows.extend(found)
        append_rows(self._file, *found)
        self._file.with_suffix(".md").write_text(self._page(self.rows), encoding="utf-8")


def write(output: Path, results: dict[str, Any], text: str) -> None:
    """Leave the results as JSON and as Markdown, and show them.

    Args:
        output: Where, without a suffix.
        results: What was measured.
        text: The same for people.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table in Markdown.

    Args:
        header: The columns' names.
        rows: Their cells.

    Returns:
        Its lines.
    """
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


PRODUCTS = ((32, 256, 256), (640, 256, 688), (640, 64, 256))
"""Rows, inputs and outputs of the linear layers of `kernel_speeds`: of a decode step, and two of an update."""


def kernel_speeds(seconds: float = 0.01) -> dict[str, dict[str, float]]:
    """Measures float32 linear layers of PyTorch's own library and of oneDNN, on one thread.

    PyTorch multiplies float32 matrices with MKL on x86, whose share of oneDNN's speed differs between processors. A
    speed is only comparable with another machine's if these numbers are.

    Args:
        seconds: How long each product is repeated at least, in the processor's time.

    Returns:
        For each of `PRODUCTS` ("32 x 256 x 256"), GFLOP/s by library. The fastest repetition counts. Without oneDNN
        where this PyTorch has none.
    """
    import torch  # not at the top: the environments' benchmarks run without it
    from torch.nn import functional

    own = "MKL" if torch.backends.mkl.is_available() else "PyTorch's BLAS"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speeds: dict[str, dict[str, float]] = {}
    try:
        with torch.inference_mode():
            for rows, inputs, outputs in PRODUCTS:
                tensors = [torch.ones(size) for size in ((rows, inputs), (outputs, inputs), (outputs,))]
                products = {own: partial(functional.linear, *tensors)}
                if torch.backends.mkldnn.is_available():  # tensors in its format are multiplied by it
                    products["oneDNN"] = partial(functional.linear, *(one.to_mkldnn() for one in tensors))
                speeds[f"{rows} x {inputs} x {outputs}"] = {
                    name: 2e-9 * rows * inputs * outputs / _fastest(product, seconds)
                    for name, product in products.items()
                }
    finally:
        torch.set_num_threads(threads)
    return speeds


def _fastest(function: Callable[[], Any], seconds: float) -> float:
    """Returns the least processor time of a call, in seconds. One call warms up, at least ten are timed."""
    function()
    times: list[float] = []
    while len(times) < 10 or sum(times) < seconds:
        started = time.process_time()
        function()
        times.append(max(time.process_time() - started, 1e-9))
    return min(times)


def heading(
    title: str, results: dict[str, Any], time: str = "ratios taken within each round, of the processor's time"
) -> list[str]:
    """How a page of results begins: title, command and machine.

    Args:
        title: Of the page.
        results: With "command", "machine" (of packages with torch) and "rounds".
        time: Which time is meant.

    Returns:
        Lines of Markdown.
    """
    about = results["machine"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "transformers") if name in about)
    return [
        f"# {title}",
        "",
        f"    {results['command']}",
        "",
        f"{about['cpu']} ({about['architecture']}), {about['cores']} cores, one thread; load when it began: "
        f"{about['load']}. Python {about['python']}, {versions}. Medians of {results['rounds']} rounds, {time}.",
        "",
        "GFLOP/s of float32 matrix products on one thread (rows x inputs x outputs): "
        + "; ".join(
            f"{shape}: " + ", ".join(f"{library} {speed:.0f}" for library, speed in found.items())
            for shape, found in about["gflops"].items()
        )
        + ". Ours and the others use PyTorch's own library.",
        "",
    ]


def machine(*packages: str) -> dict[str, Any]:
    """What all of it ran on: CPU, cores, versions, and how busy the machine was.

    Args:
        *packages: Whose versions count, beside those of the environments. With "torch" among them, also how fast
            matrix products are: "gflops", see `kernel_speeds`.

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
        **({"gflops": kernel_speeds()} if "torch" in packages else {}),
    }
