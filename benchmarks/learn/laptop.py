"""Teaches SmolLM2-135M-Instruct lessons on a CPU: what a laptop can do in 20,000 tokens.

    pip install "textenvs[agents,lora,smollm2]"
    python -m benchmarks laptop --data DATA --lessons sentiment --agents ppo --payouts immediate

DATA is a folder with the data sets' own folders, `sentence_polarity` and `commongen`. A run that was done before is not
repeated, so that a stopped command continues where it was. The model's weights were quantised to 4 bits and are
dequantised: results are those of the rounded model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.records import RESULTS, Ledger, command_line, machine, machine_line, table, write_page

AGENTS = ("ppo", "sft")
PAYOUTS = ("immediate", "sparse")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Teach a language model lessons on real text, on a CPU."""

    data: Path | None = field(default_factory=lambda: _path_or_none(os.environ.get("TEXTENVS_DATA")))
    """The folder with the folders sentence_polarity and commongen. Default: $TEXTENVS_DATA."""
    lessons: tuple[str, ...] = ("sentiment", "commongen", "brief")
    """The lessons of benchmarks/learn/lessons.py."""
    agents: tuple[str, ...] = AGENTS
    """ppo, and sft on demonstrations."""
    payouts: tuple[str, ...] = PAYOUTS
    """When the score is paid; sft is paid nothing."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds."""
    model: str = "smollm2"
    """The model: a name, a folder, a .gguf file or a hub id."""
    tokens: int = 20_000
    """The tokens that a run plays, or learns from."""
    max_seconds: float = 3600.0
    """A run stops after this many seconds of training, whatever is left of its tokens."""
    lora: int = 8
    """The rank of the adapters that are trained."""
    lanes: int = 16
    """Episodes side by side."""
    max_new_tokens: int = 24
    """The most tokens of a response."""
    learning_rate: float = 1e-3
    """Step size at the start."""
    episodes: int = 100
    """Test prompts, each answered once before and once after."""
    threads: int = 1
    """Threads of a run."""
    output: Path = RESULTS / "laptop"
    """Name of the results: a .jsonl and a .md file."""


def _path_or_none(text: str | None) -> Path | None:
    return Path(text) if text else None


def settings(arguments: Arguments) -> dict[str, Any]:
    """Returns PPO's settings; all others are its defaults."""
    return {
        "num_envs": arguments.lanes,
        "episodes_per_update": 2 * arguments.lanes,
        "minibatch_size": arguments.lanes,
        "micro_batch_size": arguments.lanes,
        "learning_rate": arguments.learning_rate,
        "epochs": 1,  # of a model this large, passes for the gradient take most of the time
    }


def run(arguments: Arguments, lesson_name: str, agent_name: str, payout: str, seed: int) -> dict[str, Any]:
    """Trains on one lesson, and tests before and after.

    Args:
        arguments: The command's arguments.
        lesson_name: The lesson.
        agent_name: "ppo" or "sft".
        payout: When the score is paid.
        seed: Decides everything that is random.

    Returns:
        The row, without its origin.
    """
    import gymnasium as gym

    from agents import Policy
    from agents.evaluation.evaluation import evaluate
    from benchmarks.learn.lessons import make_lesson

    assert arguments.data is not None
    lesson = make_lesson(lesson_name, arguments.data)
    kwargs = lesson.env_kwargs(payout, arguments.max_new_tokens)
    policy = Policy.from_pretrained(arguments.model, device="cpu")
    dequantized = getattr(policy.model.config, "dequantized_from", None)
    policy.adapt(lora=arguments.lora, seed=seed)
    reference = policy.frozen_copy()
    env = gym.make_vec(
        "TextGen-v0",
        num_envs=arguments.lanes,
        autoreset_mode="Disabled",
        tokenizer=policy.tokenizer,
        **{**kwargs, "split": "test"},
    )

    def tested() -> Any:
        return evaluate(policy, env, arguments.episodes, reference=reference, held_out=lesson.held_out, seed=0)

    before = tested()
    started, cpu = time.perf_counter(), time.process_time()
    trained = (_fine_tune if agent_name == "sft" else _reinforce)(policy, arguments, kwargs, seed)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    after = tested()
    return {
        "lesson": lesson_name, "agent": agent_name, "payout": payout, "seed": seed, "model": arguments.model,
        "dequantized_from": dequantized, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1),
        "budget": arguments.tokens, "lora": arguments.lora, "lanes": arguments.lanes,
        "max_new_tokens": arguments.max_new_tokens, "threads": arguments.threads, **trained,
        "held_out_name": lesson.held_out.name, "before": _numbers(before), "after": _numbers(after),
        "gain": _gain(before.scores, after.scores), "held_out_gain": _gain(before.held_outs, after.held_outs),
        "demonstrations": _demonstrated(lesson),
        "samples": [
            {"prompt": prompt, "before": old, "after": new}
            for prompt, old, new in list(zip(before.prompts, before.responses, after.responses, strict=True))[:12]
        ],
    }  # fmt: skip


