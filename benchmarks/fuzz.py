"""Do public constructors refuse what makes no sense with a ValueError or a TypeError, and never with another exception?

Each draw takes one constructor and gives some of its arguments values of any kind. Numbers stay below a hundred, since
what is asked for is made: a million lanes are no error.

    python -m benchmarks fuzz
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import textenvs
from agents import ActorCriticConfig, BestOfNConfig, PPOConfig, REINFORCEConfig, SFTConfig
from agents.config import OptimizerConfig, RunConfig
from agents.evaluation import EvaluationPlan
from agents.optimization import schedule
from agents.preferences import PreferenceConfig
from agents.sampling import Truncation

RESULTS = Path(__file__).parent / "results"

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
    "schedule": schedule,
}
"""Name to constructor."""

_WORDS = ["", "sparse", "word", "linear", "adam", "sentiment", "bleu", "copy", "stories", "train", "ansi", "SameStep"]
_KEYS = [
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
    parameters = signature(CONSTRUCTORS[name]).parameters.values()
    known = [one.name for one in parameters]
    needed = [one.name for one in parameters if one.default is Parameter.empty]
    others = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    return name, {one: draw(junk) for one in dict.fromkeys([*needed, *others])}


def check(name: str, arguments: dict[str, Any]) -> str:
    """Call a constructor. Anything but a ValueError, a TypeError or Gymnasium's own error comes through.

    Args:
        name: Its name.
        arguments: Its arguments.

    Returns:
        "made", or the name of the error that it raised.
    """
    try:
        made = CONSTRUCTORS[name](**arguments)
    except (ValueError, TypeError, gym.error.Error) as error:
        if not str(error):
            raise AssertionError(
                f"Expected {name} to say what is wrong, got an empty {type(error).__name__}"
            ) from error
        return type(error).__name__
    if isinstance(made, (gym.Env, gym.vector.VectorEnv)):
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
        f"{sum(counts.values()):,} draws, none of which ended in another exception than a ValueError, a TypeError or",
        f"Gymnasium's own. The slowest took {slowest[0]:.1f} s ({slowest[1]}).",
        "",
        "| constructor | made | ValueError | TypeError | Gymnasium's |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(CONSTRUCTORS):
        found = {kind: count for (one, kind), count in counts.items() if one == name}
        rest = sum(count for kind, count in found.items() if kind not in ("made", "ValueError", "TypeError"))
        cells = [found.get(kind, 0) for kind in ("made", "ValueError", "TypeError")]
        lines.append(f"| {name} | {' | '.join(str(cell) for cell in [*cells, rest])} |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
