"""Can a bundled agent learn each language task, and does it learn the task or a way around it?

PPO for a minute of processor time on each id, with the reward paid at every token: once from the bundled language model
as it is, and once from the same model after supervised fine-tuning on some of the task's demonstrations. Judged on the
test split before and after, with the held-out metric and a sample beside the score: a score that rises while the
samples make no sense is a reward that has been hacked, and one that never moves is a task out of reach for pure
reinforcement learning.

    python -m benchmarks language
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import tyro

import textenvs
from agents import PPO, Policy, SFTConfig, fine_tune
from agents.training import Agent

RESULTS = Path(__file__).parent / "results"
STARTS = ("bundled", "warm")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train PPO on every language task, from the bundled model and from a warm start."""

    ids: tuple[str, ...] = ()
    """Which environments; none: every one whose task speaks the bundled model's tokenizer, TextGen-v0 aside."""
    starts: tuple[str, ...] = STARTS
    """"bundled": the bundled model as it is; "warm": after fine-tuning on demonstrations."""
    cpu_seconds: float = 60.0
    """A run of PPO stops after the update that crosses this many seconds of processor time. Not tokens: what a token
    costs differs by a factor of fifty between long prompts with short answers and poems; and not the clock, which
    says little on a shared machine."""
    episodes_per_update: int = 64
    """Episodes of an update: half the default, for more updates in a minute."""
    demonstrations: int = 512
    """How many demonstrations the warm start learns from."""
    epochs: int = 5
    """How often it sees each."""
    sft_learning_rate: float = 2e-3
    """Its step size."""
    episodes: int = 100
    """Test episodes before and after."""
    seed: int = 0
    """Decides everything that is random."""
    output: Path = RESULTS / "language"
    """Where results go: a .jsonl file and a .md table of this name. Runs that are already there are not repeated."""


def language_ids() -> list[str]:
    """The ids whose task speaks the bundled model's tokenizer, each task once.

    Returns:
        The ids, sorted.
    """
    ids = [one for one in textenvs.list_envs() if one != "TextGen-v0"]
    return [one for one in ids if isinstance(gym.make(one).unwrapped.task.default_tokenizer, str)]  # type: ignore[attr-defined]


def run(env_id: str, start: str, arguments: Arguments) -> dict[str, Any]:
    """Train once, and measure before and after.

    Args:
        env_id: The environment.
        start: One of `STARTS`.
        arguments: The command's arguments.

    Returns:
        One row of the table.
    """
    policy = Policy.from_pretrained("tiny", device="cpu")
    started = time.process_time()
    if start == "warm":
        config = SFTConfig(
            epochs=arguments.epochs,
            demonstrations=arguments.demonstrations,
            learning_rate=arguments.sft_learning_rate,
            eval_episodes=0,
        )
        fine_tune(policy, env_id, config=config, seed=arguments.seed)
    warmed = time.process_time()
    agent = PPO(
        policy,
        env_id,
        seed=arguments.seed,
        env_kwargs={"payout": "immediate"},
        episodes_per_update=arguments.episodes_per_update,
        num_envs=arguments.episodes_per_update,
    )
    before = agent.evaluate(arguments.episodes, split="test")
    began = time.process_time()
    while time.process_time() - began < arguments.cpu_seconds:
        agent.learn(agent.timesteps + 1)  # one update
    seconds = time.process_time() - began
    after = agent.evaluate(arguments.episodes, split="test")
    scores = agent.env.task.reference_scores()
    assert scores is not None
    return {
        "id": env_id,
        "start": start,
        "score_before": before.score,
        "score_after": after.score,
        "normalised_before": scores.normalised(before.score),
        "normalised_after": scores.normalised(after.score),
        "held_out_name": after.held_out_name,
        "held_out_before": before.held_out,
        "held_out_after": after.held_out,
        "kl": after.kl,
        "distinct_2_before": before.distinct_2,
        "distinct_2_after": after.distinct_2,
        "length_before": before.response_length,
        "length_after": after.response_length,
        "demonstration_length": demonstration_length(agent),
        "tokens": agent.timesteps,
        "updates": agent.updates,
        "seconds": seconds,
        "seconds_warm": warmed - started,
        "samples": [[before.prompts[at], before.responses[at], after.responses[at]] for at in range(4)],
    }


def demonstration_length(agent: Agent) -> float:
    """The mean tokens of a demonstration, EOS included: a policy that writes far more is up to something.

    Args:
        agent: Whose environment.

    Returns:
        The mean over 64 examples of the test split.
    """
    task, tokenizer = agent.env.task, textenvs.make_tokenizer(agent.env.task.default_tokenizer)
    encode: Any = getattr(tokenizer, "encode_response")  # noqa: B009 - not every Tokenizer has it, the bundled one does
    shown = [task.demonstration(task.example("test", index)) for index in range(64)]
    return sum(len(encode(text)) + 1 for text in shown) / len(shown)


def table(rows: list[dict[str, Any]], command: str) -> str:
    """The rows as Markdown, and a sample of each.

    Args:
        rows: What `run` returned.
        command: The command that made them.

    Returns:
        The text of a Markdown file.
    """
    lines = [
        "# PPO on every language task",
        "",
        f"    {command}",
        "",
        f"CPU, {platform.machine()}, one thread; torch {torch.__version__}; one seed. PPO at its default settings but",
        "for the episodes of an update, paid at every token. Start: the bundled language model, or that model after",
        "fine-tuning on demonstrations (warm). Score: on the test split, and normalised, 0 for random tokens and 1 for",
        "the top. Tokens: mean of a response after training, beside a demonstration's.",
        "",
        "| id | start | score before | after | normalised before | after | held-out | before | after | KL (nats) "
        "| tokens | demonstration's | updates |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = sorted(rows, key=lambda row: (row["id"], row["start"]))
    for row in rows:
        held_out = (
            "| - | - | - "
            if row["held_out_name"] is None
            else f"| {row['held_out_name']} | {row['held_out_before']:.3f} | {row['held_out_after']:.3f} "
        )
        lines.append(
            f"| {row['id']} | {row['start']} | {row['score_before']:.3f} | {row['score_after']:.3f} "
            f"| {row['normalised_before']:.2f} | {row['normalised_after']:.2f} {held_out}| {row['kl']:.1f} "
            f"| {row['length_after']:.0f} | {row['demonstration_length']:.0f} | {row['updates']} |"
        )
    lines += ["", "## Samples", "", "The end of a prompt, and what was written before and after training."]
    for row in rows:
        prompt, before, after = row["samples"][0]
        lines += ["", f"`{row['id']}`, {row['start']}", ""]
        lines += [f"    {name:<8}{text[-160:]!r}" for name, text in
                  (("prompt", prompt), ("before", before), ("after", after))]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Run what is missing, and write the table.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks language")
    torch.set_num_threads(1)
    file = arguments.output.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["id"], row["start"]) for row in rows}
    for start in arguments.starts:
        for env_id in arguments.ids or language_ids():
            if (env_id, start) in done:
                continue
            rows.append(run(env_id, start, arguments))
            with file.open("a") as opened:
                opened.write(json.dumps(rows[-1]) + "\n")
            shown = ("id", "start", "score_before", "score_after", "normalised_after", "updates", "seconds_warm")
            print({key: rows[-1][key] for key in shown}, flush=True)
    command = "python -m benchmarks language " + " ".join(argv)
    arguments.output.with_suffix(".md").write_text(table(rows, command.strip()))
    print(arguments.output.with_suffix(".md").read_text())
