"""Results of `python -m benchmarks learn` as one page of HTML, with its pictures inside, and as Markdown.

    python -m benchmarks report --results runs/learn-smoke.jsonl

What the numbers are and how uncertain: benchmarks/learn/analysis.py.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tyro

from benchmarks.learn import analysis
from benchmarks.learn.analysis import Cell, Interval, Row
from benchmarks.learn.run_suite import read_rows
from benchmarks.learn.suite import UNTRAINED, is_own

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1d22; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.25; font-weight: 600; } h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .22rem .7rem; border-bottom: 1px solid #dcdfe6; text-align: right; }
td { white-space: nowrap; } td.text, th.text { text-align: left; } th { font-weight: 600; vertical-align: bottom; }
td.text { white-space: normal; min-width: 9rem; }
tr:hover td { background: #f6f7f9; } img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
p { max-width: 46rem; } .note { color: #5b606b; } code { font-size: 13px; overflow-wrap: anywhere; }
"""


_DASHES = (("immediate", "-"), ("sparse", "--"))
Styles: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the report of some results."""

    results: Path = Path("runs/learn-smoke.jsonl")
    """What `python -m benchmarks learn` wrote."""
    output: Path | None = None
    """Where to: OUTPUT.html and OUTPUT.md. Default: beside the results, under their name."""
    command: str | None = None
    """The commands that made the results, for the head of the page."""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Its heading.
        text: What to know to read it, a paragraph each.
        table: Rows of cells, the names of the columns first; or None.
        picture: A PNG, or None. Markdown leaves it out.
    """

    title: str
    text: tuple[str, ...] = ()
    table: list[list[str]] | None = None
    picture: bytes | None = None


def sections(rows: Sequence[Row]) -> list[Section]:
    """The report of one suite, at its own budgets or at another one.

    Args:
        rows: Its rows.

    Returns:
        The sections, in order.
    """
    found = analysis.matrices(rows)
    grid = analysis.cells(rows)
    styles = _styles(analysis.names(rows, "agent"))
    parts = [Section("Notes", notes)] if (notes := _notes(rows)) else []
    if found.scores:
        parts += [_headline(rows, styles), _aggregates(found, styles), _improvements(found), _profiles(found, styles)]
    elif found.left_out:
        reasons = "; ".join(f"{agent}: {reason}" for agent, reason in found.left_out.items())
        parts.append(Section("Aggregates", (f"None. {reasons}.",)))
    parts += [_payouts(grid), _tasks(grid, rows)]
    trained = [row for row in rows if row["status"] == "ok" and row["curve"]]
    if trained:
        parts.append(_curves(trained, styles, 0, "tokens", "Learning curves, by environment tokens"))
        parts.append(_curves(trained, styles, 1, "CPU-seconds", "Learning curves, by CPU-seconds"))
    return [*parts, _failures(rows)]


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What to know before any number."""
    found = []
    for agent, settings in analysis.differing(rows).items():
        differ = "; ".join(f"{name}: {' or '.join(map(str, values))}" for name, values in settings.items())
        found.append(
            f"Warning: runs of {agent} on one task had different settings ({differ}), so that their mean is over "
            "different algorithms. Make these runs again, in a file of their own."
        )
    models = list(dict.fromkeys(row.get("model", "tiny") for row in rows))
    if models != ["tiny"]:
        found.append(
            f"All seeds begin with one and the same start model, {' or '.join(models)}: intervals and deviations are "
            "over seeds of what came after it alone."
        )
    return tuple(found)


def _headline(rows: Sequence[Row], styles: Styles) -> Section:
    """Each payout's interquartile means, and how they were reached: the figure for a README."""
    by_payout = {payout: analysis.matrices(analysis.chosen(rows, payout=payout)).scores for payout, _ in _DASHES}
    means = {payout: analysis.aggregates(scores) for payout, scores in by_payout.items() if scores}
    agents = list(dict.fromkeys(agent for found in means.values() for agent in found))
    agents.sort(key=lambda agent: -max(found[agent]["IQM"].value for found in means.values() if agent in found))
    table = [["agent", *[f"IQM, {payout}" for payout in means]]]
    for agent in agents:
        table.append([agent, *[str(found[agent]["IQM"]) if agent in found else "" for found in means.values()]])

    def draw(plt: Any) -> Any:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(10, max(3.2, 0.36 * len(agents) + 1.2)), layout="constrained"
        )
        for place, agent in enumerate(agents):
            for shift, (payout, dash) in zip((-0.15, 0.15), _DASHES, strict=True):
                one = means.get(payout, {}).get(agent)
                if one is not None:
                    found, y = one["IQM"], place + shift
                    left.plot([found.low, found.high], [y, y], lw=2, ls=dash, color=styles[agent]["color"])
                    left.plot([found.value], [y], "o", ms=4, color=styles[agent]["color"])
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
    return Section("At a glance", (text,), table, _png(draw))


