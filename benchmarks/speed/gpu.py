"""Measures rollout and update on a GPU: a GPT-2 of 124 million parameters with random weights, in bfloat16.

One command for a bare machine with torch, transformers and this project's dependencies. It compares ours through the
environment (`sentiment` at every token) with `generate` and, where this Transformers has it, `generate_batch`; with the
roofline, which is the bytes that a step has to read (weights once, keys and values of every lane) over the bandwidth
that is measured first; and the update with the matrix rate that is measured first.

It runs on any device: without a GPU, `--quick` shows that all of it works. No figure of a GPU has been committed yet.

    python -m benchmarks gpu
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro

from agents import Policy, collect
from agents.devices import choose_device
from agents.rollout import reference_log_probs
from benchmarks.records import RESULTS, command_line, table, write
from benchmarks.speed import peers
from benchmarks.speed.iteration import make_agent
from benchmarks.speed.shapes import TINY, Shape, make_env, make_model, word_tokenizer
from benchmarks.speed.timing import speed_heading, speed_machine

GPT2 = Shape("GPT-2 124M", layers=12, width=768, vocab_size=50257, lanes=64, new_tokens=128, family="gpt2", heads=12)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure rollout and update on a GPU."""

    lanes: tuple[int, ...] = (64, 128, 256, 512)
    """Numbers of lanes."""
    rounds: int = 3
    """Turns of each case, after one to warm up."""
    device: str | None = None
    """The device; None takes CUDA, then MPS, then the CPU."""
    quick: bool = False
    """Few and small cases, to see that all of it works: the numbers mean nothing."""
    output: Path = RESULTS / "gpu"
    """Name of the results: a .json, a .md and a .png file."""


def wait(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(play: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Returns the clock's seconds of a call, the median over rounds."""
    play()
    spent = []
    for _ in range(rounds):
        wait(device)
        started = time.perf_counter()
        play()
        wait(device)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def limits(device: torch.device, size: int) -> dict[str, float]:
    """Measures the device: bytes a second read and written, and operations a second of bfloat16 products."""
    data, copy = (torch.empty(size * size * 4, dtype=torch.bfloat16, device=device) for _ in range(2))
    square = torch.randn(size, size, device=device).to(torch.bfloat16)
    copying = seconds_of(lambda: copy.copy_(data), device, 5)
    multiplying = seconds_of(lambda: square @ square, device, 5)
    return {"bytes_per_second": 2 * data.nbytes / copying, "flops_per_second": 2 * size**3 / multiplying}


def step_bytes(shape: Shape) -> float:
    """Computes the bytes that a decode step has to read, on average over a response.

    They are the weights, and every lane's keys and values.
    """
    weights = shape.flops_per_token / 2
    seen = shape.prompt + shape.new_tokens / 2
    return 2 * (weights + 2 * shape.lanes * seen * shape.layers * shape.width)


def generate_batch(model: Any, shape: Shape) -> Callable[[], int]:
    """Returns a function that writes with Transformers' own continuous batching, and returns its tokens."""
    ids = peers.prompts(shape, shape.lanes).tolist()
    settings = transformers.GenerationConfig(do_sample=True, top_k=0, max_new_tokens=shape.new_tokens, eos_token_id=-1)

    def play() -> int:
        outputs = model.generate_batch(inputs=ids, generation_config=settings, progress_bar=False)
        return sum(len(output.generated_tokens) for output in outputs.values())

    return play


def rollouts(shape: Shape, device: torch.device, arguments: Arguments, skipped: list[str]) -> list[dict[str, Any]]:
    """Measures everybody at one number of lanes."""
    model = make_model(shape)
    policy = Policy(model.to(device), word_tokenizer(shape.vocab_size)).adapt(precision="bfloat16")
    compiled = Policy(policy.model, policy.tokenizer).adapt(precision="bfloat16", compile=True)  # as CUDA graphs
    env = make_env(shape, policy)
    generator = torch.Generator(device).manual_seed(0)
    env.reset(seed=0)
    plain = make_model(shape).to(device, torch.bfloat16)
    ids = peers.prompts(shape, shape.lanes).to(device)

    def generate() -> int:
        rows = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=shape.new_tokens
        )
        return peers.written_tokens(rows, shape.prompt)

    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: collect(env, policy, shape.lanes, generator=generator),
        "generate": generate,
    }
    if device.type == "cuda":
        cases["ours, compiled"] = lambda: collect(env, compiled, shape.lanes, generator=generator)
    else:
        skipped.append(f"{shape.lanes} lanes: ours, compiled, which is for CUDA")
    if device.type == "cuda" and hasattr(plain, "generate_batch"):
        cases["generate_batch"] = generate_batch(plain, shape)
    else:
        skipped.append(f"{shape.lanes} lanes: generate_batch, which is for CUDA")
    rows = []
    for who, play in cases.items():
        try:
            seconds = seconds_of(play, device, arguments.rounds)
        except (RuntimeError, TypeError, ValueError, ImportError) as error:  # the other cases still have results
            skipped.append(f"{shape.lanes} lanes: {who}: {error}")
            continue
        tokens = shape.lanes * shape.new_tokens
        rows.append({"lanes": shape.lanes, "who": who, "tokens_per_second": tokens / seconds})
        print(rows[-1], flush=True)
    return rows


