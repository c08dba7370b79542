"""`python -m agents compare`: several policies on the same prompts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agents.cli.options import EnvironmentArguments, _model, _temperature_of
from agents.evaluation import comparison_page
from agents.evaluation.comparison import compare as compare_policies
from agents.evaluation.comparison import named_sources
from agents.training.start_policy import start_policy


@dataclass(frozen=True, kw_only=True)
class Compare(EnvironmentArguments):
    """Play the same prompts with several models, and say which is better, by how much and through which tokens."""

    models: tuple[str, ...]
    """Two or more: tiny, folders of models, of sft or of train, hub ids; NAME=FOLDER gives one a name."""
    reference: str | None = None
    """The name of the model that the others are compared with. Default: the first one."""
    split: Literal["train", "validation", "test", "shifted"] = "test"
    """Which examples."""
    episodes: int = 300
    """Episodes of each model."""
    gamma: float = 1.0
    """Discount of returns and of cumulative advantages."""
    gae_lambda: float = 0.0
    """0: the cumulative advantage sums TD errors, and is the return minus V of the prompt. Above 0: later tokens weigh
    more, by (1 - lambda^(k+1)) / (1 - lambda)."""
    value_function: Literal["fitted", "head"] = "fitted"
    """The reference's value function: fitted to its episodes, or the value head that reinforcement learning trained."""
    folds: int = 5
    """How many parts the prompts are divided into, for the spread and for fitting values."""
    temperature: float | None = None
    """What logits are divided by. Default: as in the training of the runs among the models; else 1."""
    deterministic: bool = False
    """The likeliest token at every step instead of a sample."""
    output: Path | None = None
    """Where comparison.html, its pictures and comparison.json go. Default: runs/ and a name made of the time."""
    seed: int = 0
    """Of the sampling."""
    device: str | None = None
    """cpu, cuda, mps. Default: the best there is."""
    json: bool = False
    """Print one JSON object instead of tables."""


def compare(arguments: Compare) -> None:
    """Print the comparison of some models, and write its page."""
    places = {name: _model(source) for name, source in named_sources(arguments.models).items()}
    temperature = arguments.temperature
    if temperature is None:
        trained = {name: own for name, place in places.items() if (own := _temperature_of(place)) is not None}
        if len(set(trained.values())) > 1:
            raise ValueError(f"Expected --temperature for runs that were trained at different ones, {trained}")
        temperature = next(iter(trained.values()), 1.0)
    policies = {}
    for name, place in places.items():
        policies[name] = start_policy(
            place, arguments.env, arguments.kwargs(), seed=arguments.seed, device=arguments.device
        )
    found = compare_policies(
        policies,
        arguments.env,
        env_kwargs=arguments.kwargs(),
        num_episodes=arguments.episodes,
        split=arguments.split,
        reference=arguments.reference,
        gamma=arguments.gamma,
        gae_lambda=arguments.gae_lambda,
        value_function=arguments.value_function,
        folds=arguments.folds,
        temperature=temperature,
        deterministic=arguments.deterministic,
        seed=arguments.seed,
    )
    folder = arguments.output or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    command = f"python -m agents compare --env {arguments.env} --models {' '.join(arguments.models)}"
    page = comparison_page.write(found, folder, command=command)
    if arguments.json:
        print(json.dumps(found.summary()))
    else:
        print(f"{comparison_page.as_text(found)}\n\nThe page, with the tokens: {page}")
