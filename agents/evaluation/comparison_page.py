"""A comparison of language models as files to look at: one page of HTML, its pictures, and the numbers as JSON."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

import numpy as np

from agents.evaluation.comparison import Comparison, ModelResult
from textenvs import render

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


def measure_name(comparison: Comparison) -> str:
    """What the tables call the cumulative advantage: with its lambda, where that is not 0."""
    if comparison.gae_lambda == 0:
        return "cumulative advantage"
    return f"cumulative advantage, lambda {comparison.gae_lambda:g}"


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know to read the numbers, a sentence or two each."""
    ahead = (
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
        "head": "The value function is the reference's own value head, and the mean at each step of what that leaves "
        "of its returns.",
    }[comparison.value_function]
    return [
        ahead,
        f"{kind} It explains {comparison.explained_variance:.0%} of the variance of the reference's returns.",
        "Differences are paired by prompt, with 95 % confidence intervals.",
    ]


def tables(comparison: Comparison) -> list[tuple[str, list[list[str]]]]:
    """The numbers as tables of text.

    Args:
        comparison: The comparison.

    Returns:
        Title and rows, the first of which names the columns.
    """
    models = comparison.models
    found = [
        (
            "Scores",
            [
                ["model", "score", "95 % interval", "normalised", "return", measure_name(comparison), "held-out", "KL",
                 "distinct-2", "length"],
                *[
                    [
                        model.name,
                        f"{model.evaluation.score:.3f}",
                        f"{model.evaluation.score_low:.3f} to {model.evaluation.score_high:.3f}",
                        _number(model.normalised),
                        f"{np.mean(model.returns):.3f}",
                        "" if model.advantages is None else f"{np.mean(model.advantages):+.3f}",
                        _number(model.evaluation.held_out),
                        _number(model.evaluation.kl, 1),
                        f"{model.evaluation.distinct_2:.3f}",
                        f"{model.evaluation.response_length:.1f}",
                    ]
                    for model in models
                ],
            ],
        ),
        (
            "Distribution of scores",
            [
                ["model", "lowest", "first quartile", "median", "third quartile", "highest"],
                *[[model.name, *[f"{one:.3f}" for one in np.quantile(model.evaluation.scores, (0, 0.25, 0.5, 0.75, 1))]]
                  for model in models],
            ],
        ),
    ]  # fmt: skip
    others = [model for model in models if model.difference is not None]
    if others:
        rows = [["model", "difference", "95 % interval", "better on", "equal on", "worse on"]]
        for model in others:
            d = model.difference
            assert d is not None
            worse = 1 - d.wins - d.ties
            rows.append(
                [model.name, f"{d.mean:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}", f"{d.wins:.0%}", f"{d.ties:.0%}",
                 f"{worse:.0%}"]
            )  # fmt: skip
        found.append((f"Minus {comparison.reference}, on the same prompts", rows))
    folds = len(models[0].folds)
    found.append(
        (
            f"Mean score of each of {folds} folds of the prompts",
            [
                ["model", *[str(fold + 1) for fold in range(folds)], "mean", "deviation"],
                *[
                    [m.name, *[f"{one:.3f}" for one in m.folds], f"{np.mean(m.folds):.3f}",
                     f"{np.std(m.folds, ddof=1):.3f}"]
                    for m in models
                ],
            ],
        )
    )  # fmt: skip
    if any(model.labels is not None for model in models):
        rows = [["model", "accuracy", "precision", "recall", "F1", "no label at all"]]
        for model in models:
            if (labels := model.labels) is not None:
                numbers = (labels.accuracy, labels.precision, labels.recall, labels.f1)
                rows.append([model.name, *[f"{one:.3f}" for one in numbers], f"{labels.invalid:.0%}"])
        found.append(("Labels (precision, recall and F1 are means over labels)", rows))
    if any(model.gap is not None for model in models):
        rows = [["model", "pairs", "score gap", "95 % interval", "responses changed", "largest mean gap of a word"]]
        for model in models:
            if (gap := model.gap) is not None:
                word = max(gap.by_word, key=lambda one: gap.by_word[one])
                rows.append(
                    [model.name, str(gap.pairs), f"{gap.mean:.3f}", f"{gap.low:.3f} to {gap.high:.3f}",
                     f"{gap.changed:.0%}", f"{word} {gap.by_word[word]:+.3f}"]
                )  # fmt: skip
        found.append(("Paired prompts that differ in one name or group word, likeliest token at every step", rows))
    return found


def as_text(comparison: Comparison) -> str:
    """The tables for a terminal.

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
                cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(pairs)
            )
            for pairs in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        parts.append("\n".join([title, *[f"  {line.rstrip()}" for line in lines]]))
    return "\n\n".join([*parts, "\n".join(notes(comparison))])


def write(comparison: Comparison, folder: str | Path, *, command: str = "", examples: int = 6) -> Path:
    """Write `comparison.json`, `comparison.html`, `distributions.png` and `heat_map.png`.

    Args:
        comparison: The comparison.
        folder: Where to.
        command: What made it, for the page.
        examples: Of how many prompts the responses are shown: those where the models differ most and least, and some
            between.

    Returns:
        The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(comparison.summary(), indent=1) + "\n", encoding="utf-8")
    _plot(comparison, folder / "distributions.png")
    shown = chosen_episodes(comparison, examples)
    heated = [model for model in comparison.models if model.token_advantages is not None]
    scale = _scale(heated, shown)
    _heat_map(comparison, heated, shown, scale, folder / "heat_map.png")
    page = folder / "comparison.html"
    page.write_text(_page(comparison, shown, scale, command, folder / "distributions.png"), encoding="utf-8")
    return page


