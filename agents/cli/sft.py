"""`python -m agents sft`: supervised fine-tuning on an environment's demonstrations."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from agents import fine_tune
from agents.cli.console import join_processes, owned
from agents.cli.options import SFT
from agents.cli.sources import model_source
from agents.files import check_empty
from agents.locks import LOCK
from agents.training.start_policy import start_policy


def run(arguments: SFT) -> None:
    """Trains on demonstrations, and prints how good the policy is after each epoch."""
    folder = arguments.output or Path("runs") / (
        f"sft-{arguments.env.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    device = join_processes(arguments.device, pieces=False)
    with owned(folder, partial(check_empty, but=(LOCK,))):
        _fine_tune(arguments, folder, device)


def _fine_tune(arguments: SFT, folder: Path, device: str | None) -> None:
    source, env_kwargs = model_source(arguments.model), arguments.env_kwargs()
    policy = start_policy(source, arguments.env, env_kwargs, seed=arguments.seed, device=device)
    rows = fine_tune(
        policy,
        arguments.env,
        config=arguments.settings,
        seed=arguments.seed,
        env_kwargs=env_kwargs,
        folder=folder,
        on_epoch=_print_epoch,
    )
    best = min(rows, key=lambda row: row["validation_perplexity"])
    print(f"The policy of epoch {best['epoch']:.0f} is in {folder}; go on with python -m agents train --init {folder}")


def _print_epoch(row: dict[str, float]) -> None:
    parts = [f"epoch {row['epoch']:.0f}: perplexity {row['validation_perplexity']:.3f}"]
    if "validation_score" in row:
        parts.append(f"score {row['validation_score']:+.3f}")
    print("  ".join(parts) + "  (validation)", flush=True)
