"""`python -m agents generate`: continuations of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import torch

from agents import Policy, collect
from agents.cli.options import Generate, name_or_json, true_or_json
from agents.cli.sources import model_source, policy_folder, training_temperature
from agents.policy.sampling import Truncation
from textenvs import Example, Task, TextGenVectorEnv, render
from textenvs.tasks.base import check_split

_MOST_LANES = 64


class PromptsTask(Task):
    """Prompts that somebody typed, as a task's train split.

    Args:
        prompts: The texts.
    """

    name = "prompts"
    default_reward = "length"

    def __init__(self, prompts: Sequence[str]) -> None:
        self._prompts = prompts

    def num_examples(self, split: str) -> int:
        """The number of prompts, in the train split."""
        check_split(split)
        return len(self._prompts) if split == "train" else 0

    def example(self, split: str, index: int) -> Example:
        """One prompt."""
        check_split(split)
        return Example(self._prompts[index])


def run(arguments: Generate) -> None:
    """Prints continuations of prompts."""
    if arguments.run is not None:
        source: str | Path = policy_folder(arguments.run, arguments.checkpoint)
    else:
        source = model_source(arguments.model)
    policy = Policy.from_pretrained(source, device=arguments.device)
    temperature = arguments.temperature
    if temperature is None:
        temperature = training_temperature(source)
    prompts = list(arguments.prompt)
    if not prompts:
        task = gym.make("TextGen-v0").unwrapped.task  # type: ignore[attr-defined]
        prompts = [task.example("test", index).prompt for index in range(3)]
    examples = [index for index in range(len(prompts)) for _ in range(arguments.number)]
    env = TextGenVectorEnv(
        min(len(examples), _MOST_LANES),
        task=PromptsTask(prompts),
        payout="sparse",
        tokenizer=policy.tokenizer,
        max_new_tokens=arguments.max_new_tokens,
        stop=None if arguments.stop is None else name_or_json(arguments.stop),
        chat_template=arguments.chat_template is not None and true_or_json("chat_template", arguments.chat_template),
        autoreset_mode="Disabled",
    )
    rollout = collect(
        env,
        policy,
        len(examples),
        temperature=1.0 if temperature is None else temperature,
        deterministic=arguments.deterministic,
        generator=torch.Generator(policy.device).manual_seed(arguments.seed),
        examples=examples,
        truncation=Truncation.of(arguments.top_k, arguments.top_p, arguments.min_p),
    )
    for example, response in zip(examples, rollout.responses(policy), strict=True):
        segments = [render.Segment(prompts[example], "prompt"), render.Segment(response, "response")]
        print(render.ansi(segments), end="\n\n")