def _aggregates(found: analysis.Matrices, styles: Styles) -> Section:
    values = analysis.aggregates(found.scores)
    order = sorted(values, key=lambda agent: -values[agent]["IQM"].value)
    table = [["agent", *analysis.MEASURES, "runs a task"]]
    for agent in order:
        table.append([agent, *[str(values[agent][name]) for name in analysis.MEASURES], str(len(found.scores[agent]))])
    text = [
        f"Normalised test scores over {len(found.tasks)} tasks (an environment with a payout): 0 is random tokens, 1 "
        "the top. In brackets: 95 % intervals of a bootstrap stratified by task (rliable). IQM: mean of the middle "
        "half of all runs. Optimality gap: how far runs stay below 1, on average; smaller is better.",
        "A failed run counts as 0.",
    ]
    if any(len(matrix) < 3 for matrix in found.scores.values()):
        text.append("Few runs a task: intervals say little, and with one run they are a point.")
    if found.left_out:
        text.append("Not in here: " + "; ".join(f"{a} ({reason})" for a, reason in found.left_out.items()) + ".")
    return Section("Aggregates", tuple(text), table, _interval_plot(values, order, styles))


def _improvements(found: analysis.Matrices) -> Section:
    agents = [agent for agent in found.scores if agent not in UNTRAINED]
    pairs = analysis.improvements({agent: found.scores[agent] for agent in agents})
    table = [["row beats column", *agents]]
    for one in agents:
        table.append([one, *["" if one == two else str(pairs[one, two]) for two in agents]])
    text = "How likely a run of the row's agent is to beat one of the column's on the same task; 0.5 is even."
    return Section("Probability of improvement", (text,), table)


def _profiles(found: analysis.Matrices, styles: Styles) -> Section:
    taus, values, bounds = analysis.profiles(found.scores)

    def draw(plt: Any) -> Any:
        figure, axis = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
        for agent, value in values.items():
            axis.plot(taus, value, label=agent, **styles[agent])
            axis.fill_between(taus, *bounds[agent], alpha=0.12, color=styles[agent]["color"], lw=0)
        axis.set(xlabel="normalised score", ylabel="share of runs above it", xlim=(0, 1), ylim=(-0.02, 1.02))
        _tidy(axis)
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    return Section("Performance profiles", ("Higher is better.",), None, _png(draw))


