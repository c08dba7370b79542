"""Compares the payouts: policy gradients in tables, on the diagnostic tasks, exact and sampled.

One example of each diagnostic task is a small Markov decision process (`textenvs.tasks.exact.EpisodeModel`). A policy
is a table of logits, one row for each state and time. It starts uniform, and climbs the gradient of its mean return
until it reaches the task's threshold or the last update:

- exact, gamma 1: the payouts have the same return on every path, so the same gradient, and take the same updates.
- exact, gamma 0.9: they do not, as a discount makes late pay worth less.
- reinforce: the same gradient, sampled, with the batch's mean at each time as a baseline. Pay that came before an
  action is no part of its return to go: under the immediate payout this works as one more baseline.
- actor-critic: one-step temporal differences and a table of values. Sparse pay has to travel back through the values.

It also measures how many examples a second each task's generator makes, at every level.

    python -m benchmarks tasks
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from textenvs import TextGenVectorEnv, list_tasks, make_task, make_tokenizer
from textenvs.tasks import SPLITS, Diagnostic, Example
from textenvs.tasks.exact import EpisodeModel

PAYOUTS = ("immediate", "sparse")
METHODS = ("exact, gamma 1", "exact, gamma 0.9", "reinforce", "actor-critic")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Tabular policy gradients on the diagnostic tasks, immediate against sparse."""

    updates: int = 3000
    """A run ends after this many updates, even if it has not reached the threshold."""
    exact_lr: float = 10.0
    """Step size of the exact gradient."""
    sampled_lr: float = 0.5
    """Step size of the sampled gradients."""
    critic_lr: float = 0.1
    """Step size of the table of values."""
    episodes: int = 16
    """Episodes in each sampled update."""
    seeds: int = 8
    """Independent sampled runs."""
    every: int = 10
    """Updates between two measurements of the score."""
    generator_examples: int = 20_000
    """Examples to make with each generator."""
    quick: bool = False
    """Few tasks and updates, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "tasks"
    """Name of the results: a .json, a .md and a .png file."""


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def exact_gradient(
    model: EpisodeModel, policy: NDArray[np.float64], payout: str, gamma: float
) -> tuple[float, NDArray[np.float64]]:
    """Computes the mean discounted return of a policy, and its gradient with respect to the logits.

    Args:
        model: The episode.
        policy: `(max_new_tokens, states, vocab_size)` the probability of each token.
        payout: "immediate" or "sparse".
        gamma: The discount.

    Returns:
        The mean return, and its gradient, of the policy's shape.

    Source: Sutton, McAllester, Singh & Mansour (1999), Policy gradient methods, Theorem 1, with its discount.
    """
    budget, num_states, _ = policy.shape
    after, scores = model.after, model.scores
    action_values = np.empty_like(policy)
    values = np.zeros(num_states)
    state_values = np.empty((budget, num_states))
    for step in reversed(range(budget)):
        ends = np.full(policy.shape[2], step == budget - 1)
        ends[model.eos_token_id] = True
        paid = scores[after] - scores[:, None] if payout == "immediate" else np.where(ends, scores[after], 0.0)
        action_values[step] = paid + gamma * np.where(ends, 0.0, values[after])
        values = (policy[step] * action_values[step]).sum(axis=1)
        state_values[step] = values
    reached = np.zeros(num_states)
    reached[0] = 1.0
    gradient = np.empty_like(policy)
    for step in range(budget):
        flow = reached[:, None] * policy[step]
        gradient[step] = gamma**step * flow * (action_values[step] - state_values[step][:, None])
        flow[:, model.eos_token_id] = 0.0
        reached = np.bincount(after.ravel(), flow.ravel(), num_states)
    return float(state_values[0, 0]), gradient


def climb_exactly(
    arguments: Arguments, model: EpisodeModel, threshold: float, payout: str, gamma: float
) -> list[list[float]]:
    """Climbs the exact gradient.

    Args:
        arguments: The command's arguments.
        model: The episode.
        threshold: The score at which the climb ends.
        payout: "immediate" or "sparse".
        gamma: The discount.

    Returns:
        One curve: the mean score before the first update and after every `arguments.every`.
    """
    logits = np.zeros((model.max_new_tokens, *model.after.shape))
    curve = [model.expected_score()]
    for update in range(1, arguments.updates + 1):
        logits += arguments.exact_lr * exact_gradient(model, softmax(logits), payout, gamma)[1]
        if update % arguments.every == 0:
            curve.append(model.expected_score(softmax(logits)))
            if curve[-1] >= threshold:
                break
    return [curve]


def climb_by_samples(
    arguments: Arguments, task: Diagnostic, example: Example, model: EpisodeModel, threshold: float, payout: str,
    method: str,
) -> list[list[float]]:  # fmt: skip
    """Climbs sampled gradients, all seeds side by side in one vector environment, which pays.

    Args:
        arguments: The command's arguments.
        task: The task.
        example: Its example, which every lane plays.
        model: The episode of that example.
        threshold: The score at which the climb ends, when every seed has reached it.
        payout: "immediate" or "sparse".
        method: "reinforce" or "actor-critic".

    Returns:
        A curve for each seed, as `climb_exactly` returns it.
    """
    seeds, episodes, budget = arguments.seeds, arguments.episodes, model.max_new_tokens
    lanes = np.arange(seeds * episodes)
    run = lanes // episodes
    envs = TextGenVectorEnv(
        len(lanes), task, payout=payout, autoreset_mode=AutoresetMode.DISABLED, max_new_tokens=budget, copy=False
    )
    rng = np.random.default_rng(0)
    logits = np.zeros((seeds, budget, *model.after.shape))
    critic = np.zeros((seeds, budget + 1, len(model.scores)))
    curves = [[model.expected_score()] for _ in range(seeds)]
    for update in range(1, arguments.updates + 1):
        envs.reset(seed=0, options={"example": [example] * len(lanes)})
        states = np.zeros((budget + 1, len(lanes)), dtype=np.int64)
        actions, rewards = np.zeros((budget, len(lanes)), dtype=np.int64), np.zeros((budget, len(lanes)))
        running, ended = np.zeros((budget, len(lanes)), dtype=np.bool_), np.zeros(len(lanes), dtype=np.bool_)
        probabilities = np.empty((budget, len(lanes), model.after.shape[1]))
        for step in range(budget):
            running[step] = ~ended
            probabilities[step] = softmax(logits[run, step, states[step]])
            chances = probabilities[step].cumsum(axis=1)
            drawn = (rng.random(len(lanes))[:, None] * chances[:, -1:] >= chances).sum(axis=1)
            actions[step] = np.minimum(drawn, chances.shape[1] - 1)
            _, rewards[step], ended, _, _ = envs.step(actions[step])
            states[step + 1] = model.after[states[step], actions[step]]
        if method == "reinforce":
            to_go = rewards[::-1].cumsum(axis=0)[::-1]
            alive = np.maximum(_by_run(running, seeds).sum(axis=2), 1)
            baseline = _by_run(to_go * running, seeds).sum(axis=2) / alive  # of the batch, at each time
            advantages = to_go - baseline[:, run]
        else:
            here = critic[run, np.arange(budget)[:, None], states[:-1]]
            after_end = np.concatenate([~running[1:], np.ones((1, len(lanes)), dtype=np.bool_)])
            there = np.where(after_end, 0.0, critic[run, np.arange(1, budget + 1)[:, None], states[1:]])
            advantages = rewards + there - here
        for step in range(budget):
            rows = np.flatnonzero(running[step])
            scores = -probabilities[step, rows] * advantages[step, rows, None]
            scores[np.arange(len(rows)), actions[step, rows]] += advantages[step, rows]
            np.add.at(logits, (run[rows], step, states[step, rows]), arguments.sampled_lr / episodes * scores)
            if method == "actor-critic":
                np.add.at(critic, (run[rows], step, states[step, rows]), arguments.critic_lr * advantages[step, rows])
        if update % arguments.every == 0:
            for seed, curve in enumerate(curves):
                curve.append(model.expected_score(softmax(logits[seed])))
            if all(max(curve) >= threshold for curve in curves):
                break
    return curves


def _by_run(array: NDArray[Any], seeds: int) -> NDArray[Any]:
    return array.reshape(len(array), seeds, -1)


def updates_to(curve: Sequence[float], threshold: float, every: int) -> int | None:
    """Counts the updates that a curve took to reach the threshold; None if it did not."""
    return next((every * index for index, score in enumerate(curve) if score >= threshold), None)


def learn(arguments: Arguments, name: str) -> dict[str, Any]:
    """Runs every method and payout on the first test example of a task.

    Args:
        arguments: The command's arguments.
        name: The task's.

    Returns:
        A row of the table, with the curves.
    """
    task = make_task(name)
    assert isinstance(task, Diagnostic)
    example = task.example("test", 0)
    tokenizer = make_tokenizer(task.default_tokenizer)
    # A budget for this example: its demonstration, EOS, and one token to spare.
    budget = min(task.default_max_new_tokens, len(example.references[0]) + 2)
    model = EpisodeModel.of(task.default_reward, tokenizer, example, budget)
    optimum, start = float(model.optimal_values()[0, 0]), model.expected_score()
    threshold = start + 0.9 * (optimum - start)
    curves: dict[str, dict[str, list[list[float]]]] = {method: {} for method in METHODS}
    for payout in PAYOUTS:
        curves["exact, gamma 1"][payout] = climb_exactly(arguments, model, threshold, payout, 1.0)
        curves["exact, gamma 0.9"][payout] = climb_exactly(arguments, model, threshold, payout, 0.9)
        for method in METHODS[2:]:
            curves[method][payout] = climb_by_samples(arguments, task, example, model, threshold, payout, method)
    return {
        "task": name, "prompt": example.prompt, "reference": example.references[0], "states": len(model.scores),
        "budget": budget, "vocabulary": tokenizer.vocab_size, "random": start, "optimum": optimum,
        "threshold": threshold, "curves": curves,
        "updates": {
            method: {
                payout: [updates_to(curve, threshold, arguments.every) for curve in runs]
                for payout, runs in by_payout.items()
            }
            for method, by_payout in curves.items()
        },
    }  # fmt: skip


def generator_speeds(arguments: Arguments) -> list[dict[str, Any]]:
    """Measures the examples a second of every generator, at every level and split: the best of three tries."""
    rows = []
    for name in list_tasks():
        if name == "dataset":
            continue
        levels = make_task(name).levels
        for level in range(1, levels + 1):
            task = make_task({name: {"level": level} if levels > 1 else {}})
            speeds = {}
            for split in (*SPLITS, "shifted"):
                size = task.num_examples(split)
                count = min(size, arguments.generator_examples)
                seconds = []
                for _ in range(3):
                    began = time.process_time()
                    for index in range(count):
                        task.example(split, index)
                    seconds.append(time.process_time() - began)
                speeds[split] = count / max(min(seconds), 1e-9)
            rows.append({"task": name, "level": level, **speeds})
    return rows


def _median(updates: Sequence[int | None], most: int) -> str:
    """Returns the median over seeds, where a run that never reached the threshold counts as longer than any."""
    ordered = sorted(most + 1 if count is None else count for count in updates)
    middle = ordered[(len(ordered) - 1) // 2]
    reached = sum(count is not None for count in updates)
    shown = f"> {most}" if middle > most else str(middle)
    return shown if reached == len(updates) else f"{shown} ({reached} of {len(updates)})"


def page(arguments: Arguments, results: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        arguments: The command's arguments.
        results: The measurement.
    """
    note = (
        "Updates until a tabular policy, uniform at first, has come 0.9 of the way from the random to the optimal "
        f"score of one example, both exact. Sampled methods: median of {arguments.seeds} seeds, {arguments.episodes} "
        f"episodes an update; in parentheses the number of seeds that got there in {arguments.updates} updates, where "
        f"not all did. The score is measured every {arguments.every} updates."
    )
    columns = [f"{method}: {payout}" for method in METHODS for payout in PAYOUTS]
    rows = []
    for row in results["learning"]:
        cells = [_median(row["updates"][method][payout], arguments.updates) for method in METHODS for payout in PAYOUTS]
        rows.append([row["task"], row["states"], row["budget"], f"{row['random']:.3g}", *cells])
    splits = (*SPLITS, "shifted")
    speeds = [[row["task"], row["level"], *(f"{row[split]:,.0f}" for split in splits)] for row in results["generators"]]
    lines = [
        *heading("The diagnostic tasks: effects of the payouts", results, note),
        f"![curves]({arguments.output.name}.png)",
        "",
        *table(["task", "states", "budget", "random", *columns], rows),
        "",
        "The scores of `delayed_cue`, `chain` and `password` are late by themselves: immediate pays them with the",
        "token that makes the response complete, sparse with the end, which is one token later here.",
        "",
        "## Examples a second",
        "",
        *table(["task", "level", *splits], speeds),
    ]
    return "\n".join(lines) + "\n"


