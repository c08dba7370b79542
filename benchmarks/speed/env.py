"""Measures the speed of the environments without a policy, resets and scores included.

Every case plays whole episodes of TextGen-v0 with actions that were drawn beforehand, in one process and one thread.
The cases take turns, round by round, so that whatever else the machine does affects all of them; the table shows
medians over the rounds. Time is that of the processor, which equals the clock's while the process has a core to itself;
the results say how much of one it had.

- random: uniformly random tokens. Nearly every word is nonsense that no reward has seen, the worst case for rewards
  that remember words.
- text: the task's demonstrations, tokenised, so that the words are those of real text and episodes end with EOS.

Beside the table stand two promises: with copy=False a step costs the same at any length of responses, and a reset the
same at any number of examples.

    python -m benchmarks env
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import textenvs
from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from benchmarks.speed.timing import Case, take_turns

ENV_ID = "TextGen-v0"
REWARDS = ("length", "sentiment", "bleu")
PAYOUTS = ("sparse", "immediate")
ACTIONS = ("random", "text")
KINDS = (
    ("single", 1),
    ("SyncVectorEnv", 64),
    ("SyncVectorEnv", 1024),
    ("native", 1),
    ("native", 64),
    ("native", 256),
    ("native", 1024),
    ("native", 16384),
)
AT_LEAST = {64: 1e6, 1024: 5e6, 16384: 6e6}
"""Lanes to the steps a second that native lanes promise with the sparse payout."""
TIMES_SYNC = 25
"""Promised ratio to SyncVectorEnv's speed at 1024 lanes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the environments without a policy."""

    rounds: int = 5
    """Turns of each case."""
    seconds: float = 0.15
    """The shortest turn. A turn ends with an episode's worth of steps."""
    max_new_tokens: int = 64
    """Budget of an episode in the table, in tokens."""
    max_prompt_length: int = 16
    """Prompts are cut to this many tokens."""
    lengths: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """Tokens of a response, for the cost of a step."""
    examples: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
    """Examples of a task, for the cost of a reset."""
    lanes: int = 256
    """Lanes for those two."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "env"
    """Name of the results: a .json, a .md and a .png file."""


def make_actions(kind: str, num_envs: int, budget: int, steps: int) -> NDArray[np.int64]:
    """Draws the actions of the lanes beforehand.

    Args:
        kind: One of `ACTIONS`.
        num_envs: Number of lanes.
        budget: Longest episode, in tokens.
        steps: Number of steps.

    Returns:
        `(steps, num_envs)` token ids.
    """
    env: Any = gym.make(ENV_ID).unwrapped
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.integers(env.tokenizer.vocab_size, size=(steps, num_envs))
    texts = [env.task.demonstration(example) for example in env.setting.pool.examples[:512]]
    responses = [[*env.tokenizer.encode_response(text), env.tokenizer.eos_token_id][:budget] for text in texts]
    stream = np.array([token for response in responses for token in response])
    begins = np.cumsum([0, *map(len, responses[:-1])])
    # Each lane reads the stream from the beginning of another response; an episode is then one response.
    return stream[(rng.choice(begins, num_envs) + np.arange(steps)[:, None]) % len(stream)]


def play_vector(envs: Any, actions: NDArray[np.int64], steps: int) -> Callable[[], None]:
    """Returns a function that steps a vector environment, and continues in the actions where it stopped.

    Args:
        envs: A vector environment in the mode SAME_STEP.
        actions: `(any, num_envs)` token ids, read again from the start when they end.
        steps: Steps of a call.

    Returns:
        The function.
    """
    envs.reset(seed=0)
    step = 0

    def play() -> None:
        nonlocal step
        for _ in range(steps):
            envs.step(actions[step])
            step = (step + 1) % len(actions)

    return play


def play_single(env: Any, actions: NDArray[np.int64], steps: int) -> Callable[[], None]:
    """Returns a function that steps a single environment, as `play_vector` does."""
    env.reset(seed=0)
    tokens, step = actions[:, 0].tolist(), 0

    def play() -> None:
        nonlocal step
        for _ in range(steps):
            if env.step(tokens[step])[2]:
                env.reset()
            step = (step + 1) % len(tokens)

    return play


def speed_cases(arguments: Arguments, kinds: Sequence[tuple[str, int]], rewards: Sequence[str]) -> list[Case]:
    """Makes the cases of the table.

    Args:
        arguments: The command's arguments.
        kinds: Kinds of environments, and the number of lanes of each.
        rewards: Names of rewards.

    Returns:
        A case for each kind, reward, payout and kind of actions.
    """
    budget, cases = arguments.max_new_tokens, []
    sizes = {"max_new_tokens": budget, "max_prompt_length": arguments.max_prompt_length}
    for kind, num_envs in kinds:
        for name in ACTIONS:
            actions = make_actions(name, num_envs, budget, 4 * budget)
            for reward in rewards:
                for payout in PAYOUTS:
                    settings: dict[str, Any] = {"reward": reward, "payout": payout, **sizes}
                    if kind == "single":
                        play = play_single(gym.make(ENV_ID, **settings), actions, budget)
                    elif kind == "native":
                        envs: Any = gym.make_vec(ENV_ID, num_envs, autoreset_mode="SameStep", **settings)
                        play = play_vector(envs, actions, budget)
                    else:
                        make = [lambda settings=settings: gym.make(ENV_ID, **settings)] * num_envs
                        envs = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
                        play = play_vector(envs, actions, budget)
                    labels = {"kind": kind, "lanes": num_envs, "actions": name, "reward": reward, "payout": payout}
                    cases.append(Case(labels, play, budget * num_envs))
    return cases


def length_cases(arguments: Arguments) -> list[Case]:
    """Makes cases of several lengths of responses. Every episode spends its budget.

    Args:
        arguments: The command's arguments.

    Returns:
        A case for each length, payout and value of `copy`.
    """
    cases = []
    for length in arguments.lengths:
        for payout in PAYOUTS:
            for copy in (False, True):
                settings: dict[str, Any] = {"reward": "length", "payout": payout, "max_new_tokens": length}
                envs: Any = gym.make_vec(ENV_ID, arguments.lanes, autoreset_mode="SameStep", copy=copy, **settings)
                actions = make_actions("random", arguments.lanes, length, min(length, 256))
                actions[actions == envs.unwrapped.tokenizer.eos_token_id] += 1
                play = play_vector(envs, actions, length)
                cases.append(Case({"length": length, "payout": payout, "copy": copy}, play, length * arguments.lanes))
    return cases


class Numbered(textenvs.Task):
    """A task with any number of examples.

    Args:
        size: Number of examples in the training split.
    """

    name = "numbered"
    default_reward = "length"

    def __init__(self, size: int) -> None:
        self._size = size

    def num_examples(self, split: str) -> int:
        """Returns the size of the training split; the others are empty."""
        return self._size if split == "train" else 0

    def example(self, split: str, index: int) -> textenvs.Example:
        """Returns a prompt with the example's number."""
        return textenvs.Example(f"This is story number {index:06}.")