def _payouts(grid: list[Cell]) -> Section:
    by_key = {(cell.agent, cell.env, cell.payout): cell for cell in grid}
    table = [["agent", "environment", "score: immediate", "sparse", "tokens to threshold: immediate", "sparse"]]
    for agent in dict.fromkeys(cell.agent for cell in grid):
        for env in dict.fromkeys(cell.env for cell in grid):
            pair = [by_key.get((agent, env, payout)) for payout in ("immediate", "sparse")]
            if agent not in UNTRAINED and all(pair):
                table.append([agent, env, *[_number(one.score) for one in pair], *[_tokens(one) for one in pair]])
    text = [
        "The threshold is nine tenths of the way from random to top; reached when the mean training score of three "
        "updates is there. Tokens: the median over seeds."
    ]
    for agent, (one, two, equal, neither) in analysis.sooner(grid).items():
        text.append(
            f"{agent}: immediate is sooner on {one} environments, sparse on {two}, equally soon on {equal}; neither "
            f"gets there on {neither}."
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
    what = "normalised where the task has a scale, else as it is" if scaled else "as it is, since no task has a scale"
    text = (
        "Runs: those that did not fail, of all. A failed one counts as a score of 0 where the task has a scale, and is "
        "left out where it has none. Tokens used: the mean; a budget is finished by a whole batch, so that agents go "
        "beyond it by different amounts.",
        f"Score: mean over seeds on the test split, {what}. Over seeds: its sample standard deviation. Shifted: on the "
        "shifted test split (longer or other inputs than were trained on), on that split's own scale.",
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
    return Section(title, (text,), None, _png(draw))


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
    """The mean, lowest and highest of several curves, up to where the shortest ends.

    Args:
        curves: Rows of tokens, CPU-seconds and score.
        column: 0 for tokens as x, 1 for CPU-seconds.
        points: How many x.

    Returns:
        x, mean, lowest and highest, `(points,)` each.
    """
    arrays = [np.array(curve, dtype=np.float64) for curve in curves]
    x = np.linspace(max(one[0, column] for one in arrays), min(one[-1, column] for one in arrays), points)
    y = np.array([np.interp(x, one[:, column], one[:, 2]) for one in arrays])
    return x, y.mean(axis=0), y.min(axis=0), y.max(axis=0)


# Writing --------------------------------------------------------------------------------------------------------------


def markdown(head: list[str], parts: list[Section]) -> str:
    """The report without its pictures, and without the sections that are nothing else."""
    lines = [f"# {head[0]}", ""]
    for one in head[1:]:
        lines += [one, ""]
    for part in parts:
        if part.picture is not None and part.table is None:
            continue
        lines += [f"## {part.title}", ""]
        for paragraph in part.text:
            lines += [paragraph, ""]
        if part.table is not None:
            first, *rest = part.table
            lines += ["| " + " | ".join(first) + " |", "|" + "---|" * len(first)]
            lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
                      for row in rest]  # fmt: skip
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def html(head: list[str], parts: list[Section]) -> str:
    """The report as one page that needs nothing else."""
    lines = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(head[0])}</title><style>{_STYLE}</style><h1>{escape(head[0])}</h1>",
        *[_paragraph(one) for one in head[1:]],
    ]
    for part in parts:
        lines.append(f"<h2>{escape(part.title)}</h2>")
        lines += [f"<p class=note>{escape(paragraph)}</p>" for paragraph in part.text]
        if part.table is not None:
            lines.append(f"<div class=wide>{_html_table(part.table)}</div>")
        if part.picture is not None:
            data = base64.b64encode(part.picture).decode()
            lines.append(f"<img alt='{escape(part.title)}' src='data:image/png;base64,{data}'>")
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    return f"<p><code>{escape(text.strip())}</code></p>" if text.startswith("    ") else f"<p>{escape(text)}</p>"


_TEXTS = {"agent", "environment", "payout", "what", "why", "row beats column"}
"""Columns whose cells stand at the left."""


def _html_table(table: list[list[str]]) -> str:
    texts = [name in _TEXTS for name in table[0]]

    def line(cells: list[str], tag: str) -> str:
        # An agent with many settings may break between two of them.
        broken = ["<wbr>".join(map(escape, re.split(r"(?<=;)|(?=\[)", cell))) for cell in cells]
        parts = [f"<{tag}{' class=text' if texts[i] else ''}>{cell}</{tag}>" for i, cell in enumerate(broken)]
        return "<tr>" + "".join(parts) + "</tr>"

    return "<table>" + line(table[0], "th") + "".join(line(row, "td") for row in table[1:]) + "</table>"


