"""Calls public constructors with values of any kind: they must refuse them with a ValueError or a TypeError.

Each draw takes one constructor and gives some of its arguments values of any kind. Half of the time, the arguments that
it needs have values that make sense, so that it gets as far as the others. Numbers stay below a hundred: a million
lanes are no error, and would be made.

    python -m benchmarks fuzz
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import textenvs
from agents import (
    PPO,
    REINFORCE,
    ActorCritic,
    ActorCriticConfig,
    Algorithm,
    BestOfN,
    BestOfNConfig,
    Policy,
    PPOConfig,
    REINFORCEConfig,
    SFTConfig,
    load,
)
from agents.evaluation.evaluation import EvaluationPlan
from agents.policy.sampling import Truncation
from agents.supervised.configs import PreferenceConfig
from agents.training.config import OptimizerConfig, RunConfig
from agents.training.schedules import schedule
from benchmarks.records import RESULTS, command_line, heading, machine, table, write
from textenvs import wrappers

CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    **{
        constructor.__name__: constructor
        for constructor in (
            OptimizerConfig,
            RunConfig,
            PPOConfig,
            ActorCriticConfig,
            REINFORCEConfig,
            BestOfNConfig,
            SFTConfig,
            PreferenceConfig,
            EvaluationPlan,
            Truncation,
            textenvs.TextGenEnv,
            textenvs.TextGenVectorEnv,
            textenvs.make_reward,
            textenvs.make_task,
            textenvs.make_tokenizer,
            textenvs.load_dataset,
        )
    },
    **{algorithm.name: algorithm for algorithm in (PPO, ActorCritic, REINFORCE, BestOfN)},
    **{
        wrapper.__name__: wrapper
        for wrapper in (
            wrappers.MultiDiscreteObservation,
            wrappers.OneHotObservation,
            wrappers.FlatIdsObservation,
            wrappers.TextObservation,
            wrappers.TextAction,
            wrappers.VectorMultiDiscreteObservation,
            wrappers.VectorOneHotObservation,
            wrappers.VectorFlatIdsObservation,
            wrappers.VectorTextObservation,
            wrappers.VectorTextAction,
        )
    },
    "schedule": schedule,
    "Policy": Policy,
    "Policy.from_config": Policy.from_config,
    "Policy.fresh": Policy.fresh,
    "Policy.adapt": lambda **settings: _policy().adapt(**settings),
    "load": load,
}
"""Name to constructor."""

_MODEL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 2}  # fmt: skip


def _policy() -> Policy:
    return Policy.from_config(_MODEL, "stories")


@cache
def _envs() -> tuple[gym.Env[Any, Any], gym.vector.VectorEnv[Any, Any, Any]]:
    return gym.make("TextGen/Copy-v0"), gym.make_vec("TextGen/Copy-v0", num_envs=2)


def _sensible(name: str) -> dict[str, Any]:
    """Returns sensible values of the arguments that a constructor needs."""
    if name in Algorithm.known:
        return {"policy": _MODEL, "env": "TextGen/Copy-v0", "num_envs": 2, "episodes_per_update": 2}
    if name.endswith(("Observation", "Action")):
        return {"env": _envs()[name.startswith("Vector")]}
    return {
        "Policy": {"model": _policy().model, "tokenizer": "stories"},
        "Policy.from_config": {"config": _MODEL, "tokenizer": "stories"},
        "Policy.fresh": {"tokenizer": "stories"},
    }.get(name, {})


_WORDS = ["", "sparse", "word", "linear", "adam", "sentiment", "bleu", "copy", "stories", "train", "ansi", "SameStep",
          "llama", "t5", "cpu", "bfloat16"]  # fmt: skip
_KEYS = [
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "r",
    "novelty",
    "rnd",
    "every",
    "delayed",
    "shaped",
    "gamma",
    "sum",
    "product",
    "min",
    "guard",
    "reward",
    "length",
    "target",
    "weight",
]

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-100, 100),
    st.floats(-100, 100),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, 5e-324]),
    st.sampled_from(_WORDS),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.builds(object),
)
junk = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(
            st.one_of(st.sampled_from(_KEYS), st.sampled_from(_WORDS), st.text(max_size=3)), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
"""A value of any kind."""


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draws a constructor's name and arguments for it: those that it needs, and up to three others."""
    name = draw(st.sampled_from(sorted(CONSTRUCTORS)))
    constructor = Policy.adapt if name == "Policy.adapt" else CONSTRUCTORS[name]
    parameters = [
        parameter
        for parameter in signature(constructor).parameters.values()
        if parameter.name != "self" and parameter.kind is not Parameter.VAR_KEYWORD
    ]
    known = [parameter.name for parameter in parameters]
    if name in Algorithm.known:
        known += [field.name for field in fields(Algorithm.known[name].config)]
    needed = [parameter.name for parameter in parameters if parameter.default is Parameter.empty]
    others = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    sensible = _sensible(name) if draw(st.booleans()) else {}
    return name, {**{argument: draw(junk) for argument in dict.fromkeys([*needed, *others])}, **sensible}


