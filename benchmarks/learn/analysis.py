"""Aggregates of runs with their uncertainty: (runs, tasks) matrices, and rliable's intervals over them.

A task is an environment and a payout. A run that failed counts as a normalised score of 0, what random tokens get: a
failure is a result, and leaving it out would reward it.

Source: Agarwal et al. (2021), Deep reinforcement learning at the edge of the statistical precipice, arXiv:2108.13264;
the library is theirs, `rliable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.learn.suite import UNTRAINED

REPLICATIONS = 2000
"""Samples of the bootstrap."""

Row = dict[str, Any]


def load_rliable() -> tuple[Any, Any]:
    """Imports the library and its metrics.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        from rliable import library, metrics
    except ImportError as error:
        raise ImportError(
            'rliable is needed for a report. Install it with: pip install "textenvs[benchmarks]"'
        ) from error
    return library, metrics


def names(rows: Sequence[Row], column: str) -> list[str]:
    """Returns the values of a column, in the order of their first rows."""
    return list(dict.fromkeys(row[column] for row in rows))


def normalised(row: Row) -> float | None:
    """Returns a run's normalised score: 0 where it failed, None where it was skipped or its task has no scale."""
    return 0.0 if row["status"] == "failed" else row.get("normalised")


def scaled_envs(rows: Sequence[Row]) -> set[str]:
    """Returns the environments with a scale: those where any run of any payout has a normalised score."""
    return {row["env"] for row in rows if row.get("normalised") is not None}


def differing(rows: Sequence[Row]) -> dict[str, dict[str, list[Any]]]:
    """Finds settings in which runs of one agent on one task differ: their mean is over different algorithms.

    Args:
        rows: Rows of one suite, at its own budgets or at another one.

    Returns:
        Agent to name of a setting to its values on one task. The seed does not count.
    """
    differing_settings: dict[str, dict[str, list[Any]]] = {}
    tasks: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "config" in row:
            tasks.setdefault((row["agent"], row["env"], row["payout"]), []).append(row["config"])
    for (agent, _, _), configs in tasks.items():
        for name in dict.fromkeys(name for config in configs for name in config if name != "seed"):
            values: list[Any] = []
            for config in configs:
                if config.get(name) not in values:
                    values.append(config.get(name))
            if len(values) > 1:
                differing_settings.setdefault(agent, {}).setdefault(name, values)
    return differing_settings


def chosen(rows: Sequence[Row], **columns: Any) -> list[Row]:
    """Returns the rows that have these values in these columns."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


@dataclass(frozen=True)
class Matrices:
    """Normalised scores.

    Attributes:
        tasks: Environment and payout of each column.
        scores: Agent to `(runs, tasks)` float64. Agents may have different numbers of runs.
        left_out: Agent to the reason for having no matrix.
    """

    tasks: list[tuple[str, str]]
    scores: dict[str, NDArray[np.float64]]
    left_out: dict[str, str]


def matrices(rows: Sequence[Row]) -> Matrices:
    """Arranges rows by run and task.

    The tasks are those of environments with a scale. An agent that did not run on all of them is left out, since its
    mean would be over other tasks. Where an agent has more seeds on one task than on another, the fewest count.

    Args:
        rows: Rows of one suite, at its own budgets or at another one.

    Returns:
        The matrices.
    """
    runs_of: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        score = normalised(row)
        if score is not None:
            runs_of.setdefault(row["agent"], {}).setdefault((row["env"], row["payout"]), []).append(score)
    scaled = scaled_envs(rows)
    order = [(row["env"], row["payout"]) for row in rows if row["env"] in scaled and row["status"] != "skipped"]
    tasks = list(dict.fromkeys(order))
    scores, left_out = {}, {}
    for agent in names(rows, "agent"):
        done = runs_of.get(agent, {})
        lacking = [task for task in tasks if task not in done]
        if lacking or not tasks:
            left_out[agent] = f"no runs on {len(lacking)} of {len(tasks)} tasks" if tasks else "no task has a scale"
            continue
        runs = min(len(done[task]) for task in tasks)
        scores[agent] = np.array([done[task][:runs] for task in tasks]).T
    return Matrices(tasks, scores, left_out)


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _intervals(scores: Any, function: Any, seed: int, replications: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Calls `rliable.library.get_interval_estimates` with a seed."""
    library, _ = load_rliable()
    before = np.random.get_state()  # noqa: NPY002 - rliable draws from NumPy's global generator, whatever it is given
    np.random.seed(seed)  # noqa: NPY002
    try:
        values, bounds = library.get_interval_estimates(scores, function, reps=replications)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return values, bounds


