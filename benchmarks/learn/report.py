"""Reports results of `python -m benchmarks learn` as Markdown, and as one page of HTML with its pictures inside.

    python -m benchmarks report --results runs/learn-smoke.jsonl
    python -m benchmarks report --all

The second command makes the pages of all committed results again. The numbers and their intervals are computed in
benchmarks/learn/analysis.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tyro

from benchmarks.learn import analysis
from benchmarks.learn.analysis import Cell, Interval, Row
from benchmarks.learn.page import Section, draw_png, html, markdown
from benchmarks.learn.run_suite import read_rows
from benchmarks.learn.suite import RANDOM_WEIGHTS, UNTRAINED, is_own
from benchmarks.records import RESULTS, write_page

_DASHES = (("immediate", "-"), ("sparse", "--"))
Styles: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the report of some results."""

    results: Path = Path("runs/learn-smoke.jsonl")
    """The file that `python -m benchmarks learn` wrote."""
    output: Path | None = None
    """Name of the pages: OUTPUT.html, OUTPUT.md and OUTPUT.png. Default: that of the results."""
    command: str | None = None
    """The commands that made the results, for the head of the page. Default: those in the rows, and where there are
    none, those of the page as it is."""
    all: bool = False
    """Make the pages of all results in benchmarks/results, in place of one."""
    replications: int = analysis.REPLICATIONS
    """Samples of the bootstrap of the intervals."""


def sections(rows: Sequence[Row], replications: int = analysis.REPLICATIONS) -> list[Section]:
    """Makes the report of one suite, at its own budgets or at another one.

    Args:
        rows: Its rows.
        replications: Samples of the bootstrap of its intervals.

    Returns:
        The sections, in order.
    """
    matrices = analysis.matrices(rows)
    grid = analysis.cells(rows)
    styles = _styles(analysis.names(rows, "agent"))
    parts = [Section("Notes", notes)] if (notes := _notes(rows)) else []
    if matrices.scores:
        parts += [
            _headline(rows, styles, replications), _aggregates(matrices, styles, replications),
            _improvements(matrices, replications), _profiles(matrices, styles),
        ]  # fmt: skip
    elif matrices.left_out:
        reasons = "; ".join(f"{agent}: {reason}" for agent, reason in matrices.left_out.items())
        parts.append(Section("Aggregates", (f"None. {reasons}.",)))
    parts += [_payouts(grid), _tasks(grid, rows)]
    trained = [row for row in rows if row["status"] == "ok" and row["curve"]]
    if trained:
        parts.append(_curves(trained, styles, 0, "tokens", "Learning curves, by environment tokens"))
        parts.append(_curves(trained, styles, 1, "CPU-seconds", "Learning curves, by CPU-seconds"))
    return [*parts, _failures(rows)]


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns what a reader has to know before any number."""
    notes = []
    for agent, settings in analysis.differing(rows).items():
        differ = "; ".join(f"{name}: {' or '.join(map(str, values))}" for name, values in settings.items())
        notes.append(
            f"Warning: runs of {agent} on one task had different settings ({differ}), so that their mean is over "
            "different algorithms. Make these runs again, in a file of their own."
        )
    models = list(dict.fromkeys(row.get("model", "tiny") for row in rows))
    models = [model for model in models if not model.startswith(RANDOM_WEIGHTS)]
    if models and models != ["tiny"]:
        notes.append(
            f"All seeds begin with one and the same start model, {' or '.join(models)}: intervals and deviations are "
            "over the seeds of training alone, not over those of the model."
        )
    return tuple(notes)


def _headline(rows: Sequence[Row], styles: Styles, replications: int) -> Section:
    """Each payout's interquartile means, and the training curves that led there: the figure for a README."""
    by_payout = {payout: analysis.matrices(analysis.chosen(rows, payout=payout)).scores for payout, _ in _DASHES}
    means = {
        payout: analysis.aggregates(scores, replications=replications) for payout, scores in by_payout.items() if scores
    }
    agents = list(dict.fromkeys(agent for by_agent in means.values() for agent in by_agent))
    agents.sort(
        key=lambda agent: -max(by_agent[agent]["IQM"].value for by_agent in means.values() if agent in by_agent)
    )
    table = [["agent", *[f"IQM, {payout}" for payout in means]]]
    for agent in agents:
        iqms = [str(by_agent[agent]["IQM"]) if agent in by_agent else "" for by_agent in means.values()]
        table.append([agent, *iqms])

    def draw(plt: Any) -> Any:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(10, max(3.2, 0.36 * len(agents) + 1.2)), layout="constrained"
        )
        for row, agent in enumerate(agents):
            for shift, (payout, dash) in zip((-0.15, 0.15), _DASHES, strict=True):
                measures = means.get(payout, {}).get(agent)
                if measures is not None:
                    iqm, y = measures["IQM"], row + shift
                    left.plot([iqm.low, iqm.high], [y, y], lw=2, ls=dash, color=styles[agent]["color"])
                    left.plot([iqm.value], [y], "o", ms=4, color=styles[agent]["color"])
                curve = analysis.mean_curve(analysis.chosen(rows, agent=agent, payout=payout))
                if curve is not None:
                    right.plot(*curve, **{**styles[agent], "ls": dash, "lw": 1.2})
        left.set_yticks(range(len(agents)), agents)
        left.invert_yaxis()
        left.set_title("interquartile mean of test scores, 95 % interval", fontsize=9)
        right.set_title("mean training score", fontsize=9)
        right.set_xlabel("share of the budget", fontsize=9)
        right.legend(
            handles=[plt.Line2D([], [], color="0.3", ls=dash, label=payout) for payout, dash in _DASHES],
            fontsize=8, frameon=False, loc="lower right",
        )  # fmt: skip
        for axis in (left, right):
            _tidy(axis)
        return figure

    text = (
        "Normalised scores, over environments: 0 is random tokens, 1 the top. Lines: immediate payouts; dashes: sparse "
        "ones, of the same score."
    )
    return Section("At a glance", (text,), table, draw_png(draw))


