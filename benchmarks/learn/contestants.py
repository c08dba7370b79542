"""Who takes part: an agent's name on the command line, and what it does with an experiment.

    reinforce, actor_critic, ppo, best_of_n     the bundled algorithms, at their default settings
    reinforce[baseline=none]                    the same with other settings, separated by ";"
    my_module:MyAlgorithm                       yours: an `agents.Algorithm` in a module that can be imported
    sft                                         the demonstrations, as many of their tokens as the budget has
    start, random, demonstrations               no training at all
    sb3_ppo, sb3_a2c, sb3_ppo_mlp, ...          outside baselines, see benchmarks/learn/sb3_and_trl.py

Whoever it is, it is given the same start model, environment and budget, and comes back as a `Trained`: a way to play,
and the curve of what it scored while it learned.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Algorithm, Policy, SFTConfig, fine_tune
from agents.supervised.sft import demonstrations
from agents.training.start_policy import start_policy
from benchmarks.learn.playing import Trained, Unavailable, make_env, played_scores, policy_scores, tokenizer_of
from benchmarks.learn.suite import UNTRAINED, Experiment
from textenvs.rewards import checked_score

OUTSIDE = ("sb3_ppo", "sb3_a2c", "sb3_ppo_mlp", "sb3_a2c_mlp", "trl_grpo", "trl_rloo")


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """An agent's name and settings.

    Args:
        name: As on the command line.

    Returns:
        The name without its settings, and the settings: Python literals where they are ones, else text.

    Raises:
        ValueError: If it cannot be read.

    Example:
        >>> parse("reinforce[baseline=none;learning_rate=1e-3]")
        ('reinforce', {'baseline': 'none', 'learning_rate': 0.001})
    """
    found = re.fullmatch(r"([\w.:]+)(?:\[(.*)\])?", name)
    if found is None:
        raise ValueError(f"Expected an agent as NAME, MODULE:NAME or NAME[setting=value;...], got {name!r}")
    settings = {}
    for part in filter(None, (found[2] or "").split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"Expected setting=value in {name!r}, got {part!r}")
        try:
            settings[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key.strip()] = value
    return found[1], settings


def algorithm_of(name: str) -> Algorithm:
    """The algorithm that a name means: a bundled one, or `module:attribute`.

    Raises:
        ValueError: If there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in Algorithm.known:
            known = [*sorted(Algorithm.known), "sft", *UNTRAINED, *OUTSIDE, "MODULE:NAME"]
            raise ValueError(f"Expected an agent from {known}, got {name!r}")
        return Algorithm.known[name]
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Expected {name!r} to be an importable module and a name in it: {error}") from error
    if not isinstance(found, Algorithm):
        raise ValueError(f"Expected {name!r} to be an agents.Algorithm, got {type(found).__name__}")
    return found


def train(name: str, experiment: Experiment, seed: int, max_seconds: float | None = None) -> Trained:
    """Let an agent learn.

    Args:
        name: The agent, as on the command line.
        experiment: What it learns.
        seed: Decides everything that is random.
        max_seconds: It stops after so many seconds, whatever is left of the budget.

    Returns:
        The agent, trained.

    Raises:
        Unavailable: If it cannot take part.
        ValueError: If there is no such agent, or a setting is out of range.
        TypeError: If it has no such setting.
    """
    plain, settings = parse(name)
    if plain in OUTSIDE:
        outside = import_module("benchmarks.learn.sb3_and_trl")
        return outside.train(plain, experiment, seed, settings, max_seconds)
    if plain in ("random", "demonstrations"):
        if settings:
            raise TypeError(f"Expected no settings of {plain!r}, got {settings}")
        return Trained(random_scores(experiment, seed) if plain == "random" else demonstration_scores(experiment))
    if plain in ("sft", "start"):
        policy = start_policy(experiment.model, experiment.env, experiment.kwargs, seed=seed, device="cpu")
        if plain == "start":
            return Trained(policy_scores(policy, experiment, seed))
        return _sft(policy, experiment, seed, settings)
    algorithm = algorithm_of(plain)
    agent = algorithm(
        experiment.model, experiment.env, seed=seed, env_kwargs=experiment.kwargs, device="cpu", **settings
    )
    curve: list[tuple[int, float, float]] = []
    started = time.process_time()

    def note(row: dict[str, float]) -> None:
        curve.append((int(row["timesteps"]), time.process_time() - started, row["score"]))

    agent.learn(experiment.tokens, max_seconds=max_seconds, on_update=note)
    scores = policy_scores(agent.policy, experiment, seed, agent.reference if agent.reference.pretrained else None)
    return Trained(scores, agent.timesteps, curve, agent.config.to_dict())


def _sft(policy: Policy, experiment: Experiment, seed: int, settings: dict[str, Any]) -> Trained:
    """As many tokens of demonstrations as the budget has tokens of episodes, at most ten passes."""
    try:
        available = demonstrations(make_env(experiment, "train", policy.tokenizer))
    except ValueError as error:
        raise Unavailable(f"no demonstrations: {error}") from error
    tokens = int(available.response_mask.sum())
    share = min(1.0, experiment.tokens / tokens)
    chosen = {
        "epochs": min(10, max(1, experiment.tokens // tokens)),
        "demonstrations": max(1, int(share * len(available))),
        "eval_episodes": 0,
        **settings,
    }
    config = SFTConfig.of(chosen)
    rows = fine_tune(policy, experiment.env, config=config, seed=seed, env_kwargs=experiment.kwargs)
    used = int(tokens * min(1.0, (config.demonstrations or len(available)) / len(available))) * (len(rows) - 1)
    return Trained(policy_scores(policy, experiment, seed), used, [], config.to_dict())


# Playing --------------------------------------------------------------------------------------------------------------


def random_scores(
    experiment: Experiment, seed: int
) -> Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]:
    """Tokens drawn uniformly from the whole vocabulary: what the scale of scores calls 0."""
    generator = np.random.default_rng(seed)
    tokenizer = tokenizer_of(experiment)
    vocab_size = make_env(experiment, "test", tokenizer, num_envs=1).tokenizer.vocab_size

    def act(observation: Any) -> NDArray[np.int64]:
        return generator.integers(vocab_size, size=len(observation["input_ids"]))

    return played_scores(experiment, act, tokenizer=tokenizer)


def demonstration_scores(experiment: Experiment) -> Callable[[str, int], tuple[NDArray[np.float64], dict[str, Any]]]:
    """What the task's demonstrations score."""

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        envs = make_env(experiment, split, num_envs=1)
        examples = envs.setting.pool.examples
        chosen = [examples[place % len(examples)] for place in range(episodes)]
        try:
            answers = [envs.task.demonstration(example) for example in chosen]
        except NotImplementedError as error:
            raise Unavailable("the task has no demonstrations") from error
        pairs = zip(chosen, answers, strict=True)
        return np.array([checked_score(envs.setting.reward, one, answer) for one, answer in pairs]), {}

    return scores
