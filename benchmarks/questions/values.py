"""Measures what explains a return to go before anything is learned: the step alone, and the hidden state.

The start model plays two batches. A guess that is fitted on the first is judged on the second, by the share of the
returns' variance that it explains. There are three: the mean at each step; the best linear function of the trunk's last
hidden state, which is the form of a value head, at the ridge penalty that suits the second batch best; and the sum of
both, with the linear function fitted to the rest that the step leaves.

    python -m benchmarks values --translate runs/warm-Translate/policy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from agents.advantages import discounted_returns, per_step_means
from agents.collector import collect, make_env
from agents.evaluation.fitted_values import PENALTIES, ridge, state_features
from agents.training.start_policy import start_policy
from benchmarks.records import RESULTS, Ledger, command_line, heading, machine, table

TASKS = ("Stories", "Copy", "Sort", "Brackets", "Reverse")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the share of a return that the step explains, and the share that the hidden state explains."""

    translate: str | None = None
    """A start model for Translate, where the bundled one earns nothing: a folder that `python -m agents sft` left."""
    episodes: int = 512
    """Episodes of each of the two batches."""
    seeds: int = 3
    """Seeds 0, 1, 2, ..."""
    quick: bool = False
    """One task and few episodes, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "values"
    """Name of the results: a .jsonl and a .md file. Rows that are already there are not measured again."""


def measure(name: str, payout: str, model: str, seed: int, episodes: int) -> dict[str, Any]:
    """Measures one task, payout and seed.

    Args:
        name: The environment's name.
        payout: When it pays.
        model: The start model.
        seed: Seed of random weights and of the first batch. The second batch's is 1,000 more.
        episodes: Episodes in each batch.

    Returns:
        The row: shares of variance, 1 at best, and below 0 where a constant is better.
    """
    env_id = f"TextGen/{name}-v0"
    policy = start_policy(model, env_id, seed=seed, device="cpu")
    envs = make_env(env_id, policy, 128, payout=payout)
    batches = []
    for batch_seed in (seed, seed + 1_000):
        generator = torch.Generator().manual_seed(batch_seed)
        rollout = collect(envs, policy, episodes, seed=batch_seed, generator=generator)
        mask = rollout.response_mask
        returns = discounted_returns(rollout.rewards, mask)
        with torch.no_grad():
            batches.append((returns.double(), mask, state_features(policy, rollout)))
    (seen, seen_mask, features), (returns, mask, states) = batches
    means, _ = per_step_means(seen, seen_mask)
    steps = max(len(means), mask.shape[1])
    means = torch.nn.functional.pad(means, (0, steps - len(means)))

    def linear(seen_target: Tensor, target: Tensor) -> Tensor:
        """Fits a linear function of the state to the first batch's target. Returns its guesses on the second."""
        weights = ridge(features[seen_mask], seen_target[seen_mask])
        guesses = states[mask].double() @ weights[:, :-1].T + weights[:, -1]
        errors = (target[mask][:, None] - guesses).var(dim=0)
        return guesses[:, errors.argmin()]

    of_step = means[: mask.shape[1]].expand(mask.shape)
    both = linear(seen - means[: seen_mask.shape[1]], returns - of_step) + of_step[mask]

    def explained(guess: Tensor) -> float:
        return float(1 - (returns[mask] - guess).var() / returns[mask].var())

    return {
        "task": name, "payout": payout, "seed": seed, "model": model, "episodes": episodes, "tokens": int(mask.sum()),
        "step": explained(of_step[mask]), "state": explained(linear(seen, returns)), "both": explained(both),
    }  # fmt: skip


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        rows: The rows, those of earlier commands included.
        about: "command" and "machine" of the last one.
    """
    note = (
        "One thread. Share of the variance of returns to go that is explained on a second batch of "
        f"{rows[0]['episodes']} episodes of the start model; mean over seeds (least to most). Ridge penalties: "
        f"{', '.join(f'{penalty:g}' for penalty in PENALTIES)}, the best of them."
    )
    lines = heading("The variance of a return to go that is explained", about, note)
    cells = []
    for key in dict.fromkeys((row["task"], row["payout"]) for row in rows):
        group = [row for row in rows if (row["task"], row["payout"]) == key]

        def cell(name: str, group: list[dict[str, Any]] = group) -> str:
            numbers = [row[name] for row in group]
            return f"{sum(numbers) / len(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"

        cells.append([*key, cell("step"), cell("state"), cell("both")])
    heads = ["task", "payout", "mean of the step", "linear in the hidden state", "both"]
    return "\n".join([*lines, *table(heads, cells), ""])


def main(argv: Sequence[str]) -> None:
    """Measures the rows that are missing.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks values")
    torch.set_num_threads(1)
    tasks = [(name, "tiny") for name in TASKS]
    if arguments.quick:
        arguments, tasks = replace(arguments, episodes=8, seeds=1), [("Copy", "tiny")]
    if arguments.translate is not None:
        tasks.insert(0, ("Translate", arguments.translate))
    about = {"command": command_line("values", argv), "machine": machine("torch", "transformers")}
    ledger = Ledger(arguments.output, lambda rows: page(rows, about))
    done = ledger.done("task", "payout", "seed")
    for name, model in tasks:
        for payout in ("immediate", "sparse"):
            for seed in range(arguments.seeds):
                if (name, payout, seed) not in done:
                    row = measure(name, payout, model, seed, arguments.episodes)
                    ledger.add(row)
                    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    ledger.close()
