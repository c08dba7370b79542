"""The agents that take part, by their names on the command line.

    reinforce, actor_critic, ppo, grpo, best_of_n     the bundled algorithms, at their default settings
    reinforce[baseline=none]                    the same with other settings, separated by ";"
    my_module:MyAlgorithm                       yours: an `agents.Algorithm` in a module that can be imported
    sft                                         the demonstrations, as many of their tokens as the budget has
    start, random, demonstrations               no training at all
    sb3_ppo, sb3_a2c, sb3_ppo_mlp, ...          outside baselines, see benchmarks/learn/sb3_and_trl.py

Each of them gets the same start policy, environment and budget, and comes back as a `Trained`: test episodes, and the
curve of its scores while it learned.
"""

from __future__ import annotations

import ast
import re
import time
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Algorithm, SFTConfig, fine_tune
from agents.supervised.sft import demonstrations
from benchmarks.learn import sb3_and_trl
from benchmarks.learn.playing import (
    Curve,
    Scores,
    Trained,
    Unavailable,
    make_env,
    make_start_policy,
    played_scores,
    policy_scores,
    tokenizer_of,
)
from benchmarks.learn.sb3_and_trl import OUTSIDE
from benchmarks.learn.suite import UNTRAINED, Experiment
from textenvs.rewards import checked_score


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """Splits an agent's name from its settings.

    Args:
        name: The agent, as on the command line.

    Returns:
        The name without its settings, and the settings: Python literals where they can be read as such, else text.

    Raises:
        ValueError: If it cannot be read.

    Example:
        >>> parse("reinforce[baseline=none;learning_rate=1e-3]")
        ('reinforce', {'baseline': 'none', 'learning_rate': 0.001})
    """
    matched = re.fullmatch(r"([\w.:]+)(?:\[(.*)\])?", name)
    if matched is None:
        raise ValueError(f"Expected an agent as NAME, MODULE:NAME or NAME[setting=value;...], got {name!r}")
    settings = {}
    for part in filter(None, (matched[2] or "").split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"Expected setting=value in {name!r}, got {part!r}")
        try:
            settings[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key.strip()] = value
    return matched[1], settings


def algorithm_of(name: str) -> Algorithm:
    """Returns the algorithm of a name: a bundled one, or `module:attribute`.

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
        algorithm = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Expected {name!r} to be an importable module and a name in it: {error}") from error
    if not isinstance(algorithm, Algorithm):
        raise ValueError(f"Expected {name!r} to be an agents.Algorithm, got {type(algorithm).__name__}")
    return algorithm


def train(name: str, experiment: Experiment, seed: int, max_seconds: float | None = None) -> Trained:
    """Trains an agent on an experiment.

    Args:
        name: The agent, as on the command line.
        experiment: The experiment.
        seed: Decides everything that is random.
        max_seconds: Training stops after this many seconds, whatever is left of the budget.

    Returns:
        The agent, trained.

    Raises:
        Unavailable: If it cannot take part.
        ValueError: If there is no such agent, or a setting is out of range.
        TypeError: If it has no such setting.
    """
    plain, settings = parse(name)
    if plain in OUTSIDE:
        return sb3_and_trl.train(plain, experiment, seed, settings, max_seconds)
    if plain in UNTRAINED and settings:
        raise TypeError(f"Expected no settings of {plain!r}, got {settings}")
    if plain == "random":
        return Trained(random_scores(experiment, seed))
    if plain == "demonstrations":
        return Trained(demonstration_scores(experiment))
    if plain == "start":
        return Trained(policy_scores(make_start_policy(experiment, seed), experiment, seed))
    if plain == "sft":
        return _sft(experiment, seed, settings)
    algorithm = algorithm_of(plain)  # refuses an unknown name before the start policy is made
    policy = make_start_policy(experiment, seed)
    agent = algorithm(policy, experiment.env, seed=seed, env_kwargs=experiment.kwargs, **settings)
    curve: Curve = []
    started = time.process_time()

    def note(row: dict[str, float]) -> None:
        curve.append((int(row["timesteps"]), time.process_time() - started, row["score"]))

    agent.learn(experiment.tokens, max_seconds=max_seconds, on_update=note)
    scores = policy_scores(agent.policy, experiment, seed, agent.reference if agent.reference.pretrained else None)
    return Trained(scores, agent.timesteps, curve, agent.config.to_dict())


def _sft(experiment: Experiment, seed: int, settings: dict[str, Any]) -> Trained:
    """Trains on as many tokens of demonstrations as the budget has tokens of episodes, in at most ten passes."""
    policy = make_start_policy(experiment, seed)
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


def random_scores(experiment: Experiment, seed: int) -> Scores:
    """Returns the scores of tokens drawn uniformly from the whole vocabulary: the 0 of the scale."""
    generator = np.random.default_rng(seed)
    tokenizer = tokenizer_of(experiment)
    vocab_size = make_env(experiment, "test", tokenizer, num_envs=1).tokenizer.vocab_size

    def act(observation: Any) -> NDArray[np.int64]:
        return generator.integers(vocab_size, size=len(observation["input_ids"]))

    return played_scores(experiment, act, tokenizer=tokenizer)


def demonstration_scores(experiment: Experiment) -> Scores:
    """Returns the scores of the task's demonstrations."""

    def scores(split: str, episodes: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
        envs = make_env(experiment, split, num_envs=1)
        pool = envs.setting.pool.examples
        examples = [pool[index % len(pool)] for index in range(episodes)]
        try:
            answers = [envs.task.demonstration(example) for example in examples]
        except NotImplementedError as error:
            raise Unavailable("the task has no demonstrations") from error
        pairs = zip(examples, answers, strict=True)
        return np.array([checked_score(envs.setting.reward, example, answer) for example, answer in pairs]), {}

    return scores