def _aggregates(matrices: analysis.Matrices, styles: Styles, replications: int) -> Section:
    values = analysis.aggregates(matrices.scores, replications=replications)
    order = sorted(values, key=lambda agent: -values[agent]["IQM"].value)
    table = [["agent", *analysis.MEASURES, "runs a task"]]
    for agent in order:
        table.append(
            [agent, *[str(values[agent][name]) for name in analysis.MEASURES], str(len(matrices.scores[agent]))]
        )
    text = [
        f"Normalised test scores over {len(matrices.tasks)} tasks (an environment with a payout): 0 is random tokens, "
        "1 the top. In brackets: 95 % intervals of a bootstrap stratified by task (rliable). IQM: mean of the middle "
        "half of all runs. Optimality gap: how far runs stay below 1, on average; smaller is better.",
        "A failed run counts as 0.",
    ]
    if any(len(matrix) < 3 for matrix in matrices.scores.values()):
        text.append("Few runs a task: intervals say little, and with one run they are a point.")
    if matrices.left_out:
        text.append("Not in here: " + "; ".join(f"{a} ({reason})" for a, reason in matrices.left_out.items()) + ".")
    return Section("Aggregates", tuple(text), table, _interval_plot(values, order, styles))


def _improvements(matrices: analysis.Matrices, replications: int) -> Section:
    agents = [agent for agent in matrices.scores if agent not in UNTRAINED]
    scores = {agent: matrices.scores[agent] for agent in agents}
    pairs = analysis.improvements(scores, replications=max(1, replications // 10))
    table = [["row beats column", *agents]]
    for agent in agents:
        table.append([agent, *["" if agent == other else str(pairs[agent, other]) for other in agents]])
    text = "How likely a run of the row's agent is to beat one of the column's on the same task; 0.5 is even."
    return Section("Probability of improvement", (text,), table)


def _profiles(matrices: analysis.Matrices, styles: Styles) -> Section:
    taus, values, bounds = analysis.profiles(matrices.scores)

    def draw(plt: Any) -> Any:
        figure, axis = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
        for agent, value in values.items():
            axis.plot(taus, value, label=agent, **styles[agent])
            axis.fill_between(taus, *bounds[agent], alpha=0.12, color=styles[agent]["color"], lw=0)
        axis.set(xlabel="normalised score", ylabel="share of runs above it", xlim=(0, 1), ylim=(-0.02, 1.02))
        _tidy(axis)
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    return Section("Performance profiles", ("Higher is better.",), None, draw_png(draw))


def _payouts(grid: list[Cell]) -> Section:
    by_key = {(cell.agent, cell.env, cell.payout): cell for cell in grid}
    table = [["agent", "environment", "score: immediate", "sparse", "tokens to threshold: immediate", "sparse"]]
    for agent in dict.fromkeys(cell.agent for cell in grid):
        for env in dict.fromkeys(cell.env for cell in grid):
            pair = [by_key.get((agent, env, payout)) for payout in ("immediate", "sparse")]
            if agent not in UNTRAINED and all(pair):
                table.append([agent, env, *[_number(cell.score) for cell in pair], *[_tokens(cell) for cell in pair]])
    text = [
        "The threshold is nine tenths of the way from random to top; reached when the mean training score of three "
        "updates is there. Tokens: the median over seeds."
    ]
    for agent, (immediate, sparse, equal, neither) in analysis.sooner(grid).items():
        text.append(
            f"{agent}: immediate is sooner on {immediate} environments, sparse on {sparse}, equally soon on {equal}; "
            f"neither gets there on {neither}."
        )
    return Section("Immediate against sparse payouts", tuple(text), table if len(table) > 1 else None)


def _tasks(grid: list[Cell], rows: Sequence[Row]) -> Section:
    beside = [name for name in analysis.BESIDE if any(name in cell.beside for cell in grid)]
    table = [
        ["environment", "payout", "agent", "runs", "tokens used", "score", "over seeds", "shifted", "reached",
         "tokens to it", "CPU s to it", "late deviation", *[analysis.BESIDE[name] for name in beside]]
    ]  # fmt: skip
    for cell in grid:
        table.append(
            [
                cell.env,
                cell.payout,
                cell.agent,
                f"{cell.runs - cell.failed}/{cell.runs}",
                "" if cell.used is None else f"{cell.used:,.0f}",
                _number(cell.score),
                _number(cell.spread),
                _number(cell.shifted),
                "" if cell.tokens is None else f"{cell.reached}/{cell.runs}",
                _tokens(cell),
                "" if cell.cpu_seconds is None else _finite(cell.cpu_seconds, ".0f"),
                _number(cell.late_deviation, 3),
                *[_number(cell.beside.get(name)) for name in beside],
            ]
        )
    scaled = any(row.get("normalised") is not None for row in rows)
    scale = "as it is" if not scaled else "normalised where the task has a scale, else as it is"
    text = (
        "Runs: those that did not fail, of all. A failed one counts as a score of 0 where the task has a scale, and is "
        "left out where it has none. Tokens used: the mean; a budget is finished by a whole batch, so that agents go "
        "beyond it by different amounts.",
        f"Score: mean over seeds on the test split, {scale}. Over seeds: its sample standard deviation. Shifted: on "
        "the shifted test split (longer or other inputs than were trained on), on that split's own scale.",
        "Reached: runs that got to the threshold. Late deviation: standard deviation of the training "
        "score over the updates in the last fifth of training, in score units. KL: to the start model, in nats a "
        "response. Held-out: a metric that nobody trained on.",
    )
    return Section("Every task", text, table)


def _curves(rows: list[Row], styles: Styles, column: int, label: str, title: str) -> Section:
    envs, agents = analysis.names(rows, "env"), analysis.names(rows, "agent")

    def draw(plt: Any) -> Any:
        across = min(3, len(envs))
        down = -(-len(envs) // across)
        figure, axes = plt.subplots(
            down, across, figsize=(3.6 * across + 0.4, 2.5 * down + 0.6), layout="constrained", squeeze=False
        )
        for axis, env in zip(axes.flat, envs, strict=False):
            for agent in agents:
                for payout, dash in _DASHES:
                    some = analysis.chosen(rows, env=env, agent=agent, payout=payout)
                    if some:
                        x, mean, low, high = joined_curves([row["curve"] for row in some], column)
                        axis.plot(x, mean, **{**styles[agent], "ls": dash})
                        axis.fill_between(x, low, high, color=styles[agent]["color"], alpha=0.1, lw=0)
            reached = next((row["threshold"] for row in rows if row["env"] == env and "threshold" in row), None)
            if reached is not None:
                axis.axhline(reached, color="0.6", lw=0.8, ls=":")
            axis.set_title(env, fontsize=10)
            _tidy(axis)
        for axis in list(axes.flat)[len(envs) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel(label, fontsize=9)
        lines = [plt.Line2D([], [], label=agent, **styles[agent]) for agent in agents]
        dashes = [plt.Line2D([], [], color="0.3", ls=dash, label=payout) for payout, dash in _DASHES]
        figure.legend(
            handles=[*lines, *dashes], loc="outside lower center", ncols=across + 1, fontsize=8, frameon=False
        )
        return figure

    text = "Training score, mean over seeds, the band from lowest to highest seed. Dotted: the threshold."
    return Section(title, (text,), None, draw_png(draw))


def _failures(rows: Sequence[Row]) -> Section:
    bad = [row for row in rows if row["status"] != "ok"]
    text = f"{len(rows)} runs, {sum(row['status'] == 'failed' for row in bad)} failed, "
    text += f"{sum(row['status'] == 'skipped' for row in bad)} skipped."
    counts: dict[tuple[str, ...], int] = {}
    for row in bad:
        key = (row["agent"], row["env"], row["payout"], row["status"], row["reason"][:160])
        counts[key] = counts.get(key, 0) + 1
    table = [["agent", "environment", "payout", "what", "why", "runs"]]
    table += [[*key, str(count)] for key, count in counts.items()]
    return Section("Runs that failed or were skipped", (text,), table if bad else None)


def joined_curves(curves: list[list[list[float]]], column: int, points: int = 60) -> tuple[Any, Any, Any, Any]:
    """Computes the mean, lowest and highest of several curves, up to the end of the shortest.

    Args:
        curves: Rows of tokens, CPU-seconds and score.
        column: 0 for tokens as x, 1 for CPU-seconds.
        points: The number of x.

    Returns:
        x, mean, lowest and highest, `(points,)` each.
    """
    arrays = [np.array(curve, dtype=np.float64) for curve in curves]
    x = np.linspace(max(curve[0, column] for curve in arrays), min(curve[-1, column] for curve in arrays), points)
    y = np.array([np.interp(x, curve[:, column], curve[:, 2]) for curve in arrays])
    return x, y.mean(axis=0), y.min(axis=0), y.max(axis=0)


def _interval_plot(values: dict[str, dict[str, Interval]], order: list[str], styles: Styles) -> bytes:
    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(
            1, len(analysis.MEASURES), figsize=(10, 0.34 * len(order) + 1.1), layout="constrained", sharey=True
        )
        for axis, name in zip(axes, analysis.MEASURES, strict=True):
            for row, agent in enumerate(order):
                interval = values[agent][name]
                axis.plot([interval.low, interval.high], [row, row], lw=6, alpha=0.35, color=styles[agent]["color"],
                          solid_capstyle="butt")  # fmt: skip
                axis.plot([interval.value], [row], "|", ms=14, mew=2, color=styles[agent]["color"])
            axis.set_yticks(range(len(order)), order)
            axis.set_title(name, fontsize=10)
            _tidy(axis)
        axes[0].invert_yaxis()
        return figure

    return draw_png(draw)


def _styles(agents: list[str]) -> Styles:
    """Chooses a look for each agent, the same in all plots."""
    import matplotlib

    colors = [*matplotlib.color_sequences["tab10"], *matplotlib.color_sequences["Dark2"]]
    return {agent: {"color": colors[index % len(colors)], "lw": 1.6} for index, agent in enumerate(agents)}


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _finite(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "never"


def _tokens(cell: Cell) -> str:
    return "" if cell.tokens is None else _finite(cell.tokens, ",.0f")


def _settings(row: Row) -> str:
    """Names the settings of a run that are not its suite's: runs that differ in them are different experiments."""
    model, seconds = row.get("model", "tiny"), row.get("max_seconds")
    if is_own(row["suite"], row["env"], row["budget"], model, seconds):
        return "its own budgets"
    settings = f"{row['budget']:,} tokens a run" + (f" from {model}" if model != "tiny" else "")
    return settings if seconds is None else f"{settings}, at most {seconds:g} seconds"


def _commands(rows: Sequence[Row], page: Path) -> list[str]:
    """Finds the commands that made some results: in their rows, and in a page that was made of older ones.

    Rows had no command at first: then the commands were given to the report, and stand indented below the page's title.
    """
    commands = list(dict.fromkeys(row["command"] for row in rows if "command" in row))
    if page.exists() and any("command" not in row for row in rows):
        head, _, _ = page.read_text(encoding="utf-8").partition("\n## ")
        commands = [line.strip() for line in head.splitlines() if line.startswith("    ")] + commands
    return list(dict.fromkeys(commands))


def _head(rows: Sequence[Row], commands: Sequence[str]) -> list[str]:
    """Returns the title, the commands and the origin of some results."""
    machines = ", ".join(dict.fromkeys(row["machine"] for row in rows if "machine" in row))
    seconds = sum(row.get("cpu_seconds", 0.0) for row in rows)
    versions = sorted({row["textenvs"] for row in rows if "textenvs" in row})
    origin = "; ".join([machines, *(f"textenvs {version}" for version in versions)])
    return [
        f"Benchmark: {', '.join(analysis.names(rows, 'suite'))}",
        *(f"    {command}" for command in commands if command),
        f"{len(rows)} runs, {seconds:,.0f} CPU-seconds, one thread a run; {origin}.",
    ]


def write_report(
    results: Path, output: Path | None = None, command: str | None = None, replications: int = analysis.REPLICATIONS
) -> Path:
    """Writes the pages of a results file.

    Args:
        results: The .jsonl file.
        output: The pages' name; None: that of the results.
        command: The commands that made the results, a line each; None: as the rows or the page have them.
        replications: Samples of the bootstrap of the intervals.

    Returns:
        The pages' name, without a suffix.

    Raises:
        ValueError: If there are no results.
    """
    rows = read_rows(results)
    if not rows:
        raise ValueError(f"Expected results in {str(results)!r}, got none: python -m benchmarks learn")
    target = results.with_suffix("") if output is None else output
    commands = _commands(rows, target.with_suffix(".md")) if command is None else command.split("\n")
    head = _head(rows, commands)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["suite"], _settings(row)), []).append(row)
    parts: list[Section] = []
    figure: bytes | None = None
    for (suite, settings), group in groups.items():
        for section in sections(group, replications):
            if section.title == "At a glance" and figure is None:
                figure = section.picture
            title = f"{suite}, {settings}: {section.title}" if len(groups) > 1 else section.title
            parts.append(replace(section, title=title))
    if len(groups) == 1:
        budgets = ", ".join(f"{budget:,}" for budget in sorted(set(analysis.names(rows, "budget"))))
        head.append(f"Budget of a run: {budgets} environment tokens.")
    write_page(target, markdown(head, parts), html=html(head, parts), picture=figure)
    return target


def write_reports(folder: Path, replications: int = analysis.REPLICATIONS) -> list[Path]:
    """Writes the pages of all results of `python -m benchmarks learn` in a folder.

    Args:
        folder: The folder of the learn-*.jsonl files.
        replications: Samples of the bootstrap of the intervals.

    Returns:
        The pages' names, without a suffix.
    """
    return [write_report(file, replications=replications) for file in sorted(folder.glob("learn-*.jsonl"))]


def main(argv: Sequence[str]) -> None:
    """Writes reports.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks report")
    try:
        analysis.load_rliable()
        if arguments.all:
            pages = write_reports(RESULTS, arguments.replications)
        else:
            pages = [write_report(arguments.results, arguments.output, arguments.command, arguments.replications)]
    except (ImportError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for page in pages:
        print(f"{page.with_suffix('.html')}\n{page.with_suffix('.md')}")
