"""What every measurement of speed shares: cases that take turns, ratios within a round, the machine, and the files.

Whatever else a machine does falls on all cases alike when they take turns, round by round, and a ratio of two cases is
taken within each round before anything is averaged. Time is that of the processor, summed over threads, which is the
clock's while a process with one thread has a core to itself.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import textenvs
from benchmarks.rows import all_rows, append_rows

RESULTS = Path(__file__).parent / "results"

PRODUCTS = ((32, 256, 256), (640, 256, 688), (640, 64, 256))
"""Rows, inputs and outputs of the linear layers of `kernel_speeds`: of a decode step, and two of an update."""


@dataclass
class Case:
    """Something that takes its turns.

    Attributes:
        labels: What tells it from the others, as the results have it.
        play: Does one episode's worth of it. May return how many steps that was, where they differ from time to time.
        steps: How many steps of a lane (or resets of one, or tokens) that is, where `play` does not say.
        times: How often it plays in a turn, found by the first.
        speeds: Steps a second of the processor's time, one for each turn.
        clock_speeds: Steps a second of the clock's time, likewise.
    """

    labels: dict[str, Any]
    play: Callable[[], int | None]
    steps: int = 0
    times: int = 0
    speeds: list[float] = field(default_factory=list)
    clock_speeds: list[float] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        """Take one turn; the first one only finds out how long a turn is, and warms up."""
        if not self.times:
            started = time.process_time()
            while not self.times or time.process_time() - started < seconds:
                self.play()
                self.times += 1
            return
        clock, started, steps = time.perf_counter(), time.process_time(), 0
        for _ in range(self.times):
            played = self.play()
            steps += self.steps if played is None else played
        self.record(steps, time.process_time() - started, time.perf_counter() - clock)

    def record(self, steps: int, processor: float, clock: float) -> None:
        """Write a turn down.

        Args:
            steps: What was done.
            processor: Seconds of the processor's time, at most as exact as its clock.
            clock: Seconds of the clock's.
        """
        self.speeds.append(steps / max(processor, 1e-9))
        self.clock_speeds.append(steps / max(clock, 1e-9))

    def result(self) -> dict[str, Any]:
        """Its labels, the median of its speeds, and the least and the most."""
        return {
            **self.labels,
            "steps_per_second": statistics.median(self.speeds),
            "least": min(self.speeds),
            "most": max(self.speeds),
        }


def take_turns(cases: Sequence[Case], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure cases side by side.

    Args:
        cases: What to measure.
        rounds: How often each has its turn, after one to warm up.
        seconds: How long a turn lasts at least.

    Returns:
        A result for each case.
    """
    for _ in range(rounds + 1):
        for case in cases:
            case.turn(seconds)
    return [case.result() for case in cases]


def ratio(one: Case, other: Case) -> dict[str, float]:
    """How many times as fast one case is as another: taken within each round, then the median over rounds.

    Args:
        one: A case that has had its turns.
        other: Another of the same rounds.

    Returns:
        "median", "least" and "most", of the processor's time.
    """
    ratios = [mine / its for mine, its in zip(one.speeds, other.speeds, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


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


def compared(cases: Sequence[Case], rounds: int, seconds: float, base: str) -> list[dict[str, Any]]:
    """Measure cases side by side, each also as a ratio to one of them.

    Args:
        cases: What to measure, each with a label "who".
        rounds: How often each has its turn, after one to warm up.
        seconds: How long a turn lasts at least.
        base: Who the others are compared with.

    Returns:
        For each case its labels, "tokens_per_second" of the processor's time and of the clock's, and "ratio".
    """
    take_turns(cases, rounds, seconds)
    other = next(case for case in cases if case.labels["who"] == base)
    rows = []
    for case in cases:
        row = {
            **case.labels,
            "tokens_per_second": statistics.median(case.speeds),
            "clock_tokens_per_second": statistics.median(case.clock_speeds),
            "ratio": ratio(case, other),
            "to": base,
        }
        print(f"{row}", flush=True)
        rows.append(row)
    return rows


def compared_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What `compared` found, in Markdown.

    Args:
        rows: Its results, of one shape.

    Returns:
        The lines of a table.
    """
    return table(
        ["", "tokens a CPU-second", "a second", f"times {rows[0]['to']}", "least to most"],
        [
            [
                row["who"],
                f"{row['tokens_per_second']:,.0f}",
                f"{row['clock_tokens_per_second']:,.0f}",
                f"{row['ratio']['median']:.2f}",
                f"{row['ratio']['least']:.2f} to {row['ratio']['most']:.2f}",
            ]
            for row in rows
        ],
    )


def costs_section(costs: Sequence[dict[str, Any]], base: str) -> list[str]:
    """What a token costs by this and that, ours beside another's, in Markdown.

    Args:
        costs: Results of cases with labels "what" (is varied), "value" and "who" ("ours", or the other).
        base: Who ours is compared with.

    Returns:
        Lines: a heading, and a table for each "what".
    """
    lines = ["## Cost of a token", "", f"Microseconds of the processor a token, ours / {base}:", ""]
    for what in dict.fromkeys(row["what"] for row in costs):
        cost = {(row["value"], row["who"]): 1e6 / row["steps_per_second"] for row in costs if row["what"] == what}
        values = sorted({value for value, _ in cost})
        cells = [f"{cost[value, 'ours']:.0f} / {cost[value, base]:.0f}" for value in values]
        lines += [*table([what, *values], [["", *cells]]), ""]
    return lines


def plot_costs(costs: Sequence[dict[str, Any]], base: str, file: Path) -> None:
    """Draw what `costs_section` writes, a panel for each "what".

    Args:
        costs: See there.
        base: See there.
        file: Where the picture goes.
    """
    from matplotlib.figure import Figure

    varied = list(dict.fromkeys(row["what"] for row in costs))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(varied)), varied, strict=True):
        for who, color in (("ours", "tab:green"), (base, "tab:gray")):
            rows = [row for row in costs if (row["what"], row["who"]) == (what, who)]
            places, spent = [row["value"] for row in rows], [1e6 / row["steps_per_second"] for row in rows]
            axes.plot(places, spent, marker="o", color=color, label=who)
        axes.set(xscale="log", yscale="log", xlabel=what, title=f"by {what}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU microseconds a token")
    figure.axes[0].legend()
    figure.savefig(file, dpi=120)


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
