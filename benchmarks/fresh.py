"""Do the algorithms learn from their defaults, and in how many tokens? Every algorithm, both payouts, several seeds.

A small model with random weights learns a two-token bandit and `TextGen/Copy-v0`. REINFORCE is run with each of its
baselines, and nothing else is set. A run stops when it is there: at 0.9 of the normalised score, on average over the
last five updates. It is then judged on 300 episodes of the test split, sampled.

    python -m benchmarks fresh
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents import Agent, Algorithm
from benchmarks.records import RESULTS, Ledger
from textenvs import Example, ReferenceScores, Task, make_task
from textenvs.tasks.base import SOLVED

ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {
    "PPO": ("ppo", {}),
    "ActorCritic": ("actor_critic", {}),
    "REINFORCE, batch_mean": ("reinforce", {}),
    "REINFORCE, none": ("reinforce", {"baseline": "none"}),
    "REINFORCE, moving_average": ("reinforce", {"baseline": "moving_average"}),
    "REINFORCE, greedy": ("reinforce", {"baseline": "greedy"}),
    "REINFORCE, leave_one_out of 4": ("reinforce", {"baseline": "leave_one_out", "group_size": 4}),
    "REINFORCE, group of 4": ("reinforce", {"baseline": "group", "group_size": 4}),
    "REINFORCE, value": ("reinforce", {"baseline": "value"}),
}
"""What the table calls it: the algorithm, and what is set of it."""
PAYOUTS = ("immediate", "sparse")
WINDOW = 5
"""Updates, of 128 episodes each, over which the score of a run is averaged."""


class Bandit(Task):
    """One token, "a" or "b", and the second earns 1."""

    name = "bandit"
    default_reward = "exact_match"
    default_max_new_tokens = 1
    default_tokenizer: Any = make_task("copy").default_tokenizer  # any small vocabulary: only two tokens are allowed

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        return 1

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        return Example("=", ("b",))

    def demonstration(self, example: Example) -> str:
        """See `Task.demonstration`."""
        return "b"

    def reference_scores(self, split: str = "test") -> ReferenceScores:
        """See `Task.reference_scores`. Under the mask, a coin decides."""
        return ReferenceScores(random=0.5, demonstration=1.0, top=1.0)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train small models from random weights, with every algorithm and baseline."""

    bandit_tokens: int = 20_000
    """Budget of a run on the bandit, in tokens."""
    copy_tokens: int = 300_000
    """Budget of a run on Copy, in tokens."""
    seeds: int = 5
    """Seeds 0, 1, 2, ..."""
    episodes: int = 300
    """Test episodes at the end."""
    output: Path = RESULTS / "fresh"
    """Where results go: a .jsonl file and a .md table of this name. Runs that are already there are not repeated."""
    max_runs: int | None = None
    """Stop after this many runs, for now."""


class _Reached(Exception):
    """The score is there."""


def make_agent(task: str, name: str, payout: str, seed: int) -> Agent:
    """An agent of the table.

    Args:
        task: "bandit" or "copy".
        name: One of `ALGORITHMS`.
        payout: One of `PAYOUTS`.
        seed: The run's seed.

    Returns:
        The agent, its policy a small model with random weights.
    """
    algorithm, settings = ALGORITHMS[name]
    env, kwargs = "TextGen/Copy-v0", {"payout": payout}
    if task == "bandit":
        env, kwargs = "TextGen-v0", {"payout": payout, "task": Bandit(), "action_mask": ["a", "b"]}
    return Algorithm.known[algorithm]("tiny", env, seed=seed, env_kwargs=kwargs, device="cpu", **settings)