def reset_cases(arguments: Arguments, size: int) -> list[Case]:
    """Makes cases of resets of all lanes, with a task of some size.

    Args:
        arguments: The command's arguments.
        size: Number of examples.

    Returns:
        A case for each payout; with the immediate one, a reset hands the reward its examples.
    """
    cases, task = [], Numbered(size)
    for payout in PAYOUTS:
        envs: Any = gym.make_vec(ENV_ID, arguments.lanes, task=task, payout=payout, max_new_tokens=16, copy=False)
        envs.reset(seed=0)

        def play(envs: Any = envs) -> None:
            for _ in range(16):
                envs.reset()

        cases.append(Case({"examples": size, "payout": payout}, play, 16 * arguments.lanes))
    return cases


def checks(results: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Compares the promises of the environments with the measurement.

    Args:
        results: The measurement.

    Returns:
        (promise, its bound, the measured value) for each promise that the measured cases cover.
    """
    wanted = {"actions": "random", "reward": "length", "payout": "sparse"}
    speeds = {
        (row["kind"], row["lanes"]): row["steps_per_second"]
        for row in results["speed"]
        if wanted.items() <= row.items()
    }
    promises = [
        (f"{lanes} lanes: millions of steps a second", f"at least {least / 1e6:g}", speeds["native", lanes] / 1e6)
        for lanes, least in AT_LEAST.items()
        if ("native", lanes) in speeds
    ]
    if ("SyncVectorEnv", 1024) in speeds:
        ratio = speeds["native", 1024] / speeds["SyncVectorEnv", 1024]
        promises.append(("1024 lanes: times SyncVectorEnv's speed", f"at least {TIMES_SYNC}", ratio))
    steps = [row for row in results["length"] if row["payout"] == "sparse" and not row["copy"]]
    resets = [row for row in results["reset"] if row["payout"] == "sparse"]
    for what, key, rows in (("step", "length", steps), ("reset", "examples", resets)):
        growth = rows[0]["steps_per_second"] / rows[-1]["steps_per_second"]
        promises.append((f"cost of a {what} at {key} {rows[-1][key]:,}, in that at {rows[0][key]}", "about 1", growth))
    return promises


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: The measurement.
    """
    note = (
        f"One process, which had {results['share_of_a_core']:.0%} of a core. {ENV_ID}, prompts of "
        f"{results['prompt_tokens']:.1f} tokens on average, {results['max_new_tokens']} new tokens, copied "
        f"observations, resets and scores included. Medians of {results['rounds']} interleaved rounds. Random: "
        "uniformly random tokens. Text: the task's demonstrations, tokenised."
    )
    lanes = results["lanes"]
    lines = [
        *heading("Speed of the environments, without a policy", results, note),
        "Thousands of steps a second:",
        "",
        *_speed_table(results["speed"]),
        "",
        *table(
            ["promise (random actions, reward `length`, sparse)", "bound", "measured"],
            [[promise, bound, f"{measured:.2f}"] for promise, bound, measured in checks(results)],
        ),
        "",
        f"Nanoseconds a step of one of {lanes} lanes, by the response's length:",
        "",
        *table(
            ["tokens", *results["lengths"]],
            [
                [f"{payout}, copy={copy}", *_nanoseconds(results["length"], payout=payout, copy=copy)]
                for payout in PAYOUTS
                for copy in (False, True)
            ],
        ),
        "",
        f"Nanoseconds a reset of one of {lanes} lanes, by the number of examples:",
        "",
        *table(
            ["examples", *(f"{size:,}" for size in results["examples"])],
            [[f"{payout}, copy=False", *_nanoseconds(results["reset"], payout=payout)] for payout in PAYOUTS],
        ),
        "",
        f"![both as curves]({results['plot']})",
    ]
    return "\n".join(lines) + "\n"


def _speed_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Makes the table of thousands of steps a second: a row for each kind and number of lanes."""
    rewards = dict.fromkeys(row["reward"] for row in rows)
    columns = [(reward, payout, name) for reward in rewards for payout in PAYOUTS for name in ACTIONS]
    speeds = {
        (row["kind"], row["lanes"], row["reward"], row["payout"], row["actions"]): row["steps_per_second"]
        for row in rows
    }
    return table(
        ["environment", "lanes", *(f"{reward}, {payout}, {name}" for reward, payout, name in columns)],
        [
            [kind, lanes, *(f"{speeds[kind, lanes, *column] / 1e3:,.0f}" for column in columns)]
            for kind, lanes in dict.fromkeys((row["kind"], row["lanes"]) for row in rows)
        ],
    )


def _nanoseconds(rows: Sequence[dict[str, Any]], **labels: Any) -> list[str]:
    """Returns the cost of a step in the rows with these labels."""
    return [f"{1e9 / row['steps_per_second']:.0f}" for row in rows if labels.items() <= row.items()]


def plot(results: dict[str, Any]) -> Any:
    """Draws the cost of a step by length, and of a reset by the number of examples.

    Args:
        results: The measurement.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for payout, color in zip(PAYOUTS, ("tab:blue", "tab:orange"), strict=True):
        for copy, style in ((False, "-"), (True, ":")):
            rows = [row for row in results["length"] if (row["payout"], row["copy"]) == (payout, copy)]
            _curve(left, rows, "length", f"{payout}, copy={copy}", color, style)
        rows = [row for row in results["reset"] if row["payout"] == payout]
        _curve(right, rows, "examples", f"{payout}, copy=False", color, "-")
    left.set(xlabel="tokens in a response", ylabel="nanoseconds a step of a lane", title="Cost of a step")
    right.set(xlabel="examples in the task", ylabel="nanoseconds a reset of a lane", title="Cost of a reset")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def _curve(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, color: str, style: str) -> None:
    values = [row[key] for row in rows]
    costs, least, most = ([1e9 / row[name] for row in rows] for name in ("steps_per_second", "most", "least"))
    axes.plot(values, costs, style, color=color, marker="o", label=label)
    axes.fill_between(values, least, most, color=color, alpha=0.15)


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks env")
    kinds: Sequence[tuple[str, int]] = KINDS
    if arguments.quick:
        arguments = replace(
            arguments, rounds=1, seconds=0.0, max_new_tokens=8, lengths=(4, 8), examples=(10, 100), lanes=4
        )
        kinds = (("single", 1), ("SyncVectorEnv", 2), ("native", 2))
    about, clock, processor = machine(), time.perf_counter(), time.process_time()
    env: Any = gym.make(ENV_ID, max_prompt_length=arguments.max_prompt_length).unwrapped
    resets = [case for size in arguments.examples for case in reset_cases(arguments, size)]
    results: dict[str, Any] = {
        "command": command_line("env", argv),
        "machine": about,
        **{name: getattr(arguments, name) for name in ("rounds", "max_new_tokens", "lanes", "lengths", "examples")},
        "prompt_tokens": float(env.setting.pool.lengths.mean()),
        "plot": arguments.output.with_suffix(".png").name,
        "speed": take_turns(speed_cases(arguments, kinds, REWARDS), arguments.rounds, arguments.seconds),
        "length": take_turns(length_cases(arguments), arguments.rounds, arguments.seconds),
        "reset": take_turns(resets, arguments.rounds, arguments.seconds),
    }
    results["share_of_a_core"] = (time.process_time() - processor) / (time.perf_counter() - clock)
    write(arguments.output, results, page(results), plot(results))
