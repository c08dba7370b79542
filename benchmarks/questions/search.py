"""Searches for texts that the score of an id overrates: constants, form without meaning, copies, and words by score.

Each row is what `textenvs.testing.search` found for one id, at the budget of the command. Shares are on the scale from
random tokens (0) to demonstrations (1), and "!" marks what clearly beats the demonstrations.

    python -m benchmarks search
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from textenvs import list_envs
from textenvs.testing import search
from textenvs.testing.search import CONSTANTS, PER_PROMPT


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Searches for texts that a score overrates, over every id."""

    ids: tuple[str, ...] = ()
    """The ids; none: all."""
    budget: int = 200_000
    """Texts to score for each id."""
    examples: int = 64
    """Examples of the test split that the means are over."""
    seed: int = 0
    """Seed of the search."""
    output: Path = RESULTS / "search"
    """Name of the results: a .json and a .md file."""


def measure(arguments: Arguments, env_id: str) -> dict[str, Any]:
    """Searches one id.

    Args:
        arguments: The command's arguments.
        env_id: The id.

    Returns:
        A row of the results.
    """
    started = time.perf_counter()
    result = search(env_id, budget=arguments.budget, num_examples=arguments.examples, seed=arguments.seed)
    return {
        "id": env_id,
        "reward": result.reward,
        "random": result.random,
        "demonstration": result.demonstration,
        "texts": result.num_scored,
        "seconds": time.perf_counter() - started,
        "findings": {
            finding.strategy: {
                "score": finding.score,
                "share": result.share(finding.score),
                "beats": finding.beats,
                "texts": finding.texts,
            }
            for finding in result.findings
        },
        "blind": result.blind.texts,
        "beating": [finding.strategy for finding in result.beating],
    }


def page(results: dict[str, Any]) -> str:
    """Writes the page of the results."""
    strategies = (*CONSTANTS, *PER_PROMPT)
    rows, texts = [], []
    for row in results["rows"]:
        cells = [row["findings"].get(strategy) for strategy in strategies]
        rows.append(
            [
                f"`{row['id']}`",
                f"{row['random']:.3f}",
                f"{row['demonstration']:.3f}",
                *("-" if cell is None else f"{cell['share']:.0%}{' !' if cell['beats'] else ''}" for cell in cells),
            ]
        )
        for kind, text in row["blind"].items():
            escaped = text.replace("\n", "⏎").replace("|", "\\|")
            texts.append([f"`{row['id']}`", kind or "-", f"`` {escaped} ``" if text else "(nothing)"])
    lines = heading("Search: what scores pay to texts that nobody wants", results)
    lines += [
        "Shares of the range from random tokens (0) to demonstrations (1), means over the test split; `!` beats the",
        f"demonstrations clearly. Of each id, {results['budget']:,} texts were scored at most.",
        "",
        *table(["id", "random", "demonstrations", *strategies], rows),
        "",
        "The best constants:",
        "",
        *table(["id", "kind of prompt", "text"], texts),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Searches every id, and writes the results.

    Args:
        argv: The command's options.
    """
    arguments = tyro.cli(Arguments, args=argv)
    rows = [measure(arguments, env_id) for env_id in arguments.ids or list_envs()]
    results = {
        "command": command_line("search", argv),
        "machine": machine(),
        "budget": arguments.budget,
        "rows": rows,
    }
    write(arguments.output, results, page(results))
