"""Do public constructors refuse what makes no sense with a ValueError or a TypeError, and never with another exception?

Each draw takes one constructor and gives some of its arguments values of any kind. What it cannot do without is a value
that makes sense, half of the time, so that the others are looked at. Numbers stay below a hundred, since what is asked
for is made: a million lanes are no error.

    python -m benchmarks fuzz
"""

from __future__ import annotations

import json
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
from benchmarks.records import RESULTS
from textenvs import wrappers

CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    **{
        one.__name__: one
        for one in (
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
    **{one.name: one for one in (PPO, ActorCritic, REINFORCE, BestOfN)},
    **{
        one.__name__: one
        for one in (
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
    """Arguments that a constructor cannot do without, as they should be."""
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
    """A constructor's name, and arguments for it: those that it needs, and up to three others."""
    name = draw(st.sampled_from(sorted(CONSTRUCTORS)))
    constructor = Policy.adapt if name == "Policy.adapt" else CONSTRUCTORS[name]
    parameters = [
        one
        for one in signature(constructor).parameters.values()
        if one.name != "self" and one.kind is not Parameter.VAR_KEYWORD
    ]
    known = [one.name for one in parameters]
    if name in Algorithm.known:
        known += [one.name for one in fields(Algorithm.known[name].config)]
    needed = [one.name for one in parameters if one.default is Parameter.empty]
    others = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    sensible = _sensible(name) if draw(st.booleans()) else {}
    return name, {**{one: draw(junk) for one in dict.fromkeys([*needed, *others])}, **sensible}


_KINDS = (ValueError, TypeError, ImportError)


def check(name: str, arguments: dict[str, Any]) -> str:
    """Call a constructor. Anything but a ValueError, a TypeError or Gymnasium's own error comes through.

    So does not an ImportError, where a folder is named that takes a library which is not installed.

    Args:
        name: Its name.
        arguments: Its arguments.

    Returns:
        "made", or the name of the error that it raised.
    """
    try:
        with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):  # a name may look like one of the Hub's
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
    """How many calls."""
    output: Path = RESULTS / "fuzz"
    """Where to write .md and .json."""


def main(argv: Sequence[str]) -> None:
    """Draw, call, count, and write the table.

    Args:
        argv: The command's words.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks fuzz")
    counts: Counter[tuple[str, str]] = Counter()
    slowest = [0.0, ""]

    @settings(
        max_examples=arguments.draws, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls())
    def run(call: tuple[str, dict[str, Any]]) -> None:
        began = time.perf_counter()
        counts[call[0], check(*call)] += 1
        slowest[:] = max(slowest, [time.perf_counter() - began, call[0]])

    run()
    rows = [{"constructor": name, "outcome": found, "draws": count} for (name, found), count in sorted(counts.items())]
    command = f"python -m benchmarks fuzz {' '.join(argv)}".strip()
    lines = [
        "# Public constructors, called with values of any kind",
        "",
        f"    {command}",
        "",
        f"{sum(counts.values()):,} draws, none of which ended in another exception than a ValueError, a TypeError, an",
        "ImportError where a library is not installed, or Gymnasium's own.",
        f"The slowest took {slowest[0]:.1f} s ({slowest[1]}).",
        "",
        "| constructor | made | ValueError | TypeError | ImportError | Gymnasium's |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(CONSTRUCTORS):
        found = {kind: count for (one, kind), count in counts.items() if one == name}
        cells = [found.get(kind, 0) for kind in ("made", *(kind.__name__ for kind in _KINDS), gym.error.Error.__name__)]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