def _reinforce(policy: Any, arguments: Arguments, kwargs: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains a policy with PPO. Returns columns of the row: tokens, settings and a point for each update."""
    from agents import PPO

    curve: list[dict[str, float]] = []

    def note(row: dict[str, float]) -> None:
        curve.append({"tokens": row["timesteps"], **{name: round(row[name], 4) for name in ("score", "kl")}})

    agent = PPO(policy, "TextGen-v0", seed=seed, env_kwargs=kwargs, **settings(arguments))
    agent.learn(arguments.tokens, max_seconds=arguments.max_seconds, on_update=note)
    return {"tokens": agent.timesteps, "config": agent.config.to_dict(), "curve": curve}


def _fine_tune(policy: Any, arguments: Arguments, kwargs: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains a policy on as many tokens of demonstrations, each seen once. Returns columns of the row."""
    import gymnasium as gym

    from agents import SFTConfig, fine_tune
    from agents.supervised.sft import demonstrations

    train = gym.make_vec("TextGen-v0", num_envs=1, tokenizer=policy.tokenizer, **{**kwargs, "split": "train"})
    tokens = demonstrations(train).response_mask.sum(dim=1).cumsum(0)
    number = max(1, int((tokens <= arguments.tokens).sum()))
    config = SFTConfig(
        epochs=1,
        batch_size=arguments.lanes,
        micro_batch_size=arguments.lanes,
        demonstrations=number,
        learning_rate=arguments.learning_rate,
        eval_episodes=0,
    )
    rows = fine_tune(policy, "TextGen-v0", config=config, seed=seed, env_kwargs=kwargs)
    curve = [{"perplexity": round(row["validation_perplexity"], 3)} for row in rows]
    return {"tokens": int(tokens[number - 1]), "config": config.to_dict(), "curve": curve}


def _numbers(evaluation: Any) -> dict[str, float]:
    names = ("score", "held_out", "kl", "distinct_2", "response_length", "episodes")
    return {name: round(getattr(evaluation, name), 4) for name in names}


def _gain(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Returns the mean difference over the prompts, and its 95 % interval: each prompt is compared with itself."""
    from agents.evaluation.evaluation import confidence_interval

    return [round(number, 4) for number in confidence_interval(np.array(after) - np.array(before))]


def _demonstrated(lesson: Any) -> dict[str, float]:
    """Returns the mean scores of the demonstrations."""
    from textenvs import make_reward

    reward, pairs = make_reward(lesson.reward), lesson.demonstrated()
    return {
        "score": round(sum(reward.score(*pair) for pair in pairs) / len(pairs), 4),
        "held_out": round(sum(lesson.held_out.score(*pair) for pair in pairs) / len(pairs), 4),
        "texts": len(pairs),
    }


# The page -------------------------------------------------------------------------------------------------------------


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Writes the page of all rows."""
    last = rows[-1]
    commands = list(dict.fromkeys(row["command"] for row in rows))
    start = f"The model is {last['model']}"
    if last["dequantized_from"]:
        start += (
            f", dequantised from {last['dequantized_from']}: its weights were rounded to a few bits, and these are "
            "results of the rounded model"
        )
    text = [
        "# A real model on a laptop",
        "",
        *[f"    {command}" for command in commands],
        "",
        f"{machine_line(last['machine'])} {last['threads']} thread a run; the machine had other work.",
        "",
        f"{start}. LoRA adapters of rank {last['lora']} are trained, on {last['lanes']} lanes, in responses of up to "
        f"{last['max_new_tokens']} tokens. A score is the mean over {last['before']['episodes']} test prompts, each "
        "answered once at temperature 1; gains are paired by prompt, with 95 % intervals over prompts. KL is in nats a "
        "response. The page is made of all rows that there are: what is not in it was not run.",
        "",
    ]
    header = [
        "lesson", "agent", "payout", "seed", "tokens", "CPU min", "score before", "after", "gain", "demonstrations",
        "held out", "before", "after", "gain", "demonstrations", "KL", "distinct-2 before", "after",
    ]  # fmt: skip
    cells = []
    for row in sorted(rows, key=_order):
        before, after, shown = row["before"], row["after"], row["demonstrations"]
        cells.append([
            row["lesson"], row["agent"], row["payout"] if row["agent"] != "sft" else "-", row["seed"],
            f"{row['tokens']:,}", f"{row['cpu_seconds'] / 60:.0f}",
            f"{before['score']:.3f}", f"{after['score']:.3f}", _interval(row["gain"]), f"{shown['score']:.3f}",
            row["held_out_name"], f"{before['held_out']:.3f}", f"{after['held_out']:.3f}",
            _interval(row["held_out_gain"]), f"{shown['held_out']:.3f}", f"{after['kl']:.1f}",
            f"{before['distinct_2']:.2f}", f"{after['distinct_2']:.2f}",
        ])  # fmt: skip
    text += [*table(header, cells), "", "## Samples", "", "The first test prompts, at the first seed of each."]
    seen = set()
    for row in sorted(rows, key=_order):
        name = (row["lesson"], row["agent"], row["payout"])
        if name in seen:
            continue
        seen.add(name)
        text += ["", f"### {', '.join(name)}", ""]
        samples = [[_cell(sample[part]) for part in ("prompt", "before", "after")] for sample in row["samples"][:6]]
        text += table(["prompt", "before", "after"], samples)
    return "\n".join(text) + "\n"


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["lesson"], row["agent"], row["payout"], row["seed"]


def _interval(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def _cell(text: str) -> str:
    return text.replace("\n", " ↵ ").replace("|", "\\|").strip()


def main(argv: Sequence[str]) -> None:
    """Makes the runs that are missing.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks laptop")
    if arguments.data is None or not arguments.data.is_dir():
        raise SystemExit(
            "error: Expected --data, or TEXTENVS_DATA, to be the folder that holds the data sets' folders "
            f"sentence_polarity and commongen, got {str(arguments.data)!r}"
        )
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    ledger = Ledger(arguments.output, page)
    done = ledger.done("lesson", "agent", "payout", "seed", "model", "budget")
    # The payout is the outermost: a command that is stopped leaves whole lessons.
    for payout, agent, lesson, seed in product(arguments.payouts, arguments.agents, arguments.lessons, arguments.seeds):
        if agent == "sft" and payout != PAYOUTS[0]:  # nothing is paid for demonstrations
            continue
        if (lesson, agent, payout, seed, arguments.model, arguments.tokens) in done:
            continue
        about = {"command": command_line("laptop", argv), "machine": machine("torch", "transformers", "peft")}
        row = {**run(arguments, lesson, agent, payout, seed), **about}
        ledger.add(row)
        print(f"{lesson} {agent} {payout} seed {seed}: score {row['before']['score']:.3f} -> "
              f"{row['after']['score']:.3f}, {row['cpu_seconds']:.0f} CPU s", flush=True)  # fmt: skip
    if ledger.rows:
        write_page(arguments.output, page(ledger.rows))
    ledger.close()