def plot(arguments: Arguments, rows: Sequence[dict[str, Any]]) -> Any:
    """Draws the curves: a row of pictures for each sampled method, a picture for each task.

    Args:
        arguments: The command's arguments.
        rows: A row for each task, with its curves.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(rows), 4.4), layout="constrained")
    axes = figure.subplots(2, len(rows), sharey=True, squeeze=False)
    for column, row in enumerate(rows):
        for line, method in enumerate(METHODS[2:]):
            axis = axes[line][column]
            for payout, color in zip(PAYOUTS, ("tab:blue", "tab:orange"), strict=True):
                curves = row["curves"][method][payout]
                steps = arguments.every * np.arange(len(curves[0]))
                axis.plot(steps, np.median(curves, axis=0), color=color, label=payout)
                axis.fill_between(steps, np.min(curves, axis=0), np.max(curves, axis=0), color=color, alpha=0.2, lw=0)
            axis.axhline(row["threshold"], color="gray", linewidth=0.8, linestyle=":")
            axis.set_title(f"{row['task']}\n{method}", fontsize=8)
            axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("updates", fontsize=8)
    figure.supylabel("mean score (exact)", fontsize=8)
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the tables and the plot.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks tasks")
    names = [name for name in list_tasks() if name != "dataset" and isinstance(make_task(name), Diagnostic)]
    if arguments.quick:
        arguments = replace(arguments, updates=4, seeds=2, episodes=2, every=2, generator_examples=10)
        names = names[:2]
    about, rows = machine(), []
    for name in names:
        began = time.perf_counter()
        rows.append(learn(arguments, name))
        medians = {
            method: {payout: _median(updates, arguments.updates) for payout, updates in by_payout.items()}
            for method, by_payout in rows[-1]["updates"].items()
        }
        print(f"{name}: {medians} ({time.perf_counter() - began:.0f} s)", flush=True)
    results: dict[str, Any] = {
        "command": command_line("tasks", argv),
        "machine": about,
        # The curves are in the plot; the file keeps the numbers of the table.
        "learning": [{key: value for key, value in row.items() if key != "curves"} for row in rows],
        "generators": generator_speeds(arguments),
    }
    write(arguments.output, results, page(arguments, results), plot(arguments, rows))
