"""`python -m agents evaluate`: the mean score of a policy on held-out examples."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agents import Agent, Policy, load
from agents.cli.options import EnvironmentArguments, _line, _model
from agents.collector import make_env
from agents.evaluation.evaluation import evaluate as evaluate_policy
from agents.files import read_json, write_text
from agents.training import checkpoints


@dataclass(frozen=True, kw_only=True)
class Evaluate(EnvironmentArguments):
    """Mean score of a run or a model on held-out examples, with a 95 % confidence interval."""

    run: Path | None = None
    """A run's folder. It is evaluated in its own environment; options for the environment change that one, and --env
    takes another."""
    checkpoint: str = "last"
    """Which checkpoint of --run: last, best (by validation score) or a number."""
    model: str = "tiny"
    """What to evaluate where there is no --run: tiny, a folder of a model or of sft, or a hub id."""
    split: Literal["train", "validation", "test", "shifted"] = "test"
    """Which examples."""
    episodes: int = 300
    """How many."""
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
    output: Path | None = None
    """A .jsonl file to write, with a row for each episode."""
    json: bool = False
    """Print one JSON object."""


def evaluate(arguments: Evaluate, said: Container[str]) -> None:
    """Print how good a run or a model is.

    Args:
        arguments: The options.
        said: Which options for the environment the command line gives.
    """
    if arguments.run is not None:
        agent = _load_run(arguments.run, arguments, said)
        # As many lanes as the run has: the numbers are then those of its own evaluations.
        env = agent.make_env(agent.config.num_envs, split=arguments.split)
        policy, reference, name, own = agent.policy, agent.reference, agent.env_id, agent.config.temperature
    else:
        if checkpoints.numbers(Path(arguments.model)):
            raise ValueError(
                f"Expected --model with the folder of a model, got {arguments.model!r}, which is the folder of a run: "
                f"--run {arguments.model} evaluates it in its own environment, with --env in another"
            )
        policy, reference = Policy.from_pretrained(_model(arguments.model), device=arguments.device), None
        env = make_env(arguments.env, policy, split=arguments.split, **arguments.kwargs())
        name, own = arguments.env, 1.0
    temperature = own if arguments.temperature is None else arguments.temperature
    found = evaluate_policy(
        policy,
        env,
        arguments.episodes,
        reference=reference,
        temperature=temperature,
        deterministic=arguments.deterministic,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    if arguments.output is not None:
        write_text(arguments.output, "".join(json.dumps(row) + "\n" for row in found.samples()))
    if arguments.json:
        where = {"env": name, "task": env.task.name, "split": arguments.split, "temperature": temperature}
        print(json.dumps({**where, **found.summary()}))
    else:
        print(_line(f"{name} ({env.task.name}), {arguments.split}", found))


def _load_run(run: Path, arguments: Evaluate, said: Container[str]) -> Agent:
    """A run's agent, in its own environment as far as the options do not say otherwise."""
    if not checkpoints.numbers(run) and (run / "sft.json").is_file():
        raise ValueError(
            f"Expected --run with the folder of a run of train, got {str(run)!r}, which is one of sft: --model {run}"
        )
    changes = arguments.kwargs()
    if "payout" not in said:
        del changes["payout"]
    env = arguments.env if "env" in said else None
    if env is not None:
        found = checkpoints.find(run, arguments.checkpoint).path
        if env == read_json(found / "agent.json")["env_id"]:
            env = None
    return load(run, arguments.checkpoint, env=env, env_kwargs=changes, device=arguments.device)
