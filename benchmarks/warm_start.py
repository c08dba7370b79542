"""Does a warm start help? Demonstrations alone, PPO alone, and PPO from the policy that the demonstrations left.

All three begin with the bundled language model. Supervised fine-tuning sees a few demonstrations; PPO gets the same
settings and as many tokens either way. Judged on the test split, by the task's own score.

    python -m benchmarks warm_start
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents import PPO, Policy, SFTConfig, fine_tune
from agents.evaluation.evaluation import evaluate
from benchmarks.records import RESULTS, Ledger

TASKS = ("TextGen/Translate-v0", "TextGen/QuestionAnswering-v0")
METHODS = ("start model", "SFT", "PPO", "SFT, then PPO")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare SFT, PPO, and one after the other."""

    demonstrations: int = 256
    """Examples of the train split that SFT sees."""
    epochs: int = 16
    """Passes over them at most."""
    batch_size: int = 16
    """Demonstrations in one of SFT's steps: with so few of them, there are few steps in a pass."""
    sft_learning_rate: float = 2e-3
    """Step size of SFT."""
    tokens: int = 200_000
    """Budget of PPO, in tokens."""
    episodes_per_update: int = 64
    """Episodes of each of PPO's updates, and lanes; its other settings are the defaults."""
    payout: str = "immediate"
    """When PPO is paid."""
    seeds: int = 3
    """Seeds 0, 1, 2, ..."""
    episodes: int = 300
    """Test episodes."""
    output: Path = RESULTS / "warm_start"
    """Where results go: a .jsonl file and a .md table of this name. Seeds that are already there are not repeated."""


def run(env: str, seed: int, of: Arguments) -> list[dict[str, Any]]:
    """All the methods once, on one task.

    Args:
        env: The id of the environment.
        seed: Of all of them.
        of: The command's arguments.

    Returns:
        A row of the table for each method.
    """
    rows: list[dict[str, Any]] = []

    def ppo(policy: Policy) -> Any:
        return PPO(
            policy,
            env,
            seed=seed,
            env_kwargs={"payout": of.payout},
            num_envs=of.episodes_per_update,
            episodes_per_update=of.episodes_per_update,
        )

    def note(method: str, agent: Any, demonstrations: int, started: float) -> None:
        seconds = time.perf_counter() - started
        test = agent.make_env(of.episodes_per_update, split="test")
        found = evaluate(agent.policy, test, of.episodes, seed=seed)
        scale = test.task.reference_scores("test")
        rows.append(
            {
                "env": env,
                "method": method,
                "seed": seed,
                "score": found.score,
                "normalised": scale.normalised(found.score),
                "response_length": found.response_length,
                "demonstrations": demonstrations,
                "tokens": agent.timesteps,
                "seconds": seconds,
                "sample": found.prompts[0] + " |" + found.responses[0],
                "config": agent.config.to_dict(),
            }
        )
        shown = ("env", "method", "seed", "score", "response_length", "tokens", "seconds", "sample")
        print({key: rows[-1][key] for key in shown}, flush=True)

    alone = ppo(Policy.from_pretrained("tiny", device="cpu"))
    note("start model", alone, 0, time.perf_counter())
    started = time.perf_counter()
    alone.learn(of.tokens)
    note("PPO", alone, 0, started)
    policy = Policy.from_pretrained("tiny", device="cpu")
    config = SFTConfig(
        demonstrations=of.demonstrations,
        epochs=of.epochs,
        batch_size=of.batch_size,
        learning_rate=of.sft_learning_rate,
        eval_episodes=0,
    )
    started = time.perf_counter()
    fine_tune(policy, env, config=config, seed=seed)
    warm = ppo(policy)
    note("SFT", warm, of.demonstrations, started)
    started = time.perf_counter()
    warm.learn(of.tokens)
    note("SFT, then PPO", warm, of.demonstrations, started)
    return rows


def table(rows: list[dict[str, Any]], command: str) -> str:
    """The rows as Markdown: the mean of the seeds, and every one of them.

    Args:
        rows: What `run` returned.
        command: The command that made them.

    Returns:
        The text of a Markdown file.
    """
    lines = [
        "# A warm start, then PPO",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}. All begin with the bundled language model.",
        "Score: of the environment, mean of sampled episodes of the test split; normalised: 0 is random, 1 the",
        "demonstrations. Length: tokens of a response. Seconds: of training, on a machine that had other work.",
        "",
        "| environment | method | demonstrations | tokens of PPO | score | normalised | by seed | length | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env in TASKS:
        for method in METHODS:
            group = [row for row in rows if (row["env"], row["method"]) == (env, method)]
            if not group:
                continue
            group.sort(key=lambda row: int(row["seed"]))
            mean = {
                name: float(np.mean([row[name] for row in group]))
                for name in ("score", "normalised", "tokens", "response_length", "seconds")
            }
            seeds = " ".join(f"{row['score']:.3f}" for row in group)
            lines.append(
                f"| {env} | {method} | {group[0]['demonstrations']} | {mean['tokens']:,.0f} | {mean['score']:.3f} "
                f"| {mean['normalised']:.3f} | {seeds} | {mean['response_length']:.1f} | {mean['seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Make the runs that are missing, and write the table after each.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks warm_start")
    torch.set_num_threads(1)
    command = f"python -m benchmarks warm_start {' '.join(argv)}".strip()
    ledger = Ledger(arguments.output, lambda rows: table(rows, command))
    done = ledger.done("env", "seed")
    for seed in range(arguments.seeds):
        for env in TASKS:
            if (env, seed) not in done:
                ledger.add(*run(env, seed, arguments))
