"""Does every kind of policy learn? PPO, on one kind after another.

Encoder-decoders, the LSTM and a causal model begin with random weights and learn `TextGen/Copy-v0`, with larger steps
and smaller minibatches than the defaults, which are for models that know something, and an entropy bonus. LoRA
adapters on the bundled language model learn `sentiment` on `TextGen-v0`, beside the whole model, from the defaults
but for the step size. Judged on the test split, before and after.

    python -m benchmarks policies
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from agents import PPO

RESULTS = Path(__file__).parent / "results"

COPY: dict[str, dict[str, Any]] = {
    "causal (Llama)": {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "encoder-decoder (T5)": {
        "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4,
        "tie_word_embeddings": False, "initializer_factor": 0.1,
    },
    "encoder-decoder (BART)": {
        "model_type": "bart", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64,
        "init_std": 0.1,
    },
    "LSTM": {"model_type": "lstm_lm", "hidden_size": 128, "num_hidden_layers": 1},
}  # fmt: skip
STORIES: dict[str, dict[str, Any]] = {
    "bundled model": {},
    "bundled model, LoRA of rank 8": {"lora": 8},
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every kind of policy with PPO."""

    copy_tokens: int = 400_000
    """Budget of a run on Copy, in tokens."""
    stories_tokens: int = 50_000
    """Budget of a run on stories, in tokens."""
    max_seconds: float = 600.0
    """A run stops training after this many seconds, even if tokens are left."""
    learning_rate: float = 3e-3
    """Step size on Copy, of all but the LSTM."""
    lstm_learning_rate: float = 5e-3
    """Step size of the LSTM."""
    minibatch_size: int = 32
    """Episodes in a minibatch, on Copy."""
    entropy_coef: float = 0.02
    """Weight of the entropy bonus, on Copy."""
    lora_learning_rate: float = 3e-3
    """Step size of adapters, which start at zero."""
    seeds: int = 1
    """Seeds 0, 1, 2, ..."""
    episodes: int = 300
    """Test episodes before and after."""
    output: Path = RESULTS / "policies"
    """Where results go: a .json file and a .md table of this name."""


def run(
    name: str, env: str, policy: Any, settings: dict[str, Any], policy_kwargs: dict[str, Any], seed: int, of: Arguments
) -> dict[str, Any]:
    """Train once, and measure before and after.

    Args:
        name: What the table calls this policy.
        env: The id of the environment.
        policy: What PPO takes.
        settings: Of PPO.
        policy_kwargs: Of `Policy.adapt`.
        seed: The run's seed.
        of: The command's arguments.

    Returns:
        One row of the table.
    """
    tokens = of.copy_tokens if "Copy" in env else of.stories_tokens
    kwargs = None if "Copy" in env else {"reward": "sentiment"}
    agent = PPO(policy, env, seed=seed, env_kwargs=kwargs, device="cpu", policy_kwargs=policy_kwargs, **settings)
    before = agent.evaluate(of.episodes, split="test")
    started = time.perf_counter()
    agent.learn(tokens, max_seconds=of.max_seconds)
    seconds = time.perf_counter() - started
    after = agent.evaluate(of.episodes, split="test")
    row = {
        "policy": name,
        "env": env,
        "seed": seed,
        "parameters": sum(one.numel() for one in agent.policy.parameters()),
        "trained": sum(one.numel() for one in agent.policy.parameters() if one.requires_grad),
        "score_before": before.score,
        "score_after": after.score,
        "kl": after.kl if agent.reference.pretrained else None,
        "tokens": agent.timesteps,
        "seconds": seconds,
        "config": agent.config.to_dict(),
    }
    shown = ("policy", "env", "seed", "score_before", "score_after", "tokens", "seconds")
    print({key: row[key] for key in shown}, flush=True)
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
        "# Every kind of policy, trained with PPO",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}. Score: of the environment, on its test",
        "split. KL: nats a response, to the start model, where that was trained before. Seconds: of training, on a",
        "machine that had other work.",
        "",
        "| environment | policy | seed | parameters | trained | score before | after | KL | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kl = "" if row["kl"] is None else f"{row['kl']:.1f}"
        lines.append(
            f"| {row['env']} | {row['policy']} | {row['seed']} | {row['parameters']:,} | {row['trained']:,} "
            f"| {row['score_before']:.3f} | {row['score_after']:.3f} | {kl} | {row['tokens']:,} "
            f"| {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Train every kind of policy, and write the table.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks policies")
    torch.set_num_threads(1)
    rows = []
    command = f"python -m benchmarks policies {' '.join(argv)}".strip()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name, config in COPY.items():
            settings = {
                "learning_rate": arguments.lstm_learning_rate if name == "LSTM" else arguments.learning_rate,
                "minibatch_size": arguments.minibatch_size,
                "entropy_coef": arguments.entropy_coef,
            }
            rows.append(run(name, "TextGen/Copy-v0", config, settings, {}, seed, arguments))
        for name, adapted in STORIES.items():
            settings = {"learning_rate": arguments.lora_learning_rate} if adapted else {}
            rows.append(run(name, "TextGen-v0", "tiny", settings, adapted, seed, arguments))
        arguments.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(table(rows, command), encoding="utf-8")
    print(arguments.output.with_suffix(".md").read_text(encoding="utf-8"))
