"""Do Stable-Baselines3's algorithms learn Copy, with our policy and our lanes?

PPO, A2C and sb3-contrib's MaskablePPO get a small model with random weights through `agents.sb3`, and play
`TextGen/Copy-v0`, paid at every token. MaskablePPO may write letters and EOS alone, which is all but "=". A run stops
at 0.9 of the normalised score, on average over the last 500 episodes.

    pip install sb3-contrib
    python -m benchmarks sb3
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback

import textenvs
from agents import Policy
from agents.sb3 import TextGenVecEnv, TransformerPolicy
from benchmarks.records import RESULTS, Ledger

EPISODES = 500
"""Episodes over which the score is averaged."""
COMMON: dict[str, Any] = {"gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.05, "learning_rate": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 8, "batch_size": 256, "n_epochs": 4},
    "A2C": {"n_steps": 8, "normalize_advantage": True},
    "MaskablePPO": {"n_steps": 8, "batch_size": 256, "n_epochs": 4},
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train small models from random weights with Stable-Baselines3."""

    algorithms: tuple[str, ...] = tuple(SETTINGS)
    """Which of them."""
    tokens: int = 300_000
    """Budget of a run, in tokens."""
    num_envs: int = 128
    """Lanes."""
    seeds: int = 1
    """Seeds 0, 1, 2, ..."""
    output: Path = RESULTS / "sb3"
    """Where results go: a .jsonl file and a .md table of this name. Runs that are already there are not repeated."""


class _Watch(BaseCallback):
    """Notes the score of every episode that ends, and stops the run when it is good."""

    def __init__(self, scale: textenvs.ReferenceScores) -> None:
        super().__init__()
        self.scale = scale
        self.scores: list[float] = []

    def _on_step(self) -> bool:
        for info, over in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if over:
                self.scores.append(self.scale.normalised(info["score"]))
        return len(self.scores) < EPISODES or self.mean < 0.9

    @property
    def mean(self) -> float:
        """Of the last episodes."""
        return float(np.mean(self.scores[-EPISODES:]))


def run(name: str, seed: int, of: Arguments) -> dict[str, Any]:
    """Train once.

    Args:
        name: One of `SETTINGS`.
        seed: Of model and run.
        of: The command's arguments.

    Returns:
        One row of the table.
    """
    masked = name == "MaskablePPO"
    kwargs = {"action_mask": {"regex": "[a-h]*"}} if masked else {}
    task = textenvs.make_task("copy")
    envs = TextGenVecEnv(
        gym.make_vec("TextGen/Copy-v0", num_envs=of.num_envs, autoreset_mode="SameStep", **kwargs)  # type: ignore[arg-type]
    )
    algorithm: Any
    policy: Any
    if masked:  # of a package of its own
        from sb3_contrib import MaskablePPO as algorithm

        from agents.sb3 import MaskableTransformerPolicy as policy
    else:
        algorithm, policy = getattr(stable_baselines3, name), TransformerPolicy
    agent = algorithm(
        policy,
        envs,
        policy_kwargs={"model": Policy.fresh(task.default_tokenizer, seed=seed, device="cpu")},
        seed=seed,
        device="cpu",
        **COMMON,
        **SETTINGS[name],
    )
    scale = task.reference_scores("train")
    assert scale is not None
    watch = _Watch(scale)
    started = time.perf_counter()
    agent.learn(of.tokens, callback=watch)
    row = {
        "algorithm": name,
        "seed": seed,
        "before": float(np.mean(watch.scores[:EPISODES])),
        "after": watch.mean,
        "tokens": agent.num_timesteps,
        "seconds": time.perf_counter() - started,
        "settings": {**COMMON, **SETTINGS[name]},
    }
    print(row, flush=True)
    return row


def table(rows: list[dict[str, Any]], command: str) -> str:
    """The rows as Markdown.

    Args:
        rows: What `run` returned.
        command: The command that made them.

    Returns:
        The text of a Markdown file.
    """
    lines = [
        "# Stable-Baselines3 on TextGen/Copy-v0",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}, stable-baselines3",
        f"{stable_baselines3.__version__}. Score: normalised, of the first and the last {EPISODES} episodes of",
        "training. A run stops at 0.9. Seconds: on a machine that had other work.",
        "",
        "| algorithm | seed | score at first | at last | tokens | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['algorithm']} | {row['seed']} | {row['before']:.3f} | {row['after']:.3f} | {row['tokens']:,} "
        f"| {row['seconds']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Make the runs that are missing, and write the table.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks sb3")
    torch.set_num_threads(1)
    command = f"python -m benchmarks sb3 {' '.join(argv)}".strip()
    ledger = Ledger(arguments.output, lambda rows: table(rows, command))
    done = ledger.done("algorithm", "seed")
    for seed in range(arguments.seeds):
        for name in arguments.algorithms:
            if (name, seed) not in done:
                ledger.add(run(name, seed, arguments))
