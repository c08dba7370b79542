"""A comparison of language models as tables of text, and as files: a page of HTML, its pictures and JSON."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation.comparison import Comparison
from agents.files import to_json, write_text
from agents.locks import FolderLock
from textenvs import render
from textenvs.arguments import check_path
from textenvs.render import visible_line

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1d22; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.25; font-weight: 600; } h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #dcdfe6; text-align: right; }
td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
img { max-width: 100%; } pre.episode { margin: .2rem 0 .8rem; font: 14px/1.6 ui-monospace, monospace; }
.note { color: #5b606b; max-width: 44rem; } .wide { overflow-x: auto; }
"""

DISTRIBUTION = "Distribution of scores"
"""The title of the table that the page shows with a picture."""


def measure_name(comparison: Comparison) -> str:
    """The name of the cumulative advantage in tables and pictures: with its lambda, where that is not 0."""
    if comparison.gae_lambda == 0:
        return "cumulative advantage"
    return f"cumulative advantage, lambda {comparison.gae_lambda:g}"


def notes(comparison: Comparison) -> list[str]:
    """Notes that a reader needs to understand the numbers, a sentence or two each."""
    measure = (
        f"Cumulative advantage: the sum of discounted TD errors (gamma {comparison.gamma:g}) under the value function "
        f"of {comparison.reference!r}, which is the return minus V of the prompt."
        if comparison.gae_lambda == 0
        else f"Cumulative advantage with lambda {comparison.gae_lambda:g}: each TD error under the value function of "
        f"{comparison.reference!r} counts (1 - lambda^(k+1)) / (1 - lambda) times, k being the tokens before it, so "
        "late tokens weigh more. It is not the return minus V of the prompt; lambda 0 is."
    )
    kind = {
        "fitted": "The value function is the mean of the reference's returns at each step, and a ridge regression from "
        "its hidden states to the rest; the values of a prompt are fitted without that prompt's episodes.",
        "head": "The value function is the reference's own value head, and the mean at each step of the part of its "
        "returns that the head does not explain.",
    }[comparison.value_function]
    return [
        measure,
        f"{kind} It explains {comparison.explained_variance:.0%} of the variance of the reference's returns.",
        "Differences are paired by prompt, with 95 % confidence intervals.",
    ]


Table = tuple[str, list[list[str]]]
"""A title, and rows of cells, the first of which names the columns."""


def tables(comparison: Comparison) -> list[Table]:
    """Returns the numbers as tables of text.

    Args:
        comparison: The comparison.

    Returns:
        The tables. Those of differences, labels and paired prompts are there where a model has such numbers.
    """
    optional = (_differences(comparison), _labels(comparison), _gaps(comparison))
    differences, labels, gaps = ([table] if len(table[1]) > 1 else [] for table in optional)
    return [_scores(comparison), _distributions(comparison), *differences, _folds(comparison), *labels, *gaps]


def _scores(comparison: Comparison) -> Table:
    rows = [
        ["model", "score", "95 % interval", "normalised", "return", measure_name(comparison), "held-out", "KL",
         "distinct-2", "length"]
    ]  # fmt: skip
    for model in comparison.models:
        evaluation = model.evaluation
        rows.append(
            [
                visible_line(model.name),
                f"{evaluation.score:.3f}",
                f"{evaluation.score_low:.3f} to {evaluation.score_high:.3f}",
                _number(model.normalised),
                f"{np.mean(model.returns):.3f}",
                "" if model.advantages is None else f"{np.mean(model.advantages):+.3f}",
                _number(evaluation.held_out),
                _number(evaluation.kl, 1),
                f"{evaluation.distinct_2:.3f}",
                f"{evaluation.response_length:.1f}",
            ]
        )
    return "Scores", rows


def _distributions(comparison: Comparison) -> Table:
    rows = [["model", "lowest", "first quartile", "median", "third quartile", "highest"]]
    for model in comparison.models:
        quantiles = np.quantile(model.evaluation.scores, (0, 0.25, 0.5, 0.75, 1))
        rows.append([visible_line(model.name), *[f"{quantile:.3f}" for quantile in quantiles]])
    return DISTRIBUTION, rows


def _differences(comparison: Comparison) -> Table:
    rows = [["model", "difference", "95 % interval", "better on", "equal on", "worse on"]]
    for model in comparison.models:
        if (difference := model.difference) is not None:
            worse = 1 - difference.wins - difference.ties
            rows.append(
                [visible_line(model.name), f"{difference.mean:+.3f}",
                 f"{difference.low:+.3f} to {difference.high:+.3f}",
                 f"{difference.wins:.0%}", f"{difference.ties:.0%}", f"{worse:.0%}"]
            )  # fmt: skip
    return f"Minus {visible_line(comparison.reference)}, on the same prompts", rows


