"""`python -m agents compare`: several policies on the same prompts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from agents.cli.console import owned
from agents.cli.options import Compare
from agents.cli.sources import model_source, named_sources, training_temperature
from agents.evaluation import comparison_page
from agents.evaluation.comparison import compare
from agents.files import check_empty, to_json
from agents.locks import LOCK
from agents.training.start_policy import start_policy
from textenvs import render


def run(arguments: Compare) -> None:
    """Prints the comparison of some models, and writes its page."""
    folder = arguments.output or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    with owned(folder, partial(check_empty, but=(LOCK, *comparison_page.FILES))):
        _compare(arguments, folder)


def _compare(arguments: Compare, folder: Path) -> None:
    sources = {name: model_source(model) for name, model in named_sources(arguments.models).items()}
    temperature = arguments.temperature
    if temperature is None:
        temperature = _common_temperature(sources)
    env_kwargs = arguments.env_kwargs()
    policies = {
        name: start_policy(source, arguments.env, env_kwargs, seed=arguments.seed, device=arguments.device)
        for name, source in sources.items()
    }
    comparison = compare(
        policies,
        arguments.env,
        env_kwargs=env_kwargs,
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
    command = shlex.join(["python", "-m", "agents", "compare", *arguments.words(), "--models", *arguments.models])
    page = comparison_page.write(comparison, folder, command=command)
    if arguments.json:
        print(to_json(comparison.summary()))
    else:
        print(f"{comparison_page.as_text(comparison)}\n\nThe page, with the tokens: {render.visible_line(str(page))}")


def _common_temperature(sources: Mapping[str, str | Path]) -> float:
    """The temperature that the runs among some models were trained at; 1 where none is a run."""
    trained = {
        name: temperature
        for name, source in sources.items()
        if (temperature := training_temperature(source)) is not None
    }
    if len(set(trained.values())) > 1:
        raise ValueError(f"Expected --temperature for runs that were trained at different ones, {trained}")
    return next(iter(trained.values()), 1.0)
