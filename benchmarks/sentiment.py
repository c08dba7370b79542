"""Does each algorithm make a language model that it did not train sound happier, and at what price?

Every algorithm, both payouts, several seeds, with the KL penalty (the default) and without it. Trained on `sentiment`,
judged on prompts that were held out, by `sentiment` and by a metric that was never trained on (`vader`), with KL to
the start model and distinct-2 beside them: what a high score has cost.

    python -m benchmarks sentiment --model path/to/stories260K --prompts path/to/tinystories/stories.jsonl
"""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents import Algorithm
from benchmarks.records import RESULTS, Ledger

ALGORITHMS = ("reinforce", "actor_critic", "ppo")
PAYOUTS = ("immediate", "sparse")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Lift the sentiment of a language model with every algorithm and payout."""

    model: str = "tiny"
    """The start model: tiny, or a folder."""
    prompts: Path | None = None
    """A .jsonl file of texts; None: the prompts of TextGen-v0."""
    prompt_tokens: int = 16
    """Tokens of each text that become the prompt."""
    tokens: int = 300_000
    """Budget of a run with the KL penalty, in tokens."""
    tokens_without_kl: int = 200_000
    """Budget of a run without it."""
    max_seconds: float = 85.0
    """A run stops training after this many seconds, even if tokens are left."""
    seeds: int = 3
    """Seeds 0, 1, 2, ..."""
    episodes: int = 300
    """Held-out episodes before and after."""
    jobs: int = 2
    """Runs at a time, one thread each."""
    output: Path = RESULTS / "sentiment"
    """Where results go: a .jsonl file and a .md table of this name. Runs that are already there are not repeated."""
    only: str | None = None
    """Used by the command itself: one run, as JSON."""


def run(arguments: Arguments, algorithm: str, payout: str, kl: bool, seed: int) -> dict[str, Any]:
    """Train once, and measure before and after.

    Args:
        arguments: The command's arguments.
        algorithm: Which algorithm, at its default settings.
        payout: "immediate" or "sparse".
        kl: Whether the KL penalty stays on.
        seed: The run's seed.

    Returns:
        One row of the table.
    """
    torch.set_num_threads(1)
    kwargs: dict[str, Any] = {"payout": payout, "reward": "sentiment"}
    if arguments.prompts is not None:
        settings = {"path": str(arguments.prompts), "prompt_tokens": arguments.prompt_tokens}
        kwargs["task"] = {"dataset": settings}
    agent = Algorithm.known[algorithm](
        arguments.model, "TextGen-v0", seed=seed, env_kwargs=kwargs, device="cpu", **({} if kl else {"kl_coef": 0.0})
    )
    before = agent.evaluate(arguments.episodes, split="test")
    started, cpu = time.perf_counter(), time.process_time()
    agent.learn(arguments.tokens if kl else arguments.tokens_without_kl, max_seconds=arguments.max_seconds)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    after = agent.evaluate(arguments.episodes, split="test")
    return {
        "algorithm": algorithm,
        "payout": payout,
        "kl_penalty": kl,
        "seed": seed,
        "score_before": before.score,
        "score_after": after.score,
        "held_out_before": before.held_out,
        "held_out_after": after.held_out,
        "kl": after.kl,
        "distinct_2_before": before.distinct_2,
        "distinct_2_after": after.distinct_2,
        "response_length_after": after.response_length,
        "tokens": agent.timesteps,
        "updates": agent.updates,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "sample": after.prompts[0] + " |" + after.responses[0],
        "config": agent.config.to_dict(),
    }


def table(rows: list[dict[str, Any]], command: str) -> str:
    """The rows as Markdown: every run, then the mean over seeds.

    Args:
        rows: What `run` returned.
        command: The command that made them.

    Returns:
        The text of a Markdown file.
    """
    name = {"reinforce": "REINFORCE", "actor_critic": "ActorCritic", "ppo": "PPO"}
    lines = [
        "# Sentiment of a language model, before and after",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread a run, two runs at a time on two cores; torch {torch.__version__}.",
        "Score: `sentiment`, trained on. Held-out metric: `vader`, the compound score, never trained on. KL: nats a",
        "response, to the start model. Distinct-2: distinct word bigrams over all bigrams of the continuations,",
        "and its share of the start model's. Seconds: of training.",
        "",
        "| algorithm | payout | KL penalty | seed | score before | after | vader before | after | KL | distinct-2 "
        "| share | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def line(row: dict[str, Any], seed: str) -> str:
        share = row["distinct_2_after"] / row["distinct_2_before"]
        return (
            f"| {name[row['algorithm']]} | {row['payout']} | {'on' if row['kl_penalty'] else 'off'} | {seed} "
            f"| {row['score_before']:.3f} | {row['score_after']:.3f} | {row['held_out_before']:.3f} "
            f"| {row['held_out_after']:.3f} | {row['kl']:.1f} | {row['distinct_2_after']:.3f} | {share:.0%} "
            f"| {row['seconds']:.0f} |"
        )

    keys = sorted({(not row["kl_penalty"], row["algorithm"], row["payout"]) for row in rows})
    means = []
    for key in keys:
        group = [row for row in rows if (not row["kl_penalty"], row["algorithm"], row["payout"]) == key]
        lines += [line(row, str(row["seed"])) for row in sorted(group, key=lambda row: row["seed"])]
        numbers = [name for name, value in group[0].items() if isinstance(value, float)]
        mean = {name: float(np.mean([row[name] for row in group])) for name in numbers}
        means.append(line({**group[0], **mean}, "mean"))
    return "\n".join([*lines, *means]) + "\n"


def main(argv: Sequence[str]) -> None:
    """Run what is missing, and write the table.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks sentiment")
    if arguments.only is not None:
        print(json.dumps(run(arguments, **json.loads(arguments.only))))
        return
    command = "python -m benchmarks sentiment " + " ".join(argv)
    ledger = Ledger(arguments.output, lambda rows: table(rows, command.strip()))
    done = ledger.done("algorithm", "payout", "kl_penalty", "seed")
    wanted = itertools.product(range(arguments.seeds), (True, False), ALGORITHMS, PAYOUTS)
    missing = [
        {"algorithm": algorithm, "payout": payout, "kl": kl, "seed": seed}
        for seed, kl, algorithm, payout in wanted
        if (algorithm, payout, kl, seed) not in done
    ]
    running: list[subprocess.Popen[str]] = []
    while missing or running:
        while missing and len(running) < arguments.jobs:
            one = missing.pop(0)
            words = [sys.executable, "-m", "benchmarks", "sentiment", *argv, "--only", json.dumps(one)]
            running.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        for process in list(running):
            if process.poll() is not None:
                running.remove(process)
                output = process.stdout.read() if process.stdout else ""
                if process.returncode:
                    raise SystemExit(f"A run failed: {process.args}")
                row = json.loads(output.strip().splitlines()[-1])
                ledger.add(row)
                shown = ("algorithm", "payout", "kl_penalty", "seed", "held_out_after", "kl", "seconds")
                print({key: row[key] for key in shown}, flush=True)
        time.sleep(0.5)
    print(arguments.output.with_suffix(".md").read_text())