def _folds(comparison: Comparison) -> Table:
    folds = len(comparison.models[0].folds)
    rows = [["model", *[str(fold + 1) for fold in range(folds)], "mean", "deviation"]]
    for model in comparison.models:
        mean, deviation = np.mean(model.folds), np.std(model.folds, ddof=1)
        rows.append(
            [visible_line(model.name), *[f"{score:.3f}" for score in model.folds], f"{mean:.3f}", f"{deviation:.3f}"]
        )
    return f"Mean score of each of {folds} folds of the prompts", rows


def _labels(comparison: Comparison) -> Table:
    rows = [["model", "accuracy", "precision", "recall", "F1", "no label at all"]]
    for model in comparison.models:
        if (labels := model.labels) is not None:
            numbers = (labels.accuracy, labels.precision, labels.recall, labels.f1)
            rows.append([visible_line(model.name), *[f"{number:.3f}" for number in numbers], f"{labels.invalid:.0%}"])
    return "Labels (precision, recall and F1 are means over labels)", rows


def _gaps(comparison: Comparison) -> Table:
    rows = [["model", "pairs", "score gap", "95 % interval", "responses changed", "largest mean gap of a word"]]
    for model in comparison.models:
        if (gap := model.gap) is not None:
            word, largest = max(gap.by_word.items(), key=lambda item: item[1])
            rows.append(
                [visible_line(model.name), str(gap.pairs), f"{gap.mean:.3f}", f"{gap.low:.3f} to {gap.high:.3f}",
                 f"{gap.changed:.0%}", f"{visible_line(word)} {largest:+.3f}"]
            )  # fmt: skip
    return "Paired prompts that differ in one name or group word, likeliest token at every step", rows


def as_text(comparison: Comparison) -> str:
    """Returns the tables for a terminal.

    Args:
        comparison: The comparison.

    Returns:
        The text.
    """
    parts = []
    for title, rows in tables(comparison):
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        parts.append("\n".join([title, *[f"  {line.rstrip()}" for line in lines]]))
    return "\n\n".join([*parts, "\n".join(notes(comparison))])


FILES = ("comparison.json", "comparison.html", "distributions.png", "heat_map.png")
"""The files of a comparison's folder, which another comparison may write again."""


def write(comparison: Comparison, folder: str | Path, *, command: str = "", examples: int = 6) -> Path:
    """Writes `comparison.json`, `comparison.html`, `distributions.png` and `heat_map.png`.

    Args:
        comparison: The comparison.
        folder: The folder, made if it does not exist.
        command: The command that made the comparison, for the page.
        examples: The number of prompts whose responses are shown: those where the models differ most and least, and
            some between.

    Returns:
        The page.

    Raises:
        ValueError: If another process writes to the folder.
    """
    folder = check_path("folder", folder)
    with FolderLock(folder):
        return _write(comparison, folder, command, examples)


def _write(comparison: Comparison, folder: Path, command: str, examples: int) -> Path:
    write_text(folder / "comparison.json", to_json(comparison.summary(), indent=1) + "\n")
    _draw_distributions(comparison, folder / "distributions.png")
    shown = chosen_episodes(comparison, examples)
    scale = _scale(comparison, shown)
    _draw_heat_map(comparison, shown, scale, folder / "heat_map.png")
    page = folder / "comparison.html"
    write_text(page, _page(comparison, shown, scale, command, folder / "distributions.png"))
    return page


def chosen_episodes(comparison: Comparison, count: int) -> list[int]:
    """Chooses episodes to show: evenly spread in order of the distance between the models' scores, the widest first.

    Args:
        comparison: The comparison.
        count: The number of episodes.

    Returns:
        Their indices.
    """
    scores = np.array([model.evaluation.scores for model in comparison.models])
    order = np.argsort(-np.ptp(scores, axis=0), kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[rank]) for rank in ranks]


def _scale(comparison: Comparison, episodes: list[int]) -> float:
    """The largest share of a token in the cumulative advantage of some episodes, which gets the full colour."""
    shares = [
        abs(share)
        for model in comparison.models
        if model.token_advantages is not None
        for episode in episodes
        for share in model.token_advantages[episode]
    ]
    return max(shares, default=0.0) or 1.0


def _draw_heat_map(comparison: Comparison, episodes: list[int], scale: float, file: Path) -> None:
    """Draws a strip for each episode and model, one under another, its tokens coloured by their share."""
    from PIL import Image

    strips = [
        render.rgb_array(
            model.segments(episode),
            title=f"{visible_line(model.name)}, prompt {episode}, score {model.evaluation.scores[episode]:+.3f}",
            width=900,
            height=190,
            scale=scale,
            measure=(measure_name(comparison), "share"),
        )
        for episode in episodes
        for model in comparison.models
        if model.token_advantages is not None  # without another tokenizer's, whose shares are not known
    ]
    Image.fromarray(np.concatenate(strips)).save(file)


