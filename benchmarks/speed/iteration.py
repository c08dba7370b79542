"""Measures the speed of an iteration of PPO: write, score, learn for four epochs of four minibatches.

Ours is `agents.PPO` through the environment, with `sentiment` at every token and KL to a reference. The others are in
`peers.py`: a bare hand-written loop, Stable-Baselines3's PPO with the same transformer (at the small shape alone, since
it reads the whole text again at every step), and TRL's PPO, GRPO and RLOO, each in a process of its own, where an
interpreter that has it is named. Each also reports the memory that its first iterations added.

Then it compares what is learned: reward curves of ours, and of a plain policy (whole texts read again at every step, a
log-softmax of all logits), over several seeds.

    python -m benchmarks iteration --trl-ppo /path/to/python --trl /path/to/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from agents import PPO, Agent, Policy, collect
from agents.policy.context import Context, FullContext
from agents.policy.decode_graph import TRACE_AFTER as WARM_UP
from agents.policy.policy import ActionEvaluation, LossOfActions
from benchmarks.records import RESULTS, command_line, table, write
from benchmarks.speed import peers
from benchmarks.speed.shapes import (
    BASE,
    LARGE_VOCABULARY,
    RAGGED,
    SMALL,
    TINY,
    Shape,
    make_env,
    make_model,
    make_policy,
    word_tokenizer,
)
from benchmarks.speed.timing import Case, compared, compared_table, speed_heading, speed_machine


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure an iteration of PPO."""

    rounds: int = 3
    """Turns of each case."""
    trl_ppo: Path | None = None
    """An interpreter with TRL 1.12.0, the last with a PPO."""
    trl: Path | None = None
    """An interpreter with the latest TRL."""
    shapes: tuple[str, ...] = ("base", "small", "ragged")
    """Names of the shapes."""
    memory: bool = True
    """Measure memory at a vocabulary of 50257."""
    seeds: int = 5
    """Runs of each kind, for the reward curves; 0: none."""
    updates: int = 12
    """Updates of each of those runs."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "iteration"
    """Name of the results: a .json, a .md and a .png file."""
    worker: str | None = None
    """Measure the memory of one kind in this process, and print it. For the benchmark itself."""


class PlainPolicy(Policy):
    """The plain reference: reads whole texts at every step, and keeps all logits."""

    def context(self, num_lanes: int, max_length: int) -> Context:
        """Returns a context without a cache."""
        return FullContext(self.trunk, num_lanes)

    def evaluate(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = True,
        allowed: Tensor | None = None,
    ) -> ActionEvaluation:
        """Evaluates actions with a log-softmax of all logits."""
        output = self.model(input_ids=input_ids, output_hidden_states=True, use_cache=False)
        before = (positions - 1)[..., None]
        logs = torch.log_softmax(output.logits / temperature, dim=-1)
        logs = logs.gather(1, before.expand(-1, -1, logs.shape[-1]))
        hidden = output.hidden_states[-1]
        states = hidden.gather(1, before.expand(-1, -1, hidden.shape[-1]))
        taken = logs.gather(2, input_ids.gather(1, positions)[..., None])[..., 0]
        entropies = -(logs.exp() * logs).sum(-1)
        return ActionEvaluation(taken * mask, entropies * mask, self.value_head(states)[..., 0] * mask)

    def loss(
        self, input_ids: Tensor, positions: Tensor, mask: Tensor, loss_of: LossOfActions, **settings: Any
    ) -> Tensor:
        """Computes the loss; its gradient is PyTorch's own."""
        now, at = self.evaluate(input_ids, positions, mask, **settings), mask.nonzero(as_tuple=True)
        return loss_of(ActionEvaluation(now.log_probs[at], now.entropies[at], now.values[at]), at)