def _interval_plot(values: dict[str, dict[str, Interval]], order: list[str], styles: Styles) -> bytes:
    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(
            1, len(analysis.MEASURES), figsize=(10, 0.34 * len(order) + 1.1), layout="constrained", sharey=True
        )
        for axis, name in zip(axes, analysis.MEASURES, strict=True):
            for place, agent in enumerate(order):
                one = values[agent][name]
                axis.plot([one.low, one.high], [place, place], lw=6, alpha=0.35, color=styles[agent]["color"],
                          solid_capstyle="butt")  # fmt: skip
                axis.plot([one.value], [place], "|", ms=14, mew=2, color=styles[agent]["color"])
            axis.set_yticks(range(len(order)), order)
            axis.set_title(name, fontsize=10)
            _tidy(axis)
        axes[0].invert_yaxis()
        return figure

    return _png(draw)


def _styles(agents: list[str]) -> Styles:
    """One look for each agent, the same in all plots."""
    import matplotlib

    colors = [*matplotlib.color_sequences["tab10"], *matplotlib.color_sequences["Dark2"]]
    return {agent: {"color": colors[place % len(colors)], "lw": 1.6} for place, agent in enumerate(agents)}


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _png(draw: Any) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = draw(plt)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _finite(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "never"


def _tokens(cell: Cell) -> str:
    return "" if cell.tokens is None else _finite(cell.tokens, ",.0f")


def _settings(row: Row) -> str:
    """What a run had that its suite does not say: runs in which it differs are different experiments."""
    model, seconds = row.get("model", "tiny"), row.get("max_seconds")
    if is_own(row["suite"], row["env"], row["budget"], model, seconds):
        return "its own budgets"
    settings = f"{row['budget']:,} tokens a run" + (f" from {model}" if model != "tiny" else "")
    return settings if seconds is None else f"{settings}, at most {seconds:g} seconds"


def main(argv: Sequence[str]) -> None:
    """Write the report.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks report")
    rows = read_rows(arguments.results)
    if not rows:
        raise SystemExit(f"error: Expected results in {str(arguments.results)!r}, got none: python -m benchmarks learn")
    try:
        analysis.load_rliable()
    except ImportError as error:
        raise SystemExit(f"error: {error}") from error
    target = arguments.output or arguments.results.with_suffix("")
    head = [f"Benchmark: {', '.join(analysis.names(rows, 'suite'))}"]
    head += [f"    {command}" for command in (arguments.command or "").split("\n") if command]
    machines = ", ".join(dict.fromkeys(row["machine"] for row in rows if "machine" in row))
    seconds = sum(row.get("cpu_seconds", 0.0) for row in rows)
    made = sorted({row["textenvs"] for row in rows if "textenvs" in row})
    by = "; ".join([machines, *(f"textenvs {version}" for version in made)])
    head.append(f"{len(rows)} runs, {seconds:,.0f} CPU-seconds, one thread a run; {by}.")
    parts: list[Section] = []
    glanced: bytes | None = None
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["suite"], _settings(row)), []).append(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    for (suite, settings), some in groups.items():
        prefix = f"{suite}, {settings}: "
        for one in sections(some):
            if one.title == "At a glance" and not glanced:
                glanced = one.picture
            title = prefix + one.title if len(groups) > 1 else one.title
            parts.append(Section(title, one.text, one.table, one.picture))
    if len(groups) == 1:
        budgets = ", ".join(f"{budget:,}" for budget in sorted(set(analysis.names(rows, "budget"))))
        head.append(f"Budget of a run: {budgets} environment tokens.")
    if glanced is not None:
        target.with_suffix(".png").write_bytes(glanced)
    target.with_suffix(".md").write_text(markdown(head, parts), encoding="utf-8")
    target.with_suffix(".html").write_text(html(head, parts), encoding="utf-8")
    print(f"{target.with_suffix('.html')}\n{target.with_suffix('.md')}")
