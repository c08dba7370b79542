"""Trains reward models on noisy labels of a known utility, and PPO on what they learned.

A language model writes two responses to each prompt. A known utility, the happiness of a response in nats of log-odds,
labels one of them as preferred, with the noise of Bradley and Terry's model. From these labels alone a reward model and
a DPO policy are trained, and measured on held-out pairs beside the noise ceiling, which is the accuracy of the utility
itself. Then PPO trains on each of them, paid at every token or at the end, and on the utility for comparison, and is
judged by the utility on prompts that nothing was trained on.

    python -m benchmarks preferences
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from agents import PPO, Policy, collect
from agents.supervised import reward_model
from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from textenvs import Example, TextGenVectorEnv, make_reward
from textenvs.rewards import FunctionReward

_SENTIMENT = make_reward("sentiment")
_RUNS = (("utility", "immediate"), ("preference", "immediate"), ("preference", "sparse"), ("dpo", "immediate"))


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train preference models on labels of a known utility, and PPO on what they learned."""

    model: str = "tiny"
    """The start model of writer, preference models and PPO: tiny, or a folder."""
    pairs: int = 12_000
    """Pairs of responses to label; 80 % of them are trained on."""
    max_new_tokens: int = 16
    """Tokens of a response."""
    scale: float = 25.0
    """Nats of log-odds for a sentiment of 1: the larger, the less noise is in the labels."""
    epochs: int = 1
    """Passes over the pairs."""
    learning_rate: float = 1e-3
    """Step size of the preference models."""
    tokens: int = 30_000
    """Budget of a run of PPO, in tokens."""
    kl_coef: float = 0.3
    """PPO's penalty on a nat of KL, in nats of log-odds."""
    episodes: int = 300
    """Held-out episodes before and after."""
    seed: int = 0
    """Decides everything that is random."""
    quick: bool = False
    """Few pairs and tokens, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "preferences"
    """Name of the results: a .json and a .md file."""


def utility_of(scale: float) -> FunctionReward:
    """Makes the known utility: mean valence of the words, whatever the prompt asks for, times `scale`."""
    no_prompt = Example("")
    return FunctionReward(lambda example, response: scale * _SENTIMENT.score(no_prompt, response), "utility")


def label(
    policy: Policy, utility: FunctionReward, count: int, max_new_tokens: int, seed: int
) -> list[reward_model.Pair]:
    """Writes pairs of responses, labelled with the noise of Bradley and Terry's model.

    Args:
        policy: The writer.
        utility: The known utility.
        count: Number of pairs.
        max_new_tokens: Tokens of a response.
        seed: Seed of the responses and the labels.

    Returns:
        The pairs: the first response is preferred with probability sigmoid(difference of utilities).
    """
    env = gym.make_vec(
        "TextGen-v0", num_envs=256, autoreset_mode="Disabled", copy=False, payout="sparse", tokenizer=policy.tokenizer,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    assert isinstance(env, TextGenVectorEnv)
    pool = env.setting.pool
    indices = [response // 2 % len(pool) for response in range(2 * count)]
    generator = torch.Generator(policy.device).manual_seed(seed)
    responses = collect(env, policy, 2 * count, seed=seed, generator=generator, examples=indices).responses(policy)
    chance = np.random.default_rng(seed).random(count)
    pairs = []
    for pair in range(count):
        example, first, second = pool.examples[indices[2 * pair]], responses[2 * pair], responses[2 * pair + 1]
        gap = utility.score(example, first) - utility.score(example, second)
        prefers_first = chance[pair] < 1.0 / (1.0 + np.exp(-gap))
        pairs.append(reward_model.Pair(example.prompt, *((first, second) if prefers_first else (second, first))))
    return pairs


def gaps(utility: FunctionReward, pairs: Sequence[reward_model.Pair]) -> NDArray[np.float64]:
    """Computes the utility's own margins `(pairs,)`, of the chosen response over the rejected one."""
    no_prompt = Example("")
    return np.array([utility.score(no_prompt, pair.chosen) - utility.score(no_prompt, pair.rejected) for pair in pairs])


