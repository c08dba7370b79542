"""`python -m agents generate`: continuations of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from agents import Policy, collect
from agents.cli.options import Generate
from agents.cli.sources import model_source, policy_folder, training_temperature
from agents.collector import make_env
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
    env = _env_of_texts(arguments, policy) if arguments.texts else _env_of_examples(arguments, policy)
    count = min(len(env.setting.pool), len(arguments.texts) or arguments.prompts)
    examples = [index for index in range(count) for _ in range(arguments.number)]
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
    responses, scores = rollout.responses(policy), rollout.scores.tolist()
    for example, response, score in zip(examples, responses, scores, strict=True):
        prompt = env.setting.pool.examples[example].prompt
        segments = [render.Segment(prompt, "prompt"), render.Segment(response, "response")]
        is_scored = not arguments.texts or arguments.reward is not None
        said = f"\n{env.setting.reward.name} {score:+.3f}" if is_scored else ""
        print(f"{render.ansi(segments, color=render.takes_colors())}{said}", end="\n\n")


def _env_of_texts(arguments: Generate, policy: Policy) -> TextGenVectorEnv:
    """Lanes whose prompts somebody typed."""
    if arguments.task is not None or arguments.data is not None:
        raise ValueError("Expected texts to continue, or a --task or --data that has some, got both")
    kwargs = {"max_new_tokens": 32, **arguments.env_kwargs(), "task": PromptsTask(arguments.texts), "payout": "sparse"}
    return TextGenVectorEnv(
        min(len(arguments.texts) * arguments.number, _MOST_LANES),
        tokenizer=policy.tokenizer,
        autoreset_mode="Disabled",
        **kwargs,
    )


def _env_of_examples(arguments: Generate, policy: Policy) -> TextGenVectorEnv:
    """Lanes of an environment, over a split that has examples."""
    kwargs = {**arguments.env_kwargs(), "payout": "sparse"}
    num_envs = min(arguments.prompts * arguments.number, _MOST_LANES)
    splits = make_env(arguments.env, policy, 1, **kwargs).setting.splits
    split = arguments.split if arguments.split in splits else splits[-1]
    return make_env(arguments.env, policy, num_envs, **{**kwargs, "split": split})
