"""Cases that take turns, ratios within a round, and tables of them: the parts that all measurements of speed share.

Whatever else a machine does affects all cases alike when they take turns, round by round, and a ratio of two cases is
taken within each round before anything is averaged. Time is that of the processor, summed over threads. A process with
one thread that has a core to itself spends as much of it as the clock shows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.records import heading, machine, table

PRODUCTS = ((32, 256, 256), (640, 256, 688), (640, 64, 256))
"""Rows, inputs and outputs of the linear layers of `kernel_speeds`: of a decode step, and two of an update."""


@dataclass
class Case:
    """A piece of work that takes its turns.

    Attributes:
        labels: The columns that tell it from other cases.
        play: Does one episode's worth of it. May return the number of steps, where that differs from time to time.
        steps: Steps of a lane (or resets of one, or tokens) in one call of `play`, where `play` does not return them.
        times: Calls of `play` in a turn. The first turn finds out how many.
        speeds: Steps a second of the processor's time, one for each turn.
        clock_speeds: Steps a second of the clock's time, one for each turn.
    """

    labels: dict[str, Any]
    play: Callable[[], int | None]
    steps: int = 0
    times: int = 0
    speeds: list[float] = field(default_factory=list)
    clock_speeds: list[float] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        """Takes one turn. The first only warms up, and finds out how many calls last so many seconds."""
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
        """Records a turn.

        Args:
            steps: The steps of the turn.
            processor: Seconds of the processor's time, at most as exact as its clock.
            clock: Seconds of the clock's time.
        """
        self.speeds.append(steps / max(processor, 1e-9))
        self.clock_speeds.append(steps / max(clock, 1e-9))

    def result(self) -> dict[str, Any]:
        """Returns its labels, and median, least and most of its speeds."""
        return {
            **self.labels,
            "steps_per_second": statistics.median(self.speeds),
            "least": min(self.speeds),
            "most": max(self.speeds),
        }


def take_turns(cases: Sequence[Case], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measures cases side by side.

    Args:
        cases: The cases.
        rounds: Turns of each case, after one to warm up.
        seconds: The shortest turn.

    Returns:
        A result for each case.
    """
    for _ in range(rounds + 1):
        for case in cases:
            case.turn(seconds)
    return [case.result() for case in cases]


