"""Measures the speed of rollouts: ours with a reward at every token, others without any environment.

The cases take turns (`timing.py`), with one thread. Ours is `agents.collect` on `TextGenVectorEnv`; `generate` has no
environment and no reward, and returns no log-probs or values. Then come the environment's share of a rollout, and the
cost of a token by length, lanes and width.

    python -m benchmarks rollout
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from agents import collect
from agents.policy.decode_graph import TRACE_AFTER as WARM_UP
from benchmarks.records import RESULTS, command_line, table, write
from benchmarks.speed import peers
from benchmarks.speed.shapes import BASE, RAGGED, SMALL, TINY, Shape, make_env, make_model, make_policy
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

BASELINE = "generate"
"""The case that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the speed of rollouts."""

    rounds: int = 5
    """Turns of each case."""
    seconds: float = 0.5
    """The shortest turn."""
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Tokens of a response, for the cost by length."""
    lanes: tuple[int, ...] = (8, 32, 128, 512)
    """Numbers of lanes, for the cost by lanes."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths of the model, for the cost by width."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "rollout"
    """Name of the results: a .json, a .md and a .png file."""


def ours(shape: Shape, episodes: int, reward: Any = "sentiment", compile: bool = False) -> Callable[[], int]:
    """Returns a function that plays so many episodes through the environment, and returns their tokens."""
    policy = make_policy(shape).adapt(compile=compile)
    env = make_env(shape, policy, reward)
    generator = torch.Generator().manual_seed(0)
    env.reset(seed=0)
    for _ in range(0, 1 + WARM_UP, shape.new_tokens):  # until the policy has traced its step
        collect(env, policy, shape.lanes, generator=generator)
    return lambda: collect(env, policy, episodes, generator=generator).num_tokens


def bare(shape: Shape) -> Callable[[], int]:
    """Returns a function that writes a batch in a hand-written loop."""
    model, head, ids = make_model(shape), nn.Linear(shape.width, 1), peers.prompts(shape, shape.lanes)
    return lambda: peers.bare_rollout(model, head, ids, shape.new_tokens)[1].numel()


def speeds(shape: Shape, episodes: int, arguments: Arguments) -> list[dict[str, Any]]:
    """Measures everybody at one shape."""
    plain = make_model(shape)
    cases = [
        Case({"shape": shape.name, "who": "ours"}, ours(shape, episodes)),
        Case({"shape": shape.name, "who": "generate"}, peers.generate(plain, shape, episodes)),
        Case({"shape": shape.name, "who": "generate, static cache"}, peers.generate(plain, shape, episodes, True)),
    ]
    if not arguments.quick:  # the compiler alone would take longer than all the rest
        cases.insert(1, Case({"shape": shape.name, "who": "ours, compiled"}, ours(shape, episodes, compile=True)))
    if shape.mean_length is None:
        cases += [
            Case({"shape": shape.name, "who": "bare loop"}, bare(shape)),
            Case({"shape": shape.name, "who": "matrix products alone"}, peers.floor(plain, shape)),
        ]
    return compared(cases, arguments.rounds, arguments.seconds, BASELINE)


def shares(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """Measures the environment's share of a rollout, by the reward."""
    rows = []
    for reward in ("sentiment", "bleu"):
        policy = make_policy(shape)
        env = make_env(shape, policy, reward)
        fractions = []
        for round_ in range(rounds + 3):
            seconds = collect(env, policy, 2 * shape.lanes, seed=round_).seconds
            fractions.append(seconds["environment"] / sum(seconds.values()))
        rows.append({"shape": shape.name, "reward": reward, "share": sorted(fractions[3:])[rounds // 2]})
    return rows


def costs(arguments: Arguments, shape: Shape) -> list[dict[str, Any]]:
    """Measures the cost of a token by length, lanes and width, beside `generate`."""
    cases = []
    for what, name, values in (
        ("length", "new_tokens", arguments.lengths),
        ("lanes", "lanes", arguments.lanes),
        ("width", "width", arguments.widths),
    ):
        for value in values:
            changed: Shape = replace(shape, **{name: value})  # type: ignore[arg-type]
            labels = {"what": what, "value": value}
            cases.append(Case({**labels, "who": "ours"}, ours(changed, changed.lanes)))
            model = make_model(changed)
            cases.append(Case({**labels, "who": "generate"}, peers.generate(model, changed, changed.lanes)))
    return take_turns(cases, max(1, arguments.rounds // 2), 0.0)


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    lines = speed_heading("Speed of a rollout", results)
    lines += [
        "Ours goes through the environment, with `sentiment` paid at every token, and records log-probs and values.",
        "`generate` and the bare loop have no environment.",
        "",
    ]
    for name in dict.fromkeys(row["shape"] for row in results["speed"]):
        rows = [row for row in results["speed"] if row["shape"] == name]
        lines += [f"## {name}", "", f"`{results['shapes'][name]}`", "", *compared_table(rows), ""]
    lines += ["## Share of the environment", ""]
    lines += table(
        ["shape", "reward", "share of a rollout"],
        [[row["shape"], row["reward"], f"{row['share']:.1%}"] for row in results["shares"]],
    )
    lines += ["", *costs_section(results["costs"], BASELINE)]
    return "\n".join([*lines, f"![what a token costs]({results['plot']})"]) + "\n"


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks rollout")
    shapes: Sequence[Shape] = (BASE, SMALL, RAGGED)
    grown = SMALL
    if arguments.quick:
        arguments = replace(arguments, rounds=1, seconds=0.0, lengths=(4,), lanes=(2, 3), widths=(32,))
        shapes, grown = (TINY, replace(TINY, name="ragged", mean_length=2.0, min_new_tokens=2)), TINY
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": command_line("rollout", argv),
        "machine": speed_machine("torch", "transformers"),
        "rounds": arguments.rounds,
        "shapes": {shape.name: repr(shape) for shape in shapes},
        "plot": arguments.output.with_suffix(".png").name,
        "speed": [
            row
            for shape in shapes
            for row in speeds(shape, (1 if shape.mean_length is None else 8) * shape.lanes, arguments)
        ],
        "shares": [row for shape in shapes[:2] for row in shares(shape, arguments.rounds)],
        "costs": costs(arguments, grown),
    }
    write(arguments.output, results, page(results), plot_costs(results["costs"], BASELINE))