def update(shape: Shape, device: torch.device, arguments: Arguments) -> dict[str, Any]:
    """Measures one update of PPO: operations a second of the products alone, forward and backward."""
    policy = Policy(make_model(shape).to(device), word_tokenizer(shape.vocab_size)).adapt(precision="bfloat16")
    agent = make_agent(shape, shape.lanes, policy)
    generator = torch.Generator(device).manual_seed(0)
    rollout = collect(agent.env, policy, shape.lanes, seed=0, generator=generator)
    rollout = replace(rollout, ref_log_probs=reference_log_probs(agent.reference, rollout, temperature=1.0))
    seconds = seconds_of(
        lambda: agent.algorithm.update(policy, agent.optimizer, rollout, agent.config, generator),
        device,
        arguments.rounds,
    )
    head = 2 * shape.width * shape.vocab_size
    trunk_tokens = shape.lanes * (shape.prompt + shape.new_tokens)
    work = 4 * 3 * (trunk_tokens * (shape.flops_per_token - head) + rollout.num_tokens * head)
    return {
        "lanes": shape.lanes,
        "tokens_per_second": rollout.num_tokens / seconds,
        "flops_per_second": work / seconds,
    }


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    limit = results["limits"]
    lines = speed_heading(f"Speed on {results['device']}", results, "of the clock's time")
    lines += [
        f"{results['date']}, `{results['shape']}`. Measured first: {limit['bytes_per_second'] / 1e9:,.0f} GB/s, "
        f"{limit['flops_per_second'] / 1e12:,.1f} TFLOP/s in bfloat16.",
        "",
    ]
    roof = {row["lanes"]: row["tokens_per_second"] for row in results["roofline"]}
    base = {row["lanes"]: row["tokens_per_second"] for row in results["speed"] if row["who"] == "generate"}
    cells = [
        [
            row["lanes"],
            row["who"],
            f"{row['tokens_per_second']:,.0f}",
            f"{row['tokens_per_second'] / base[row['lanes']]:.2f}" if row["lanes"] in base else "",
            f"{row['tokens_per_second'] / roof[row['lanes']]:.1%}",
        ]
        for row in results["speed"]
    ]
    lines += table(["lanes", "", "tokens a second", "times generate", "of the roofline"], cells)
    lines += ["", "An update of PPO (four epochs):", ""]
    shares = [
        [
            row["lanes"],
            f"{row['tokens_per_second']:,.0f}",
            f"{row['flops_per_second'] / limit['flops_per_second']:.1%}",
        ]
        for row in results["update"]
    ]
    lines += [*table(["lanes", "tokens a second", "of the matrix rate"], shares), ""]
    lines += [f"Left out: {reason}." for reason in results["skipped"]]
    return "\n".join(lines).rstrip() + "\n"


def plot(results: dict[str, Any]) -> Any:
    """Draws the speeds by lanes, under the roofline.

    Args:
        results: The measurement.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for who in dict.fromkeys(row["who"] for row in results["speed"]):
        rows = [row for row in results["speed"] if row["who"] == who]
        axes.plot([row["lanes"] for row in rows], [row["tokens_per_second"] for row in rows], marker="o", label=who)
    roof = results["roofline"]
    axes.plot([row["lanes"] for row in roof], [row["tokens_per_second"] for row in roof], "k--", label="roofline")
    axes.set(xscale="log", yscale="log", xlabel="lanes", ylabel="tokens a second", title=results["device"])
    axes.legend()
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures, and writes the results.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks gpu")
    device = choose_device("cpu" if arguments.quick and arguments.device is None else arguments.device)
    shape, size = GPT2, 8192
    if arguments.quick:
        arguments = replace(arguments, lanes=(2, 3), rounds=1)
        shape, size = replace(TINY, family="gpt2"), 64
    shapes = [replace(shape, lanes=lanes) for lanes in arguments.lanes]
    measured = limits(device, size)
    skipped: list[str] = []
    results: dict[str, Any] = {
        "command": command_line("gpu", argv),
        "machine": speed_machine("torch", "transformers"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": arguments.rounds,
        "shape": repr(shape),
        "limits": measured,
        "roofline": [
            {
                "lanes": shape.lanes,
                "tokens_per_second": shape.lanes
                / max(
                    step_bytes(shape) / measured["bytes_per_second"],
                    shape.lanes * shape.flops_per_token / measured["flops_per_second"],
                ),
            }
            for shape in shapes
        ],
        "speed": [row for shape in shapes for row in rollouts(shape, device, arguments, skipped)],
        "update": [update(shapes[0], device, arguments)],
        "skipped": skipped,
    }
    write(arguments.output, results, page(results), plot(results))
