"""Measures the memory that PPO takes on a CPU, and computes that of larger models from a formula.

    python -m benchmarks memory --model smollm2

Each case is a process of its own: a model is loaded, plays one batch of episodes and learns from it. Peaks are those of
the process's resident memory, less what Python and its libraries take before a model is loaded. The formula counts
numbers of four bytes, in which textenvs keeps weights on every device:

    all weights trained   4 bytes x (5 P + A)    weights, gradients, two moments of Adam, the reference model
    LoRA                  4 bytes x (P + 4 R + A)   one model; R adapter weights with gradients and moments
    A = activations that wait for the backward pass, per token of a micro-batch, times its tokens

P is the number of weights, of which embeddings count once where the head shares them.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.records import RESULTS, command_line, heading, machine, table, write

LARGER = {
    "GPT-2 (124M)": (124_439_808, 12, 768),
    "SmolLM2-360M": (361_821_120, 32, 320),
    "GPT-2 XL (1.5B)": (1_557_611_200, 48, 1600),
    "SmolLM2-1.7B": (1_711_376_384, 24, 2048),
    "Qwen2.5-7B": (7_615_616_512, 28, 512),
}
"""Name to weights, layers, and width of the keys of all heads of a layer, by their published configs."""

CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora": 8},
    "lora, checkpointing": {"lora": 8, "gradient_checkpointing": True},
    "all weights": {},
    "all weights, checkpointing": {"gradient_checkpointing": True},
}
"""Name to the arguments of `Policy.adapt`."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Peak memory of PPO on a CPU, with and without adapters."""

    model: str = "smollm2"
    """The model, as Policy.from_pretrained takes it."""
    lanes: int = 16
    """Episodes, all in one micro-batch."""
    max_new_tokens: int = 24
    """Tokens of a response; EOS and other ends are masked, so that all are as long."""
    output: Path = RESULTS / "memory"
    """Name of the results: a .json and a .md file."""


def _peak() -> int:
    """Returns the most bytes that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, the other count begins with what the parent held
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(arguments: Arguments, adapted: dict[str, Any] | None, answer: Any) -> None:
    """Loads, plays and learns, and sends the peaks.

    Args:
        arguments: The command's arguments.
        adapted: Arguments of `Policy.adapt`; None loads the model, and nothing else.
        answer: The pipe's end that takes the row.
    """
    import torch

    torch.set_num_threads(1)
    from agents import PPO, Policy, collect

    before = _peak()
    policy = Policy.from_pretrained(arguments.model, device="cpu")
    if adapted is None:
        answer.send({})
        return
    policy.adapt(**adapted)
    row: dict[str, Any] = {"libraries": before, "loaded": _peak() - before}
    row["weights"] = sum(parameter.numel() for parameter in policy.parameters())
    row["trained"] = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    agent = PPO(
        policy,
        "TextGen-v0",
        env_kwargs={"max_new_tokens": arguments.max_new_tokens, "min_new_tokens": arguments.max_new_tokens},
        num_envs=arguments.lanes,
        episodes_per_update=arguments.lanes,
        minibatch_size=arguments.lanes,
        micro_batch_size=arguments.lanes,
        epochs=1,
    )
    generator = torch.Generator().manual_seed(0)
    rollout = collect(agent.env, policy, arguments.lanes, generator=generator)
    row["played"] = _peak() - before
    row["tokens"] = int(rollout.num_tokens)
    agent.learn(1)
    row["learned"] = _peak() - before
    row["dequantized_from"] = getattr(policy.model.config, "dequantized_from", None)
    answer.send(row)


def in_a_process(arguments: Arguments, adapted: dict[str, Any] | None) -> dict[str, Any]:
    """Measures one case in a process that has held nothing before; None only loads the model."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(arguments, adapted, theirs))
    process.start()
    theirs.close()
    try:
        row: dict[str, Any] = ours.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"Expected a measurement, but the process ended: {process.exitcode}") from error
    process.join()
    return row


def page(arguments: Arguments, results: dict[str, Any]) -> str:
    """Writes the results as Markdown."""
    rows = results["cases"]
    note = f"Of {arguments.model}"
    if dequantized := rows[0]["dequantized_from"]:
        note += f", dequantised from {dequantized},"
    note += f" with {arguments.lanes} responses of {arguments.max_new_tokens} tokens in one micro-batch."
    cells = [
        [row["case"], f"{row['weights']:,}", f"{row['trained']:,}",
         *(f"{row[stage] / 1e9:.2f}" for stage in ("loaded", "played", "learned")), f"{row['formula'] / 1e9:.2f}"]
        for row in rows
    ]  # fmt: skip
    larger = [[row["model"], f"{row['weights'] / 1e9:.2f}", f"{row['lora'] / 1e9:.1f}", f"{row['all'] / 1e9:.1f}",
               f"{row['cache'] / 1e3:.0f}"] for row in results["larger"]]  # fmt: skip
    lines = [
        *heading("Memory of PPO", results, note),
        f"Gigabytes (10^9 bytes), over the {rows[0]['libraries'] / 1e9:.2f} of Python and its libraries. Each stage is "
        "the peak until its end; pages of the model's file that are read count, too, while it is loaded. One optimiser "
        "step is taken. Adam's moments are made after its backward pass, so where all weights are trained, later steps "
        "hold them beside the activations: what LoRA takes beyond the formula comes on top.",
        "",
        *table(["case", "weights", "trained", "loaded", "played", "learned", "formula without A"], cells),
        "",
        "## Computed for larger models",
        "",
        "By the formula of `benchmarks/speed/memory.py`, without activations, in gigabytes: 4 bytes x 5 P where all P",
        "weights are trained, 4 bytes x (P + 4 R) with R = P / 100 weights in adapters. **Not measured.** Keys and",
        "values take as many kilobytes for each token of each lane.",
        "",
        *table(["model", "weights (10^9)", "LoRA", "all weights", "keys and values, kB a token"], larger),
    ]
    return "\n".join(lines) + "\n"


def formula(weights: int, trained: int, adapters: bool) -> int:
    """Computes bytes of weights, gradients, moments and the reference.

    Args:
        weights: Number of weights, adapters included.
        trained: Number of those that are trained.
        adapters: True if the reference is the model itself, without its adapters.

    Returns:
        Bytes, without activations.

    Example:
        >>> formula(100, 100, adapters=False), formula(110, 10, adapters=True)
        (2000, 560)
    """
    return 4 * (weights + 3 * trained + (0 if adapters else weights))


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the tables.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks memory")
    about, cases = machine("torch", "transformers", "peft"), []
    in_a_process(arguments, None)  # a model that has to be made first would be measured with that
    for name, adapted in CASES.items():
        row = {"case": name, **in_a_process(arguments, adapted)}
        row["formula"] = formula(row["weights"], row["trained"], "lora" in adapted)
        cases.append(row)
        print(f"{name}: {row['learned'] / 1e9:.2f} GB", flush=True)
    larger = [
        {
            "model": name,
            "weights": weights,
            "lora": formula(weights, weights // 100, adapters=True),
            "all": formula(weights, weights, adapters=False),
            "cache": 4 * 2 * layers * keys,
        }
        for name, (weights, layers, keys) in LARGER.items()
    ]
    results = {"command": command_line("memory", argv), "machine": about, "cases": cases, "larger": larger}
    write(arguments.output, results, page(arguments, results))