MEASURES = ("IQM", "mean", "optimality gap")


def aggregates(
    scores: dict[str, NDArray[np.float64]], seed: int = 0, replications: int = REPLICATIONS
) -> dict[str, dict[str, Interval]]:
    """Computes interquartile mean, mean and optimality gap of each agent, with stratified bootstrap intervals.

    Args:
        scores: Agent to `(runs, tasks)` normalised scores.
        seed: Seed of the bootstrap.
        replications: Samples of the bootstrap.

    Returns:
        Agent to name of a measure to its interval. With one run there is nothing to draw from: the interval is a point.
    """
    _, metrics = load_rliable()

    def measured(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(
            [metrics.aggregate_iqm(matrix), metrics.aggregate_mean(matrix), metrics.aggregate_optimality_gap(matrix)]
        )

    values, bounds = _intervals(scores, measured, seed, replications)
    return {
        agent: {
            name: Interval(float(values[agent][index]), *map(float, bounds[agent][:, index]))
            for index, name in enumerate(MEASURES)
        }
        for agent in scores
    }


def improvements(
    scores: dict[str, NDArray[np.float64]], seed: int = 0, replications: int = REPLICATIONS // 10
) -> dict[tuple[str, str], Interval]:
    """Computes the probability that a run of one agent beats one of another on the same task, mean over tasks.

    Args:
        scores: Agent to `(runs, tasks)` normalised scores.
        seed: Seed of the bootstrap.
        replications: Samples of the bootstrap.

    Returns:
        (agent, other) to its interval, for every ordered pair. Ties count a half.
    """
    _, metrics = load_rliable()
    agents = list(scores)
    pairs = {pair: [scores[agent] for agent in pair] for pair in combinations(agents, 2)}
    if not pairs:
        return {}
    values, bounds = _intervals(pairs, metrics.probability_of_improvement, seed, replications)
    intervals = {}
    for (agent, other), value in values.items():
        low, high = map(float, np.ravel(bounds[agent, other]))
        intervals[agent, other] = Interval(float(value), low, high)
        intervals[other, agent] = Interval(1 - float(value), 1 - high, 1 - low)
    return intervals


def profiles(
    scores: dict[str, NDArray[np.float64]], points: int = 41, seed: int = 0
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Computes the share of runs above each score.

    Args:
        scores: Agent to `(runs, tasks)` normalised scores.
        points: The number of scores, from 0 to 1.
        seed: Seed of the bootstrap.

    Returns:
        The scores, agent to shares `(points,)`, and agent to their bounds `(2, points)`.
    """
    library, _ = load_rliable()
    taus = np.linspace(0.0, 1.0, points)
    values, bounds = _intervals(scores, lambda matrix: library.score_distributions(matrix, taus), seed, 200)
    return taus, values, bounds


def mean_curve(rows: Sequence[Row], points: int = 50) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Averages training curves over all tasks: each run's curve on its task's scale, then the mean of the tasks' means.

    Args:
        rows: Rows of one agent.
        points: The number of shares of the budget.

    Returns:
        Shares of the budget and normalised scores, `(points,)` each; None if no run has a curve and a scale. Before it
        begins and after it ends, a curve has its first and its last score.
    """
    shares = np.linspace(0.0, 1.0, points)
    by_task: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["curve"] and row.get("top") is not None:
            tokens, scores = np.array([(point[0], point[2]) for point in row["curve"]], dtype=np.float64).T
            scaled = (scores - row["random"]) / (row["top"] - row["random"])
            by_task.setdefault((row["env"], row["payout"]), []).append(
                np.interp(shares, tokens / row["budget"], scaled)
            )
    if not by_task:
        return None
    return shares, np.mean([np.mean(curves, axis=0) for curves in by_task.values()], axis=0)


@dataclass(frozen=True)
class Cell:
    """Some runs of one agent on one task.

    Attributes:
        agent: The agent.
        env: The environment.
        payout: The payout.
        runs: Number of runs, failed ones included.
        failed: Number of runs that failed.
        score: Mean score. With a scale it is normalised, and failed runs count as 0; without one they are left out.
            None if no run has a score.
        spread: Sample standard deviation of the score over seeds.
        shifted: Mean score on the shifted split, computed alike.
        reached: Number of runs that reached the threshold.
        tokens: Median tokens to the threshold over all runs, infinite if most did not reach it or all failed. None
            without a threshold.
        cpu_seconds: Median CPU-seconds to the threshold, computed alike.
        late_deviation: Standard deviation of the training score in the last fifth of training, mean over runs.
        used: Mean tokens of the runs that did not fail: budgets are finished by whole batches.
        beside: Name in `BESIDE` to the mean over the runs that have it.
    """

    agent: str
    env: str
    payout: str
    runs: int
    failed: int
    score: float | None
    spread: float | None
    shifted: float | None
    reached: int
    tokens: float | None
    cpu_seconds: float | None
    late_deviation: float | None
    used: float | None
    beside: dict[str, float]


BESIDE = {"kl": "KL", "distinct_2": "distinct-2", "held_out": "held-out"}
"""Columns of rows that show what a score alone would hide, and their names in tables."""


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Summarises the runs of every agent on every task that it did not skip.

    Args:
        rows: Rows of one suite, at its own budgets or at another one.

    Returns:
        The cells, by task.
    """
    grid, scaled = [], scaled_envs(rows)
    for env, payout in dict.fromkeys((row["env"], row["payout"]) for row in rows):
        for agent in names(rows, "agent"):
            some = [row for row in chosen(rows, env=env, payout=payout, agent=agent) if row["status"] != "skipped"]
            if some:
                grid.append(_cell(agent, env, payout, some, env in scaled))
    return grid


def _cell(agent: str, env: str, payout: str, rows: list[Row], scaled: bool) -> Cell:
    finished = [row for row in rows if row["status"] == "ok"]
    name = "normalised" if scaled else "score"
    scores = [row[name] for row in finished] + ([0.0] * (len(rows) - len(finished)) if scaled else [])
    shifted = [row[f"{name}_shifted"] for row in finished if row.get(f"{name}_shifted") is not None]
    timed = [row for row in finished if "tokens_to_threshold" in row and row["curve"]]
    lates = [row["late_deviation"] for row in finished if "late_deviation" in row]

    def median(column: str) -> float | None:
        if not timed:
            return np.inf if scaled and not finished and agent not in UNTRAINED else None
        times = [np.inf if row[column] is None else row[column] for row in timed] + [np.inf] * (
            len(rows) - len(finished)
        )
        return float(np.sort(times)[len(times) // 2])  # the upper one of two: infinity minus infinity is no number

    return Cell(
        agent=agent,
        env=env,
        payout=payout,
        runs=len(rows),
        failed=len(rows) - len(finished),
        score=float(np.mean(scores)) if scores else None,
        spread=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        shifted=float(np.mean(shifted)) if shifted else None,
        reached=sum(row["tokens_to_threshold"] is not None for row in timed),
        tokens=median("tokens_to_threshold"),
        cpu_seconds=median("cpu_seconds_to_threshold"),
        late_deviation=float(np.mean(lates)) if lates else None,
        used=float(np.mean([row["tokens"] for row in finished])) if finished else None,
        beside={
            name: float(np.mean(values))
            for name in BESIDE
            if (values := [row[name] for row in finished if row.get(name) is not None])
        },
    )


def sooner(grid: Sequence[Cell]) -> dict[str, tuple[int, int, int, int]]:
    """Counts the environments on which either payout reaches the threshold in fewer tokens.

    Args:
        grid: The cells.

    Returns:
        Agent to the numbers of environments on which immediate payouts are sooner, sparse ones are sooner, both are
        equally soon, and neither gets there.
    """
    counts: dict[str, tuple[int, int, int, int]] = {}
    by_key = {(cell.agent, cell.env, cell.payout): cell.tokens for cell in grid}
    for agent in dict.fromkeys(cell.agent for cell in grid):
        numbers = [0, 0, 0, 0]
        for env in dict.fromkeys(cell.env for cell in grid):
            immediate, sparse = (by_key.get((agent, env, payout)) for payout in ("immediate", "sparse"))
            if immediate is None or sparse is None:
                continue
            neither = immediate == sparse == np.inf
            numbers[3 if neither else 0 if immediate < sparse else 1 if sparse < immediate else 2] += 1
        if sum(numbers):
            counts[agent] = (numbers[0], numbers[1], numbers[2], numbers[3])
    return counts
