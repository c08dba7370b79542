"""What there is to know of a return to go, before anything is learned: from the step alone, and from the hidden state.

The start model plays two batches. What is fitted on the first is judged on the second, by the share of the returns'
variance that it explains: the mean at each step; the best linear function of the trunk's last hidden state, which is
what a value head is, at the ridge penalty that suits the second batch best; and that function of what the step leaves.

    python -m benchmarks values --translate runs/warm-Translate/policy
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from agents.advantages import discounted_returns, per_step_means
from agents.collector import collect, make_env
from agents.evaluation.fitted_values import PENALTIES, ridge, state_features
from agents.training.start_policy import start_policy
from benchmarks.records import RESULTS, Ledger, table

TASKS = ("Stories", "Copy", "Sort", "Brackets", "Reverse")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much of a return the step explains, and how much the hidden state."""

    translate: str | None = None
    """A start model for Translate, which the bundled one earns nothing at: what `python -m agents sft` left."""
    episodes: int = 512
    """Episodes of each of the two batches."""
    seeds: int = 3
    """Seeds 0, 1, 2, ..."""
    output: Path = RESULTS / "values"
    """Where results go: a .jsonl file and a .md table of this name. What is already there is not measured again."""


def measure(name: str, payout: str, model: str, seed: int, episodes: int) -> dict[str, Any]:
    """One task, payout and seed.

    Args:
        name: Of the environment.
        payout: When it pays.
        model: Who plays.
        seed: Of random weights and of the first batch; the second's is 1,000 more.
        episodes: In each batch.

    Returns:
        The row: shares of variance, 1 at best; below 0 where a constant is better.
    """
    env_id = f"TextGen/{name}-v0"
    policy = start_policy(model, env_id, seed=seed, device="cpu")
    envs = make_env(env_id, policy, 128, payout=payout)
    found = []
    for own in (seed, seed + 1_000):
        rollout = collect(envs, policy, episodes, seed=own, generator=torch.Generator().manual_seed(own))
        mask = rollout.response_mask
        returns = discounted_returns(rollout.rewards, mask)
        with torch.no_grad():
            found.append((returns.double(), mask, state_features(policy, rollout)))
    (seen, seen_mask, features), (returns, mask, states) = found
    means, _ = per_step_means(seen, seen_mask)
    steps = max(len(means), mask.shape[1])
    means = torch.nn.functional.pad(means, (0, steps - len(means)))

    def linear(left: Tensor, left_now: Tensor) -> Tensor:
        """What a linear function of the state, fitted to what is left of the first returns, says of the second."""
        weights = ridge(features[seen_mask], left[seen_mask])
        guesses = states[mask].double() @ weights[:, :-1].T + weights[:, -1]
        errors = (left_now[mask][:, None] - guesses).var(dim=0)
        return guesses[:, errors.argmin()]

    of_step = means[: mask.shape[1]].expand(mask.shape)
    both = linear(seen - means[: seen_mask.shape[1]], returns - of_step) + of_step[mask]

    def explained(guess: Tensor) -> float:
        return float(1 - (returns[mask] - guess).var() / returns[mask].var())

    return {
        "task": name, "payout": payout, "seed": seed, "model": model, "episodes": episodes, "tokens": int(mask.sum()),
        "step": explained(of_step[mask]), "state": explained(linear(seen, returns)), "both": explained(both),
    }  # fmt: skip


def page(rows: list[dict[str, Any]], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# What explains a return to go",
        "",
        f"    {command}",
        "",
        f"{platform.system()} {platform.machine()}, torch {torch.__version__}. Share of the variance of returns to go "
        f"that is explained on a second batch of {rows[0]['episodes']} episodes of the start model; mean over seeds "
        f"(least to most). Ridge penalties: {', '.join(f'{one:g}' for one in PENALTIES)}, the best of them.",
        "",
    ]
    cells = []
    for key in dict.fromkeys((row["task"], row["payout"]) for row in rows):
        of = [row for row in rows if (row["task"], row["payout"]) == key]

        def cell(name: str, of: list[dict[str, Any]] = of) -> str:
            numbers = [row[name] for row in of]
            return f"{sum(numbers) / len(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"

        cells.append([*key, cell("step"), cell("state"), cell("both")])
    heads = ["task", "payout", "mean of the step", "linear in the hidden state", "both"]
    return "\n".join([*lines, *table(heads, cells), ""])


def main(argv: Sequence[str]) -> None:
    """Measure what is missing.

    Args:
        argv: The command's words.
    """
    of = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks values")
    torch.set_num_threads(1)
    command = "python -m benchmarks values" + (f" --translate {of.translate}" if of.translate else "")
    ledger = Ledger(of.output, lambda rows: page(rows, command))
    tasks = [(name, "tiny") for name in TASKS]
    if of.translate is not None:
        tasks.insert(0, ("Translate", of.translate))
    done = ledger.done("task", "payout", "seed")
    for name, model in tasks:
        for payout in ("immediate", "sparse"):
            for seed in range(of.seeds):
                if (name, payout, seed) not in done:
                    row = measure(name, payout, model, seed, of.episodes)
                    ledger.add(row)
                    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