def train_model(arguments: Arguments, method: Any, file: Path, folder: Path, utility: FunctionReward) -> dict[str, Any]:
    """Trains one preference model and measures it on the test pairs.

    Args:
        arguments: The command's arguments.
        method: "bradley_terry" or "dpo".
        file: The labelled pairs.
        folder: The model's folder.
        utility: The known utility.

    Returns:
        A row of the table of models.
    """
    splits = reward_model.split_pairs(reward_model.load_pairs(file))
    policy = Policy.from_pretrained(arguments.model, device="cpu")
    config = reward_model.PreferenceConfig(
        method=method, epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed
    )
    started, cpu = time.perf_counter(), time.process_time()
    trained = reward_model.train(policy, splits["train"], splits["validation"], config)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    margins = reward_model.margins(policy, splits["test"], trained)
    measured = reward_model.evaluate_margins(margins, trained.temperature)
    reward_model.save(folder, policy, trained, measured)
    true = gaps(utility, splits["test"])
    oracle = reward_model.evaluate_margins(true)
    return {
        "method": method,
        "splits": {split: len(pairs) for split, pairs in splits.items()},
        **asdict(measured),
        "epoch": trained.epoch,
        "ceiling_expected": float(np.mean(1.0 / (1.0 + np.exp(-np.abs(true))))),
        "ceiling_on_these_labels": oracle.accuracy,
        "log_loss_of_the_utility": oracle.log_loss,
        "same_order_as_the_utility": float(np.mean(np.sign(margins) == np.sign(true))),
        "correlation_with_the_utility": float(np.corrcoef(margins, true)[0, 1]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def run_ppo(
    arguments: Arguments, reward: Any, name: str, payout: str, utility: FunctionReward, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Trains PPO on one reward, and judges it by the utility on held-out prompts.

    Args:
        arguments: The command's arguments.
        reward: As `make_reward` takes it.
        name: The reward's name in the table.
        payout: "immediate" or "sparse".
        utility: The known utility.
        before: The start model's scores under this reward, or None if they are not known yet.

    Returns:
        A row of the table of runs.
    """
    kwargs = {"reward": reward, "payout": payout, "max_new_tokens": arguments.max_new_tokens}
    agent = PPO(
        arguments.model, "TextGen-v0", seed=arguments.seed, env_kwargs=kwargs, device="cpu", kl_coef=arguments.kl_coef
    )
    judged = {"split": "test", "held_out": utility}
    start = agent.evaluate(arguments.episodes, **judged).summary() if before is None else before
    started, cpu = time.perf_counter(), time.process_time()
    agent.learn(arguments.tokens)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    end = agent.evaluate(arguments.episodes, **judged)
    return {
        "reward": name,
        "payout": payout,
        "before": start,
        "after": end.summary(),
        "tokens": agent.timesteps,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "sample": end.prompts[0] + " |" + end.responses[0],
    }


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: The measurement.
    """
    first = results["models"][0]
    splits = first["splits"]
    note = (
        f"One thread. Utility: the happiness of a response (`sentiment`, whatever mood the prompt asks for), times "
        f"{results['arguments']['scale']:g}: nats of log-odds. {sum(splits.values())} pairs of responses of the start "
        f"model: {splits['train']} to train on, {splits['validation']} for the temperature, and {splits['test']} of "
        "other prompts to test. Every number below is of the test pairs or of prompts that nothing was trained on. "
        "Brackets: 95 % intervals."
    )
    lines = [
        *heading("Preference models: from noisy labels of a known utility to a policy", results, note),
        "## The models, on held-out pairs",
        "",
        f"The noise ceiling, the accuracy of the utility itself: {first['ceiling_expected']:.3f} expected, "
        f"{first['ceiling_on_these_labels']:.3f} on these",
        f"labels; its log-loss: {first['log_loss_of_the_utility']:.3f}.",
        "",
        *_models_table(results["models"]),
        "",
        "## PPO on them, judged by the utility",
        "",
        "Score: what was trained on. Utility: what the labels were made of, which only the first run has seen.",
        "",
        *_runs_table(results["runs"]),
        "",
        "A response of each:",
        "",
        *(f"- {row['reward']}, {row['payout']}: `{row['sample']!r}`" for row in results["runs"]),
    ]
    return "\n".join(lines) + "\n"


def _models_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    header = [
        "method", "accuracy", "same order as the utility", "correlation of margins", "log-loss", "calibrated", "ECE",
        "calibrated", "temperature", "CPU seconds",
    ]  # fmt: skip
    return table(
        header,
        [
            [
                row["method"],
                f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]",
                f"{row['same_order_as_the_utility']:.3f}",
                f"{row['correlation_with_the_utility']:.2f}",
                f"{row['log_loss']:.3f}",
                f"{row['calibrated_log_loss']:.3f}",
                f"{row['ece']:.3f}",
                f"{row['calibrated_ece']:.3f}",
                f"{row['temperature']:.2f}",
                f"{row['cpu_seconds']:.0f}",
            ]
            for row in rows
        ],
    )


def _runs_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    header = [
        "trained on", "payout", "score before", "after", "utility before", "after", "KL (nats a response)",
        "distinct-2 before", "after", "CPU seconds",
    ]  # fmt: skip
    cells = []
    for row in rows:
        before, after = row["before"], row["after"]
        cells.append(
            [
                row["reward"],
                row["payout"],
                f"{before['score']:.2f}",
                f"{after['score']:.2f}",
                f"{before['held_out']:.2f}",
                f"{after['held_out']:.2f} [{after['held_out_low']:.2f}, {after['held_out_high']:.2f}]",
                f"{after['kl']:.1f}",
                f"{before['distinct_2']:.2f}",
                f"{after['distinct_2']:.2f}",
                f"{row['cpu_seconds']:.0f}",
            ]
        )
    return table(header, cells)


def main(argv: Sequence[str]) -> None:
    """Trains the models and PPO on them, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks preferences")
    if arguments.quick:
        arguments = replace(arguments, pairs=60, max_new_tokens=4, tokens=100, episodes=8)
    torch.set_num_threads(1)
    about = machine("torch", "transformers")
    utility = utility_of(arguments.scale)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        policy = Policy.from_pretrained(arguments.model, device="cpu")
        pairs = label(policy, utility, arguments.pairs, arguments.max_new_tokens, arguments.seed)
        file = root / "pairs.jsonl"
        file.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), encoding="utf-8")
        rewards: dict[str, Any] = {"utility": utility}
        models = []
        for method, score in (("bradley_terry", "preference"), ("dpo", "dpo")):
            models.append(train_model(arguments, method, file, root / score, utility))
            print(json.dumps(models[-1]), flush=True)
            rewards[score] = {score: {"model": str(root / score), "device": "cpu"}}
        runs: list[dict[str, Any]] = []
        for reward, payout in _RUNS:
            known = next((row["before"] for row in runs if row["reward"] == reward), None)
            runs.append(run_ppo(arguments, rewards[reward], reward, payout, utility, known))
            print(json.dumps(runs[-1]), flush=True)
    results = {
        "command": command_line("preferences", argv),
        "machine": about,
        "arguments": {key: value for key, value in asdict(arguments).items() if key != "output"},
        "models": models,
        "runs": runs,
    }
    write(arguments.output, results, page(results))