def run(task: str, name: str, payout: str, seed: int, budget: int, episodes: int) -> dict[str, Any]:
    """Train until the score is there or the tokens are spent, and measure.

    Args:
        task: As for `make_agent`.
        name: As for `make_agent`.
        payout: As for `make_agent`.
        seed: The run's seed.
        budget: Tokens to learn in.
        episodes: Test episodes at the end.

    Returns:
        One row of the table.
    """
    agent = make_agent(task, name, payout, seed)
    scale = {split: agent.env.task.reference_scores(split) for split in ("train", "test")}
    scores: list[float] = []

    def watch(row: dict[str, float]) -> None:
        assert scale["train"] is not None
        scores.append(scale["train"].normalised(row["score"]))
        if len(scores) >= WINDOW and float(np.mean(scores[-WINDOW:])) >= SOLVED:
            raise _Reached

    started, reached = time.perf_counter(), False
    try:
        agent.learn(budget, on_update=watch)
    except _Reached:
        reached = True
    seconds = time.perf_counter() - started
    found = agent.evaluate(episodes, split="test")
    assert scale["test"] is not None
    return {
        "task": task,
        "algorithm": name,
        "payout": payout,
        "seed": seed,
        "tokens_to_threshold": agent.timesteps if reached else None,
        "tokens": agent.timesteps,
        "updates": agent.updates,
        "train": float(np.mean(scores[-WINDOW:])),
        "test": scale["test"].normalised(found.score),
        "seconds": seconds,
        "curve": [round(one, 3) for one in scores[:: max(1, len(scores) // 40)]],
        "config": agent.config.to_dict(),
    }


def table(rows: list[dict[str, Any]], command: str, seeds: int) -> str:
    """The rows as Markdown.

    Args:
        rows: What `run` returned.
        command: The command that made them.
        seeds: How many there are to be of each.

    Returns:
        The text of a Markdown file.
    """
    missing = len(ALGORITHMS) * len(PAYOUTS) * 2 * seeds - len(rows)
    lines = [
        "# From random weights, with the defaults",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}. Tokens: played until the mean of {WINDOW}",
        f"updates reached {SOLVED} of the normalised score on the train split, in thousands; a dash: not within the",
        "budget. Final: the normalised score of sampled episodes of the test split, there and then. Seeds from 0 on.",
    ]
    if missing > 0:
        lines += ["", f"{missing} runs are still to be made: the same command goes on."]
    lines += [
        "",
        "| task | algorithm | payout | reached | tokens, median (thousands) | tokens by seed | final by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, name, payout in itertools.product(("bandit", "copy"), ALGORITHMS, PAYOUTS):
        group = [row for row in rows if (row["task"], row["algorithm"], row["payout"]) == (task, name, payout)]
        if not group:
            continue
        group.sort(key=lambda row: int(row["seed"]))
        tokens = [row["tokens_to_threshold"] for row in group]
        reached = [one for one in tokens if one is not None]
        # A run that did not get there counts as longer than every one that did.
        middle = sorted(one if one is not None else float("inf") for one in tokens)[len(tokens) // 2]
        shown = " ".join("-" if one is None else f"{one / 1000:.1f}" for one in tokens)
        finals = " ".join(f"{row['test']:.2f}" for row in group)
        lines.append(
            f"| {task} | {name} | {payout} | {len(reached)}/{len(group)} "
            f"| {'-' if middle == float('inf') else f'{middle / 1000:.1f}'} | {shown} | {finals} |"
        )
    return "\n".join(lines) + "\n"


def planned(seeds: int) -> Iterable[tuple[str, str, str, int]]:
    """Task, algorithm, payout and seed of every run; those come first that say most about the defaults."""
    for seed in range(seeds):
        yield from itertools.product(("bandit",), ALGORITHMS, PAYOUTS, (seed,))
    siblings = list(ALGORITHMS)[:3]
    for names in (siblings, [name for name in ALGORITHMS if name not in siblings]):
        for seed in range(seeds):
            yield from itertools.product(("copy",), names, PAYOUTS, (seed,))


def main(argv: Sequence[str]) -> None:
    """Make the runs that are missing, and write the table after each.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks fresh")
    torch.set_num_threads(1)
    command = f"python -m benchmarks fresh {' '.join(argv)}".strip()
    ledger = Ledger(arguments.output, lambda rows: table(rows, command, arguments.seeds))
    done = ledger.done("task", "algorithm", "payout", "seed")
    missing = [one for one in planned(arguments.seeds) if one not in done][: arguments.max_runs]
    budgets = {"bandit": arguments.bandit_tokens, "copy": arguments.copy_tokens}
    for task, name, payout, seed in missing:
        row = run(task, name, payout, seed, budgets[task], arguments.episodes)
        ledger.add(row)
        shown = ("task", "algorithm", "payout", "seed", "tokens_to_threshold", "train", "test", "seconds")
        print({key: row[key] for key in shown}, flush=True)
