"""Measures the speed of an update of PPO, and the cost of a token by length, width and vocabulary.

Ours is the update of PPO with the pass of the reference, on one rollout again and again; the bare loop keeps all its
logits and pads every row to the longest (`peers.py`). At ragged lengths, tokens that were written count, and padding
does not. The bare loop also runs with our chunked head, which shows the cost of chunks.

    python -m benchmarks update
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from agents import collect
from agents.rollout import reference_log_probs
from benchmarks.records import RESULTS, command_line, write
from benchmarks.speed import peers
from benchmarks.speed.iteration import make_agent
from benchmarks.speed.shapes import BASE, LARGE_VOCABULARY, RAGGED, SMALL, TINY, Shape
from benchmarks.speed.timing import (
    Case,
    compared,
    compared_table,
    costs_section,
    plot_costs,
    speed_heading,
    speed_machine,
    take_turns,
)

BASELINE = "bare loop"
"""The case that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure an update of PPO."""

    rounds: int = 3
    """Turns of each case."""
    lengths: tuple[int, ...] = (64, 256, 1024, 2048)
    """Tokens of a response, for the cost by length."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths of the model, for the cost by width."""
    vocabularies: tuple[int, ...] = (256, 2000, 10_000, 50_257)
    """Sizes of the vocabulary, for the cost by vocabulary."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "update"
    """Name of the results: a .json, a .md and a .png file."""


def ours(shape: Shape, episodes: int) -> Callable[[], int]:
    """Returns a function that does one update of ours, and returns the rollout's tokens."""
    agent = make_agent(shape, episodes)
    generator = torch.Generator().manual_seed(0)
    rollout = collect(agent.env, agent.policy, episodes, seed=0, generator=generator)

    def play() -> int:
        known = replace(rollout, ref_log_probs=reference_log_probs(agent.reference, rollout, temperature=1.0))
        agent.algorithm.update(agent.policy, agent.optimizer, known, agent.config, generator)
        return rollout.num_tokens

    return play


def bare(shape: Shape, episodes: int, chunked: bool = False) -> Callable[[], int]:
    """Returns a function that does the same by hand, over rows of the longest response's length."""
    loop = peers.BareLoop(shape, episodes, chunked)
    agent = make_agent(shape, episodes)
    written = collect(agent.env, agent.policy, episodes, seed=0)
    steps = written.response_mask.shape[1]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, shape.vocab_size, (episodes, shape.prompt + steps), generator=generator)
    old, values, rewards = (torch.randn(episodes, steps, generator=generator) for _ in range(3))

    def play() -> int:
        loop.update(rows, old * 0.01 - 5, values, rewards)
        return written.num_tokens

    return play


def speeds(shape: Shape, episodes: int, arguments: Arguments) -> list[dict[str, Any]]:
    """Measures ours and the bare loop at one shape."""
    cases = [
        Case({"shape": shape.name, "who": "ours"}, ours(shape, episodes)),
        Case({"shape": shape.name, "who": "bare loop"}, bare(shape, episodes)),
        Case({"shape": shape.name, "who": "bare loop, chunked head"}, bare(shape, episodes, True)),
    ]
    return compared(cases, arguments.rounds, 0.0, BASELINE)


def costs(arguments: Arguments, shape: Shape) -> list[dict[str, Any]]:
    """Measures the cost of a token by length, width and vocabulary, in batches of eight responses."""
    cases = []
    for what, name, values in (
        ("length", "new_tokens", arguments.lengths),
        ("width", "width", arguments.widths),
        ("vocabulary", "vocab_size", arguments.vocabularies),
    ):
        for value in values:
            changed: Shape = replace(shape, **{name: value})  # type: ignore[arg-type]
            for who, make in (("ours", ours), ("bare loop", bare)):
                cases.append(Case({"what": what, "value": value, "who": who}, make(changed, changed.lanes)))
    return take_turns(cases, 1, 0.0)


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    lines = speed_heading("Speed of an update of PPO", results)
    lines += ["Four epochs of four minibatches and one pass of the reference.", ""]
    for name in dict.fromkeys(row["shape"] for row in results["speed"]):
        rows = [row for row in results["speed"] if row["shape"] == name]
        lines += [f"## {name}", "", f"`{results['shapes'][name]}`", "", *compared_table(rows), ""]
    lines += costs_section(results["costs"], BASELINE)
    return "\n".join([*lines, f"![what a token costs]({results['plot']})"]) + "\n"


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks update")
    shapes: Sequence[Shape] = (BASE, SMALL, replace(RAGGED, lanes=8), replace(LARGE_VOCABULARY, lanes=8))
    grown = SMALL
    if arguments.quick:
        arguments = replace(arguments, rounds=1, lengths=(4,), widths=(32, 64), vocabularies=(64,))
        shapes, grown = (TINY,), TINY
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": command_line("update", argv),
        "machine": speed_machine("torch", "transformers"),
        "rounds": arguments.rounds,
        "shapes": {shape.name: repr(shape) for shape in shapes},
        "plot": arguments.output.with_suffix(".png").name,
        "speed": [
            row for shape in shapes for row in speeds(shape, shape.lanes * (8 if shape.mean_length else 2), arguments)
        ],
        "costs": costs(arguments, grown),
    }
    write(arguments.output, results, page(results), plot_costs(results["costs"], BASELINE))
