"""What every measurement of speed shares: cases that take turns, ratios within a round, the machine, and the files.

Whatever else a machine does falls on all cases alike when they take turns, round by round, and a ratio of two cases is
taken within each round before anything is averaged. Time is that of the processor, summed over threads, which is the
clock's while a process with one thread has a core to itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records import table


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