_KINDS = (ValueError, TypeError, ImportError)


def check(name: str, arguments: dict[str, Any]) -> str:
    """Calls a constructor.

    Args:
        name: The constructor's name.
        arguments: Its arguments.

    Returns:
        "made", or the name of the error that it raised: a ValueError, a TypeError, Gymnasium's own error, or an
        ImportError where a library is needed that is not installed. Any other exception comes through.

    Raises:
        AssertionError: If the error has no message.
    """
    try:
        with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):  # a text may look like a name on the Hub
            made = CONSTRUCTORS[name](**arguments)
    except (*_KINDS, gym.error.Error) as error:
        if not str(error):
            raise AssertionError(
                f"Expected {name} to say what is wrong, got an empty {type(error).__name__}"
            ) from error
        return next(kind.__name__ for kind in (*_KINDS, gym.error.Error) if isinstance(error, kind))
    if isinstance(made, (textenvs.TextGenEnv, textenvs.TextGenVectorEnv)):
        made.close()
    return "made"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Call public constructors with values of any kind."""

    draws: int = 10_000
    """Number of calls."""
    quick: bool = False
    """A hundred calls, to see that all of it works."""
    output: Path = RESULTS / "fuzz"
    """Name of the results: a .json and a .md file."""


def main(argv: Sequence[str]) -> None:
    """Draws, calls, counts, and writes the table.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks fuzz")
    counts: Counter[tuple[str, str]] = Counter()
    slowest: tuple[float, str] = (0.0, "")

    @settings(
        max_examples=100 if arguments.quick else arguments.draws, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls())
    def run(call: tuple[str, dict[str, Any]]) -> None:
        nonlocal slowest
        began = time.perf_counter()
        counts[call[0], check(*call)] += 1
        slowest = max(slowest, (time.perf_counter() - began, call[0]))

    about = machine("torch", "transformers", "hypothesis")
    run()
    results = {
        "command": command_line("fuzz", argv),
        "machine": about,
        "slowest": {"constructor": slowest[1], "seconds": slowest[0]},
        "rows": [
            {"constructor": name, "outcome": outcome, "draws": count}
            for (name, outcome), count in sorted(counts.items())
        ],
    }
    write(arguments.output, results, page(results))


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    counts = {(row["constructor"], row["outcome"]): row["draws"] for row in results["rows"]}
    note = (
        f"{sum(counts.values()):,} draws, none of which ended in another exception than a ValueError, a TypeError, an "
        "ImportError where a library is not installed, or Gymnasium's own. The slowest took "
        f"{results['slowest']['seconds']:.1f} s ({results['slowest']['constructor']})."
    )
    outcomes = ("made", *(kind.__name__ for kind in _KINDS), gym.error.Error.__name__)
    cells = [[name, *(counts.get((name, outcome), 0) for outcome in outcomes)] for name in sorted(CONSTRUCTORS)]
    header = ["constructor", "made", "ValueError", "TypeError", "ImportError", "Gymnasium's"]
    lines = heading("Public constructors, called with values of any kind", results, note)
    return "\n".join([*lines, *table(header, cells)]) + "\n"