def _draw_distributions(comparison: Comparison, file: Path) -> None:
    """Draws the distributions of the scores, and of the differences to the reference."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    others = [model for model in comparison.models if model.difference is not None]
    panels = 2 if others else 1
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3.6), layout="constrained", squeeze=False)
    scores = np.concatenate([model.evaluation.scores for model in comparison.models])
    bins = np.histogram_bin_edges(scores, bins=25) if np.ptp(scores) else np.linspace(scores[0] - 1, scores[0] + 1, 3)
    colors = plt.get_cmap("tab10")
    means: list[tuple[Any, str]] = []
    differences: list[tuple[Any, str]] = []
    for number, model in enumerate(comparison.models):
        _, _, outline = axes[0, 0].hist(
            model.evaluation.scores, bins=bins, histtype="step", lw=1.8, color=colors(number % 10)
        )
        means.append((outline[0], f"{visible_line(model.name)} (mean {model.evaluation.score:.3f})"))
    axes[0, 0].set(xlabel="score", ylabel="episodes")
    for number, model in enumerate(comparison.models):
        if model.difference is not None:
            rising = np.sort(model.difference.by_prompt)
            share = np.linspace(0, 100, len(rising))
            (line,) = axes[0, 1].plot(share, rising, color=colors(number % 10), lw=1.8)
            differences.append((line, visible_line(model.name)))
    if others:
        axes[0, 1].axhline(0, color="0.6", lw=0.8)
        axes[0, 1].set(xlabel="prompts, in order (%)", ylabel=f"score minus {visible_line(comparison.reference)}'s")
    for axis, labelled in zip(axes.flat, (means, differences), strict=False):
        axis.grid(alpha=0.25)
        _write_legend(axis, labelled)
        axis.yaxis.label.set_parse_math(False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _write_legend(axis: Any, labelled: list[tuple[Any, str]]) -> None:
    """Writes a legend whose labels are names as they are: no "$" of theirs begins a formula, and no "_" hides one."""
    legend = axis.legend([artist for artist, _ in labelled], ["name"] * len(labelled), fontsize=8, frameon=False)
    for text, (_, name) in zip(legend.get_texts(), labelled, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _page(comparison: Comparison, shown: list[int], scale: float, command: str, plot: Path) -> str:
    """The page, with the picture in it."""
    names = ", ".join(visible_line(model.name) for model in comparison.models)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(comparison.env_id)}: models compared</title><style>{_STYLE}</style>",
        f"<h1>{escape(names)} on {escape(comparison.env_id)}</h1>",
        f"<p class=note>{comparison.models[0].evaluation.episodes} episodes each, split {escape(comparison.split)}.",
        f"<code>{escape(visible_line(command))}</code></p>" if command else "</p>",
        *[f"<p class=note>{escape(note)}</p>" for note in notes(comparison)],
    ]
    for title, rows in tables(comparison):
        parts.append(f"<h2>{escape(title)}</h2><div class=wide>{_html_table(rows)}</div>")
        if title == DISTRIBUTION:
            picture = base64.b64encode(plot.read_bytes()).decode()
            parts.append(f"<img alt='Distributions of scores and differences' src='data:image/png;base64,{picture}'>")
    parts.append("<h2>Which tokens earned it</h2>")
    parts.append(
        f"<p class=note>Each token stands on the colour of its share of the {escape(measure_name(comparison))}: green "
        f"above what the reference's value function expected, red below; full colour at {scale:.3g}. Hover for the "
        "number.</p>"
    )
    parts += [_html_episode(comparison, episode, scale) for episode in shown]
    return "\n".join(parts) + "\n"


def _html_episode(comparison: Comparison, episode: int, scale: float) -> str:
    """One prompt with the response of each model."""
    parts = []
    for model in comparison.models:
        title = f"{escape(visible_line(model.name))}: score {model.evaluation.scores[episode]:+.3f}"
        if model.advantages is not None:
            title += f", {escape(measure_name(comparison))} {model.advantages[episode]:+.3f}"
        if model.token_advantages is not None:
            segments, note = model.segments(episode), ""
        else:
            segments, note = model.evaluation.segments(episode), " (another tokenizer: colours are rewards)"
        parts.append(f"<div>{title}{note}{render.html(segments, scale=scale)}</div>")
    return "\n".join([*parts, "<hr>"])


def _html_table(rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:]) + "</table>"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