def ratio(case: Case, base: Case) -> dict[str, float]:
    """Computes the ratio of two cases' speeds: within each round first, then over rounds.

    Args:
        case: A case that has had its turns.
        base: Another case of the same rounds.

    Returns:
        "median", "least" and "most" of the ratios, of the processor's time.
    """
    ratios = [speed / base_speed for speed, base_speed in zip(case.speeds, base.speeds, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def compared(cases: Sequence[Case], rounds: int, seconds: float, base: str) -> list[dict[str, Any]]:
    """Measures cases side by side, each also as a ratio to one of them.

    Args:
        cases: The cases, each with a label "who".
        rounds: Turns of each case, after one to warm up.
        seconds: The shortest turn.
        base: The label "who" of the case to compare with.

    Returns:
        For each case its labels, "tokens_per_second" of the processor's time and of the clock's, and "ratio".
    """
    take_turns(cases, rounds, seconds)
    base_case = next(case for case in cases if case.labels["who"] == base)
    rows = []
    for case in cases:
        row = {
            **case.labels,
            "tokens_per_second": statistics.median(case.speeds),
            "clock_tokens_per_second": statistics.median(case.clock_speeds),
            "ratio": ratio(case, base_case),
            "to": base,
        }
        print(f"{row}", flush=True)
        rows.append(row)
    return rows


def compared_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Makes a Markdown table of results of `compared`.

    Args:
        rows: The results of one shape.

    Returns:
        The lines of the table.
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


def speed_machine(*packages: str) -> dict[str, Any]:
    """Describes the machine, with the speed of matrix products on it.

    Args:
        *packages: As for `records.machine`.

    Returns:
        `records.machine`, and "gflops" as `kernel_speeds` returns it.
    """
    return {**machine(*packages), "gflops": kernel_speeds()}


def kernel_speeds(seconds: float = 0.01) -> dict[str, dict[str, float]]:
    """Measures float32 linear layers of PyTorch's own library and of oneDNN, on one thread.

    PyTorch multiplies float32 matrices with MKL on x86, whose share of oneDNN's speed differs between processors. A
    speed is only comparable with another machine's if these numbers are.

    Args:
        seconds: The shortest time over which each product is repeated, in the processor's time.

    Returns:
        For each of `PRODUCTS` ("32 x 256 x 256"), GFLOP/s by library. The fastest repetition counts. Without oneDNN
        where this PyTorch has none.
    """
    import torch  # not at the top: the environments' benchmarks run without it
    from torch.nn import functional

    default = "MKL" if torch.backends.mkl.is_available() else "PyTorch's BLAS"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speeds: dict[str, dict[str, float]] = {}
    try:
        with torch.inference_mode():
            for rows, inputs, outputs in PRODUCTS:
                tensors = [torch.ones(size) for size in ((rows, inputs), (outputs, inputs), (outputs,))]
                products = {default: partial(functional.linear, *tensors)}
                if torch.backends.mkldnn.is_available():  # tensors in its format are multiplied by it
                    products["oneDNN"] = partial(functional.linear, *(tensor.to_mkldnn() for tensor in tensors))
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


def speed_heading(
    title: str, results: dict[str, Any], time: str = "ratios taken within each round, of the processor's time"
) -> list[str]:
    """Begins a page of speeds: title, command, machine, rounds, and the speed of matrix products.

    Args:
        title: The page's title.
        results: Results with "command", "machine" (as `speed_machine` returns it) and "rounds".
        time: The kind of time.

    Returns:
        Lines of Markdown.
    """
    products = "; ".join(
        f"{product}: " + ", ".join(f"{library} {speed:.0f}" for library, speed in speeds.items())
        for product, speeds in results["machine"]["gflops"].items()
    )
    return [
        *heading(title, results, f"One thread. Medians of {results['rounds']} rounds, {time}."),
        f"GFLOP/s of float32 matrix products on one thread (rows x inputs x outputs): {products}. Ours and the others "
        "use PyTorch's own library.",
        "",
    ]


def costs_section(costs: Sequence[dict[str, Any]], base: str) -> list[str]:
    """Makes a Markdown section of the cost of a token, ours beside another's.

    Args:
        costs: Results of cases with labels "what" (is varied), "value" and "who" ("ours", or the other).
        base: The other's label "who".

    Returns:
        A heading, and a table for each "what".
    """
    lines = ["## Cost of a token", "", f"Microseconds of the processor a token, ours / {base}:", ""]
    for what in dict.fromkeys(row["what"] for row in costs):
        cost = {(row["value"], row["who"]): 1e6 / row["steps_per_second"] for row in costs if row["what"] == what}
        values = sorted({value for value, _ in cost})
        cells = [f"{cost[value, 'ours']:.0f} / {cost[value, base]:.0f}" for value in values]
        lines += [*table([what, *values], [["", *cells]]), ""]
    return lines


def plot_costs(costs: Sequence[dict[str, Any]], base: str) -> Any:
    """Draws the costs of `costs_section`, a panel for each "what".

    Args:
        costs: As for `costs_section`.
        base: As for `costs_section`.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    varied = list(dict.fromkeys(row["what"] for row in costs))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(varied)), varied, strict=True):
        for who, color in (("ours", "tab:green"), (base, "tab:gray")):
            rows = [row for row in costs if (row["what"], row["who"]) == (what, who)]
            values, spent = [row["value"] for row in rows], [1e6 / row["steps_per_second"] for row in rows]
            axes.plot(values, spent, marker="o", color=color, label=who)
        axes.set(xscale="log", yscale="log", xlabel=what, title=f"by {what}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU microseconds a token")
    figure.axes[0].legend()
    return figure
