"""How fast are the environments by themselves? No policy, resets and scores included.

Every case plays whole episodes of TextGen-v0 with actions that were drawn beforehand, in one process and one thread.
The cases take turns, round by round, so that whatever else the machine does falls on all of them; the table shows
medians over the rounds. Time is that of the processor, which is the clock's while the process has a core to itself; the
results say how much of one it had.

- random: uniformly random tokens. Nearly every word is nonsense that no reward has seen, the worst case for rewards
  that remember.
- text: the task's demonstrations, tokenised, so that the words are those of real text and episodes end with EOS.

Beside the table, two promises: with copy=False a step costs the same however long responses are, and a reset however
many examples the task has.

    python -m benchmarks env
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import textenvs
from benchmarks.records import RESULTS, machine, write
from benchmarks.speed.timing import Case, take_turns

ENV_ID = "TextGen-v0"
REWARDS = ("length", "sentiment", "bleu")  # those that are registered
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
"""Lanes to the steps a second that native lanes are to reach with the sparse payout."""
TIMES_SYNC = 25
"""How many times SyncVectorEnv's speed at 1024 lanes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the environments without a policy."""

    rounds: int = 5
    """How often each case has its turn."""
    seconds: float = 0.15
    """How long a turn lasts at least; it ends with an episode's worth of steps."""
    max_new_tokens: int = 64
    """Budget of an episode in the table, in tokens."""
    max_prompt_length: int = 16
    """Prompts are cut to this many tokens."""
    lengths: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """Responses of how many tokens, for the cost of a step."""
    examples: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
    """Tasks of how many examples, for the cost of a reset."""
    lanes: int = 256
    """Lanes for those two."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "env"
    """Where results go: a .json, a .md and a .png file of this name."""


def make_actions(kind: str, num_envs: int, budget: int, steps: int) -> NDArray[np.int64]:
    """What the lanes write, drawn beforehand.

    Args:
        kind: One of `ACTIONS`.
        num_envs: How many lanes.
        budget: Longest episode, in tokens.
        steps: How many steps.

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
    """What steps a vector environment, going on in the actions where it left off.

    Args:
        envs: A vector environment in the mode SAME_STEP.
        actions: `(any, num_envs)` token ids, read round and round.
        steps: How many steps a call does.

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
    """The same for a single environment. See `play_vector`."""
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
    """The cases of the table.

    Args:
        arguments: The command's arguments.
        kinds: Which environments, and how many lanes each.
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
    """Responses of several lengths: every episode spends its budget.

    Args:
        arguments: The command's arguments.

    Returns:
        A case for each length, payout, and observations that are copies or not.
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
    """A task with as many examples as one wants.

    Args:
        size: How many the training split has.
    """

    name = "numbered"
    default_reward = "length"

    def __init__(self, size: int) -> None:
        self._size = size

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        return self._size if split == "train" else 0

    def example(self, split: str, index: int) -> textenvs.Example:
        """See `Task.example`."""
        return textenvs.Example(f"This is story number {index:06}.")


def reset_cases(arguments: Arguments, size: int) -> list[Case]:
    """Resets of all lanes, with a task of some size.

    Args:
        arguments: The command's arguments.
        size: How many examples.

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
    """What the environments promise, and what was measured.

    Args:
        results: What the benchmark wrote.

    Returns:
        (promise, its bound, what was measured) for each promise that the cases can tell of.
    """
    wanted = {"actions": "random", "reward": "length", "payout": "sparse"}
    speeds = {
        (row["kind"], row["lanes"]): row["steps_per_second"]
        for row in results["speed"]
        if wanted.items() <= row.items()
    }
    found = [
        (f"{lanes} lanes: millions of steps a second", f"at least {least / 1e6:g}", speeds["native", lanes] / 1e6)
        for lanes, least in AT_LEAST.items()
        if ("native", lanes) in speeds
    ]
    if ("SyncVectorEnv", 1024) in speeds:
        ratio = speeds["native", 1024] / speeds["SyncVectorEnv", 1024]
        found.append(("1024 lanes: times SyncVectorEnv's speed", f"at least {TIMES_SYNC}", ratio))
    steps = [row for row in results["length"] if row["payout"] == "sparse" and not row["copy"]]
    resets = [row for row in results["reset"] if row["payout"] == "sparse"]
    for what, key, rows in (("step", "length", steps), ("reset", "examples", resets)):
        growth = rows[0]["steps_per_second"] / rows[-1]["steps_per_second"]
        found.append((f"cost of a {what} at {key} {rows[-1][key]:,}, in that at {rows[0][key]}", "about 1", growth))
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        results: What the benchmark wrote.

    Returns:
        The text of a Markdown file.
    """
    about = results["machine"]
    lines = [
        "# Speed of the environments, without a policy",
        "",
        f"    {results['command']}",
        "",
        f"{about['cpu']} ({about['architecture']}), {about['cores']} cores, one process, which had "
        f"{results['share_of_a_core']:.0%} of a core; load before: {about['load']}. "
        f"Python {about['python']}, numpy {about['numpy']}, gymnasium {about['gymnasium']}.",
        f"{ENV_ID}, prompts of {results['prompt_tokens']:.1f} tokens on average, "
        f"{results['max_new_tokens']} new tokens, copied observations, resets and scores included.",
        f"Medians of {results['rounds']} interleaved rounds. Random: uniformly random tokens. Text: the task's "
        "demonstrations, tokenised.",
        *([f"Not registered, and left out: {', '.join(results['left_out'])}."] if results["left_out"] else []),
        "",
        "Thousands of steps a second:",
        "",
    ]
    rewards = list(dict.fromkeys(row["reward"] for row in results["speed"]))
    columns = [(reward, payout, name) for reward in rewards for payout in PAYOUTS for name in ACTIONS]
    lines += [
        "| environment | lanes | "
        + " | ".join(f"{reward}, {payout}, {name}" for reward, payout, name in columns)
        + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    speeds = {
        (row["kind"], row["lanes"], row["reward"], row["payout"], row["actions"]): row["steps_per_second"]
        for row in results["speed"]
    }
    for kind, lanes in dict.fromkeys((row["kind"], row["lanes"]) for row in results["speed"]):
        cells = [f"{speeds[kind, lanes, *column] / 1e3:,.0f}" for column in columns]
        lines.append(f"| {kind} | {lanes} | " + " | ".join(cells) + " |")
    lines += ["", "| promise (random actions, reward `length`, sparse) | bound | measured |", "|---|---|---|"]
    lines += [f"| {promise} | {bound} | {measured:.2f} |" for promise, bound, measured in checks(results)]
    lines += [
        "",
        f"Nanoseconds a step of one of {results['lanes']} lanes, by the response's length:",
        "",
        "| tokens | " + " | ".join(str(length) for length in results["lengths"]) + " |",
        "|---|" + "---|" * len(results["lengths"]),
    ]
    for payout in PAYOUTS:
        for copy in (False, True):
            cells = [
                f"{1e9 / row['steps_per_second']:.0f}"
                for row in results["length"]
                if (row["payout"], row["copy"]) == (payout, copy)
            ]
            lines.append(f"| {payout}, copy={copy} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Nanoseconds a reset of one of {results['lanes']} lanes, by the number of examples:",
        "",
        "| examples | " + " | ".join(f"{size:,}" for size in results["examples"]) + " |",
        "|---|" + "---|" * len(results["examples"]),
    ]
    for payout in PAYOUTS:
        cells = [f"{1e9 / row['steps_per_second']:.0f}" for row in results["reset"] if row["payout"] == payout]
        lines.append(f"| {payout}, copy=False | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"![both as curves]({results['plot']})",
    ]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], file: Path) -> None:
    """Draw what a step costs by length, and a reset by the number of examples.

    Args:
        results: What the benchmark wrote.
        file: Where the picture goes.
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
    figure.savefig(file, dpi=120)