def make_agent(shape: Shape, episodes: int, policy: Policy | None = None, seed: int = 0, **settings: Any) -> Agent:
    """Makes our PPO at a shape: four epochs of four minibatches."""
    policy = make_policy(shape) if policy is None else policy
    defaults: dict[str, Any] = {"learning_rate": 1e-5, "kl_coef": 0.01, "optimizer": "adamw"}
    return PPO(
        policy,
        make_env(shape, policy),
        seed=seed,
        num_envs=shape.lanes,
        episodes_per_update=episodes,
        epochs=4,
        minibatch_size=max(1, episodes // 4),
        target_kl=None,
        **{**defaults, **settings},
    )


def ours(shape: Shape, episodes: int, warm: bool = True, compiled: bool = False) -> Any:
    """Returns a function that does one iteration of ours, and returns its tokens."""
    agent = make_agent(shape, episodes, make_policy(shape).adapt(compile=compiled))
    for _ in range(0, (1 + WARM_UP) * warm, shape.new_tokens):  # until the policy has traced its step
        collect(agent.env, agent.policy, shape.lanes, seed=0)

    def play() -> int:
        before = agent.timesteps
        agent.learn(before + 1)
        return agent.timesteps - before

    return play


def speeds(shape: Shape, episodes: int, arguments: Arguments, skipped: list[str]) -> list[dict[str, Any]]:
    """Measures everybody at one shape."""

    def labels(who: str) -> dict[str, Any]:
        return {"shape": shape.name, "who": who}

    cases = [Case(labels("ours"), ours(shape, episodes))]
    if not arguments.quick:  # the compiler alone would take longer than all the rest
        cases.append(Case(labels("ours, compiled"), ours(shape, episodes, compiled=True)))
    if shape.mean_length is None:
        bare = peers.BareLoop(shape, episodes)
        cases.append(Case(labels("bare loop"), bare.iteration))
    if shape is SMALL or arguments.quick:
        cases.append(Case(labels("SB3 PPO"), peers.sb3_iteration(shape, episodes)))
    remote: list[peers.TrlCase] = []
    for algorithm, python in (("ppo", arguments.trl_ppo), ("grpo", arguments.trl), ("rloo", arguments.trl)):
        if python is None or not python.exists():
            skipped.append(f"{shape.name}: TRL {algorithm.upper()}, no interpreter that has it was named")
            continue
        try:
            case = peers.TrlCase(labels(f"TRL {algorithm.upper()}"), python, algorithm, shape, episodes)
        except RuntimeError as error:
            skipped.append(f"{shape.name}: TRL {algorithm.upper()}: {str(error).splitlines()[-1]}")
            continue
        case.labels["version"] = case.version
        remote.append(case)
    try:
        return compared([*cases, *remote], arguments.rounds, 0.0, "ours")
    finally:
        for case in remote:
            case.close()


KINDS = ("ours", "bare loop", "bare loop, chunked head")


def memory_worker(kind: str, shape: Shape, episodes: int) -> None:
    """Does two iterations in this process, and prints the memory that they added."""
    from benchmarks.speed.trl_peer import memory_mb, reset_peak

    play = (
        ours(shape, episodes, False) if kind == "ours" else peers.BareLoop(shape, episodes, "chunked" in kind).iteration
    )
    reset_peak()
    before = memory_mb("VmRSS")
    play()
    started = time.process_time()
    tokens = play()
    seconds = time.process_time() - started
    print(
        "@" + json.dumps({"added_mb": memory_mb("VmHWM") - before, "tokens_per_second": tokens / seconds}), flush=True
    )


def memory(shape: Shape, episodes: int, arguments: Arguments, skipped: list[str]) -> list[dict[str, Any]]:
    """Measures the memory that two iterations add, each kind in a process of its own."""
    rows = []
    for kind in KINDS:
        words = [sys.executable, "-m", "benchmarks", "iteration", "--worker", kind]
        run = subprocess.run([*words, *(["--quick"] if arguments.quick else [])], capture_output=True, text=True)
        answers = [line for line in run.stdout.splitlines() if line.startswith("@")]
        if not answers:
            raise RuntimeError(f"Expected an answer of {kind!r}, got none: {run.stderr[-1000:]}")
        rows.append({"who": kind, **json.loads(answers[0][1:])})
    for algorithm, python in (("ppo", arguments.trl_ppo), ("grpo", arguments.trl)):
        if python is None or not python.exists():
            skipped.append(f"memory: TRL {algorithm.upper()}, no interpreter that has it was named")
            continue
        case = peers.TrlCase({}, python, algorithm, shape, episodes)
        try:
            case.turn(0.0)
            case.turn(0.0)
        finally:
            case.close()
        rows.append({"who": f"TRL {algorithm.upper()}", "added_mb": case.added_mb, "tokens_per_second": case.speeds[0]})
    for row in rows:
        print(row, flush=True)
    return rows


def curves(arguments: Arguments, shape: Shape) -> dict[str, Any]:
    """Trains the fast path and the plain one, on different seeds. Returns scores by update, `(seeds, updates)` each."""
    scores_of: dict[str, list[list[float]]] = {"fast": [], "plain": []}
    for kind, first in (("fast", 0), ("plain", 1000)):  # different seeds: only the distributions have to agree
        for seed in range(arguments.seeds):
            model, tokenizer = make_model(shape, seed=0), word_tokenizer(shape.vocab_size)
            policy = (Policy if kind == "fast" else PlainPolicy)(model, tokenizer)
            agent = make_agent(shape, 4 * shape.lanes, policy, first + seed, learning_rate=3e-3, kl_coef=0.0)
            scores: list[float] = []
            while len(scores) < arguments.updates:
                agent.learn(agent.timesteps + 1, on_update=lambda row, scores=scores: scores.append(row["score"]))
            scores_of[kind].append(scores)
            print(kind, seed, [round(score, 3) for score in scores], flush=True)
    fast, plain = (np.array(scores_of[kind]) for kind in ("fast", "plain"))
    gap = fast.mean(0) - plain.mean(0)
    error = np.sqrt((fast.var(0, ddof=1) + plain.var(0, ddof=1)) / len(fast)) if len(fast) > 1 else np.ones_like(gap)
    return {
        **scores_of,
        "gaps_in_standard_errors": (gap / np.maximum(error, 1e-12)).tolist(),
        "first": float(fast[:, 0].mean()),
        "last": [float(fast[:, -1].mean()), float(plain[:, -1].mean())],
    }


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    lines = speed_heading("Speed of an iteration of PPO", results)
    lines += [
        "Ours writes through the environment with `sentiment` paid at every token, and compares with a reference;",
        "compiled, the step of its rollout is (docs/speed.md), before anything is timed.",
        "TRL's PPO has a reward model of one layer, GRPO and RLOO a reward that costs nothing, the bare loop random",
        "rewards. Each learns for four epochs of four minibatches.",
        "",
    ]
    for name in dict.fromkeys(row["shape"] for row in results["speed"]):
        rows = [row for row in results["speed"] if row["shape"] == name]
        episodes = results["episodes"][name]
        lines += [f"## {name}", "", f"`{results['shapes'][name]}`, {episodes} episodes an iteration", ""]
        lines += [*compared_table(rows), ""]
    if results["memory"]:
        lines += ["## Memory at a vocabulary of 50257", "", f"`{results['shapes']['memory']}`", ""]
        cells = [
            [row["who"], f"{row['added_mb']:,.0f}", f"{row['tokens_per_second']:,.0f}"] for row in results["memory"]
        ]
        lines += [*table(["", "MB added by two iterations", "tokens a CPU-second"], cells), ""]
    if results["curves"]:
        curves = results["curves"]
        worst = max(abs(gap) for gap in curves["gaps_in_standard_errors"])
        lines += [
            "## The same learning",
            "",
            f"{len(curves['fast'])} seeds of {len(curves['fast'][0])} updates each, fast and plain on other seeds: the "
            f"mean score goes from {curves['first']:.3f} to {curves['last'][0]:.3f} (fast) and {curves['last'][1]:.3f} "
            f"(plain). The largest gap between the two means at any update is {worst:.1f} standard errors.",
            "The gradients of one update agree to 1e-5: `tests/benchmarks/speed/test_speed.py`.",
            "",
            f"![scores by update]({results['plot']})",
            "",
        ]
    lines += [f"Left out: {reason}." for reason in results["skipped"]]
    return "\n".join(lines).rstrip() + "\n"


def plot(results: dict[str, Any]) -> Any:
    """Draws the speeds, and the reward curves of the fast and of the plain path.

    Args:
        results: The measurement.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{row['who']}, {row['shape']}" for row in results["speed"]]
    colors = ["tab:green" if row["who"].startswith("ours") else "tab:gray" for row in results["speed"]]
    left.barh(names, [row["tokens_per_second"] for row in results["speed"]], color=colors)
    left.invert_yaxis()
    left.set(xscale="log", xlabel="tokens a CPU-second")
    left.xaxis.set_minor_formatter(NullFormatter())
    for kind, color in (("fast", "tab:green"), ("plain", "tab:gray")):
        for number, scores in enumerate(results["curves"][kind] if results["curves"] else []):
            right.plot(range(1, 1 + len(scores)), scores, color=color, alpha=0.7, label=kind if number == 0 else None)
    right.set(xlabel="updates", ylabel="score", title="The same learning")
    if results["curves"]:
        right.legend()
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks iteration")
    torch.set_num_threads(1)
    large = TINY if arguments.quick else LARGE_VOCABULARY
    at_large = 2 * large.lanes if arguments.quick else large.lanes  # TRL wants at least four minibatches
    if arguments.worker is not None:
        memory_worker(arguments.worker, large, at_large)
        return
    # Fewer lanes, so that eight episodes a lane are no more work than the others' two.
    shapes = {shape.name: shape for shape in (BASE, SMALL, replace(RAGGED, lanes=8))}
    if unknown := set(arguments.shapes) - set(shapes):
        raise ValueError(f"Expected shapes of {sorted(shapes)}, got {sorted(unknown)}")
    chosen = [shapes[name] for name in arguments.shapes]
    learned = replace(SMALL, name="curves", new_tokens=16, lanes=16)
    if arguments.quick:
        arguments = replace(arguments, rounds=1, seeds=2, updates=2)
        chosen, learned = [TINY], TINY
    episodes = {shape.name: shape.lanes * (8 if shape.mean_length else 4 if shape is TINY else 2) for shape in chosen}
    skipped: list[str] = []
    results: dict[str, Any] = {
        "command": command_line("iteration", argv),
        "machine": speed_machine("torch", "transformers"),
        "rounds": arguments.rounds,
        "shapes": {**{shape.name: repr(shape) for shape in chosen}, "memory": repr(large)},
        "episodes": episodes,
        "plot": arguments.output.with_suffix(".png").name,
        "speed": [],
        "memory": [],
        "curves": None,
        "skipped": skipped,
    }

    def save() -> None:
        write(arguments.output, results, page(results), plot(results))

    for shape in chosen:
        results["speed"] += speeds(shape, episodes[shape.name], arguments, skipped)
        save()
    if arguments.memory:
        results["memory"] = memory(large, at_large, arguments, skipped)
        save()
    if arguments.seeds:
        results["curves"] = curves(arguments, learned)
        save()
