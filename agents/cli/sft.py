"""`python -m agents sft`: supervised fine-tuning on an environment's demonstrations."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from agents import SFTConfig, fine_tune
from agents.cli.options import EnvironmentArguments, _model, _start_processes
from agents.training.start_policy import start_policy


@dataclass(frozen=True, kw_only=True)
class SFT(EnvironmentArguments):
    """Train a language model on an environment's demonstrations: a warm start for reinforcement learning."""

    model: str = "tiny"
    """As for train: tiny, a folder, or a hub id."""
    output: Path | None = None
    """The run's folder. Default: runs/ and a name made of the environment and the time."""
    seed: int = 0
    """Of the order of the demonstrations, and of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    settings: tyro.conf.OmitArgPrefixes[SFTConfig] = field(default_factory=SFTConfig)


def sft(arguments: SFT) -> None:
    """Train on demonstrations, and say how it went after each epoch."""
    folder = arguments.output or Path("runs") / (
        f"sft-{arguments.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    device = _start_processes(arguments.device, pieces=False)
    source = _model(arguments.model)
    policy = start_policy(source, arguments.env, arguments.kwargs(), seed=arguments.seed, device=device)

    def show(row: dict[str, float]) -> None:
        parts = [f"epoch {row['epoch']:.0f}: perplexity {row['validation_perplexity']:.3f}"]
        if "validation_score" in row:
            parts.append(f"score {row['validation_score']:+.3f}")
        print("  ".join(parts) + "  (validation)", flush=True)

    rows = fine_tune(
        policy,
        arguments.env,
        config=arguments.settings,
        seed=arguments.seed,
        env_kwargs=arguments.kwargs(),
        folder=folder,
        on_epoch=show,
    )
    best = min(rows, key=lambda row: row["validation_perplexity"])
    print(f"The policy of epoch {best['epoch']:.0f} is in {folder}; go on with python -m agents train --init {folder}")