def chosen_episodes(comparison: Comparison, count: int) -> list[int]:
    """Episodes to show: evenly spread in the order of how far the models' scores lie apart, the widest first.

    Args:
        comparison: The comparison.
        count: How many.

    Returns:
        Numbers of episodes.
    """
    scores = np.array([model.evaluation.scores for model in comparison.models])
    order = np.argsort(-np.ptp(scores, axis=0), kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[place]) for place in places]


def _scale(models: list[ModelResult], episodes: list[int]) -> float:
    shares = [abs(one) for model in models for episode in episodes for one in (model.token_advantages or ())[episode]]
    return max(shares, default=0.0) or 1.0


def _heat_map(comparison: Comparison, models: list[ModelResult], episodes: list[int], scale: float, file: Path) -> None:
    """A strip for each episode and model, one under another."""
    from PIL import Image

    strips = [
        render.rgb_array(
            model.segments(episode),
            title=f"{model.name}, prompt {episode}, score {model.evaluation.scores[episode]:+.3f}",
            width=900,
            height=190,
            scale=scale,
            measure=(measure_name(comparison), "share"),
        )
        for episode in episodes
        for model in models
    ]
    Image.fromarray(np.concatenate(strips)).save(file)


def _plot(comparison: Comparison, file: Path) -> None:
    """Distributions of the scores, and of the differences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    others = [model for model in comparison.models if model.difference is not None]
    panels = 2 if others else 1
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3.6), layout="constrained", squeeze=False)
    scores = np.concatenate([model.evaluation.scores for model in comparison.models])
    bins = np.histogram_bin_edges(scores, bins=25) if np.ptp(scores) else np.linspace(scores[0] - 1, scores[0] + 1, 3)
    colors = plt.get_cmap("tab10")
    for number, model in enumerate(comparison.models):
        axes[0, 0].hist(model.evaluation.scores, bins=bins, histtype="step", lw=1.8, color=colors(number % 10),
                        label=f"{model.name} (mean {model.evaluation.score:.3f})")  # fmt: skip
    axes[0, 0].set(xlabel="score", ylabel="episodes")
    for number, model in enumerate(comparison.models):
        if model.difference is not None:
            found = np.sort(model.difference.by_prompt)
            axes[0, 1].plot(np.linspace(0, 100, len(found)), found, color=colors(number % 10), lw=1.8, label=model.name)
    if others:
        axes[0, 1].axhline(0, color="0.6", lw=0.8)
        axes[0, 1].set(xlabel="prompts, in order (%)", ylabel=f"score minus {comparison.reference}'s")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _page(comparison: Comparison, shown: list[int], scale: float, command: str, plot: Path) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(comparison.env_id)}: models compared</title><style>{_STYLE}</style>",
        f"<h1>{escape(', '.join(model.name for model in comparison.models))} on {escape(comparison.env_id)}</h1>",
        f"<p class=note>{comparison.models[0].evaluation.episodes} episodes each, split {escape(comparison.split)}.",
        f"<code>{escape(command)}</code></p>" if command else "</p>",
        *[f"<p class=note>{escape(note)}</p>" for note in notes(comparison)],
    ]
    for title, rows in tables(comparison):
        parts.append(f"<h2>{escape(title)}</h2><div class=wide>{_html_table(rows)}</div>")
        if title == "Distribution of scores":
            picture = base64.b64encode(plot.read_bytes()).decode()
            parts.append(f"<img alt='Distributions of scores and differences' src='data:image/png;base64,{picture}'>")
    parts.append("<h2>Which tokens earned it</h2>")
    parts.append(
        f"<p class=note>Each token stands on the colour of its share of the {escape(measure_name(comparison))}: green "
        f"above what the reference's value function expected, red below; full colour at {scale:.3g}. Hover for the "
        "number.</p>"
    )
    for episode in shown:
        for model in comparison.models:
            score = f"{escape(model.name)}: score {model.evaluation.scores[episode]:+.3f}"
            if model.advantages is not None:
                score += f", {escape(measure_name(comparison))} {model.advantages[episode]:+.3f}"
            segments = (
                model.segments(episode) if model.token_advantages is not None else model.evaluation.segments(episode)
            )
            note = "" if model.token_advantages is not None else " (another tokenizer: colours are rewards)"
            parts.append(f"<div>{score}{note}{render.html(segments, scale=scale)}</div>")
        parts.append("<hr>")
    return "\n".join(parts) + "\n"


def _html_table(rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:]) + "</table>"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
