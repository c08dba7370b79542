"""`python -m agents generate`: continuations of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import torch
import tyro

from agents import Policy, collect
from agents.cli.options import _model, _policy_folder, _temperature_of
from agents.policy.sampling import Truncation
from textenvs import Example, Task, TextGenVectorEnv, render
from textenvs.tasks.base import check_split


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Print continuations."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue. None: prompts of TextGen-v0's test split."""
    run: Path | None = None
    """A run's folder, of train or of sft."""
    checkpoint: str = "last"
    """Which checkpoint of --run: last, best (by validation score) or a number."""
    model: str = "tiny"
    """Who writes where there is no --run: tiny, a folder of a model or of a run, or a hub id."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 3
    """Continuations of each prompt."""
    max_new_tokens: int = 32
    """Tokens of each."""
    temperature: float | None = None
    """What logits are divided by. Default: with a run, as in its training; else 1."""
    deterministic: bool = False
    """The likeliest token at every step instead of a sample."""
    top_k: int | None = None
    """Sample from the k likeliest tokens alone."""
    top_p: float | None = None
    """Sample from the likeliest tokens alone, whose probabilities add up to this."""
    min_p: float | None = None
    """Sample from tokens alone that have at least this share of the likeliest one's probability."""
    seed: int = 0
    """Of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""


class _Prompts(Task):
    """A few prompts, given by hand."""

    name = "prompts"
    default_reward = "length"

    def __init__(self, prompts: Sequence[str]) -> None:
        self._prompts = prompts

    def num_examples(self, split: str) -> int:
        check_split(split)
        return len(self._prompts) if split == "train" else 0

    def example(self, split: str, index: int) -> Example:
        check_split(split)
        return Example(self._prompts[index])


def generate(arguments: Generate) -> None:
    """Print continuations of prompts."""
    if arguments.run is not None:
        source: str | Path = _policy_folder(arguments.run, arguments.checkpoint)
    else:
        source = _model(arguments.model)
    policy = Policy.from_pretrained(source, device=arguments.device)
    temperature = arguments.temperature
    if temperature is None:
        own = _temperature_of(source)
        temperature = 1.0 if own is None else own
    prompts = list(arguments.prompt)
    if not prompts:
        task = gym.make("TextGen-v0").unwrapped.task  # type: ignore[attr-defined]
        prompts = [task.example("test", index).prompt for index in range(3)]
    examples = [index for index in range(len(prompts)) for _ in range(arguments.number)]
    env = TextGenVectorEnv(
        min(len(examples), 64),
        task=_Prompts(prompts),
        payout="sparse",
        tokenizer=policy.tokenizer,
        max_new_tokens=arguments.max_new_tokens,
        autoreset_mode="Disabled",
    )
    rollout = collect(
        env,
        policy,
        len(examples),
        temperature=temperature,
        deterministic=arguments.deterministic,
        generator=torch.Generator(policy.device).manual_seed(arguments.seed),
        examples=examples,
        truncation=Truncation.of(arguments.top_k, arguments.top_p, arguments.min_p),
    )
    for place, response in zip(examples, rollout.responses(policy), strict=True):
        segments = [render.Segment(prompts[place], "prompt"), render.Segment(response, "response")]
        print(render.ansi(segments), end="\n\n")