def _curve(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, color: str, style: str) -> None:
    places = [row[key] for row in rows]
    costs, least, most = ([1e9 / row[name] for row in rows] for name in ("steps_per_second", "most", "least"))
    axes.plot(places, costs, style, color=color, marker="o", label=label)
    axes.fill_between(places, least, most, color=color, alpha=0.15)


def main(argv: Sequence[str]) -> None:
    """Measure, and write the results.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks env")
    kinds: Sequence[tuple[str, int]] = KINDS
    if arguments.quick:
        arguments = Arguments(
            rounds=1,
            seconds=0.0,
            max_new_tokens=8,
            max_prompt_length=arguments.max_prompt_length,
            lengths=(4, 8),
            examples=(10, 100),
            lanes=4,
            quick=True,
            output=arguments.output,
        )
        kinds = (("single", 1), ("SyncVectorEnv", 2), ("native", 2))
    about, clock, processor = machine(), time.perf_counter(), time.process_time()
    known = textenvs.list_rewards()
    rewards = [reward for reward in REWARDS if reward in known]
    left_out = [reward for reward in REWARDS if reward not in known]
    for reward in left_out:
        print(f"Left out: no reward {reward!r} is registered", flush=True)
    env: Any = gym.make(ENV_ID, max_prompt_length=arguments.max_prompt_length).unwrapped
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks env", *argv]),
        "machine": about,
        "rounds": arguments.rounds,
        "max_new_tokens": arguments.max_new_tokens,
        "prompt_tokens": float(env.setting.pool.lengths.mean()),
        "lanes": arguments.lanes,
        "lengths": list(arguments.lengths),
        "examples": list(arguments.examples),
        "left_out": left_out,
        "plot": arguments.output.with_suffix(".png").name,
        "speed": take_turns(speed_cases(arguments, kinds, rewards), arguments.rounds, arguments.seconds),
        "length": take_turns(length_cases(arguments), arguments.rounds, arguments.seconds),
        "reset": take_turns(
            [case for size in arguments.examples for case in reset_cases(arguments, size)],
            arguments.rounds,
            arguments.seconds,
        ),
    }
    results["share_of_a_core"] = (time.process_time() - processor) / (time.perf_counter() - clock)
    write(arguments.output, results, table(results))
    plot(results, arguments.output.with_suffix(".png"))
