"""Experiments as data: which environments, from which start model, for how many tokens.

A suite is fixed, so that a row of somebody's results means the same as a row of ours. Budgets are in environment tokens
(actions, EOS included), which every algorithm pays alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAYOUTS = ("immediate", "sparse")

DIAGNOSTICS = (
    "Copy", "Reverse", "Sort", "DelayedCue", "Chain", "Password", "Needle", "Brackets", "Arithmetic", "Length",
)  # fmt: skip
LANGUAGE = (
    "Stories", "Dialogue", "SummarizeExtractive", "SummarizeAbstractive", "Translate", "QuestionAnswering", "Classify",
    "Recommend", "Write", "Sentiment",
)  # fmt: skip

UNTRAINED = ("start", "random", "demonstrations")
"""Agents that do not learn."""

ROOT = Path(__file__).resolve().parents[2]
"""The project."""

SHARED = Path(os.path.abspath(os.environ.get("TEXTENVS_SHARED") or ROOT.parent / "shared"))
"""Where models and data lie that are not part of the project."""


@dataclass(frozen=True)
class Experiment:
    """One environment, start model and budget.

    Attributes:
        env: A registered id.
        payout: When the score is paid.
        tokens: The budget of a run.
        model: The start model: "tiny", or a folder.
        env_kwargs: More arguments of the environment.
        name: What tables call it.
        episodes: Test episodes after training, on the ordinary test split, and as many on the shifted one.
    """

    env: str
    payout: str
    tokens: int
    model: str = "tiny"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    episodes: int = 200

    def __post_init__(self) -> None:
        """Name it after its task."""
        if not self.name:
            object.__setattr__(self, "name", self.env.removeprefix("TextGen/").removesuffix("-v0"))

    @property
    def kwargs(self) -> dict[str, Any]:
        """What `gym.make` gets."""
        return {**self.env_kwargs, "payout": self.payout}

    @property
    def model_name(self) -> str:
        """The start model as rows call it, the same from any working directory and on any machine.

        A folder's path from the project's root, and what lies in `SHARED` as if that were beside the project.
        """
        if self.model == "tiny":
            return self.model
        folder = Path(os.path.abspath(self.model))
        if folder.is_relative_to(SHARED):
            return ("../shared" / folder.relative_to(SHARED)).as_posix()
        return Path(os.path.relpath(folder, ROOT)).as_posix()

    def missing(self) -> str | None:
        """Why it cannot be run here, or None."""
        paths = [self.model] if self.model != "tiny" else []
        task = self.env_kwargs.get("task")
        if isinstance(task, Mapping):
            paths.append(task["dataset"]["path"])
        gone = [path for path in paths if not Path(path).exists()]
        return f"{gone[0]} is not there" if gone else None


@dataclass(frozen=True)
class Suite:
    """Some experiments.

    Attributes:
        name: What the command line calls it.
        about: What it is for, in a sentence.
        experiments: They.
        seeds: How many seeds a result wants.
    """

    name: str
    about: str
    experiments: tuple[Experiment, ...]
    seeds: int


def _of(names: tuple[str, ...], tokens: int, **settings: Any) -> tuple[Experiment, ...]:
    return tuple(Experiment(f"TextGen/{name}-v0", payout, tokens, **settings) for name in names for payout in PAYOUTS)


def _diagnostics() -> tuple[Experiment, ...]:
    """Needle's episodes read hundreds of tokens to write a few: one of its tokens costs as much as six elsewhere."""
    return tuple(one for name in DIAGNOSTICS for one in _of((name,), 40_000 if name == "Needle" else 100_000))


def _real() -> tuple[Experiment, ...]:
    found = []
    for name, preset in (("TinyStories", "tinystories"), ("SentencePolarity", "sentence_polarity")):
        task = {"dataset": {"path": str(SHARED / "data" / preset), "preset": preset}}
        model = str(SHARED / "models" / "stories260K")
        found += [Experiment("TextGen-v0", payout, 300_000, model, {"task": task}, name) for payout in PAYOUTS]
    return tuple(found)


@dataclass(frozen=True)
class Run:
    """One agent, experiment and seed.

    Attributes:
        suite: The suite's name.
        agent: As on the command line.
        experiment: What it learns.
        seed: The seed.
        max_seconds: It stops training after so many seconds, whatever is left of its budget; or None.
    """

    suite: str
    agent: str
    experiment: Experiment
    seed: int
    max_seconds: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        one = self.experiment
        return self.suite, self.agent, one.name, one.payout, one.tokens, self.seed, one.model_name, self.max_seconds

    @property
    def columns(self) -> dict[str, Any]:
        """What its row says of it."""
        one = self.experiment
        return {
            "suite": self.suite, "agent": self.agent, "env": one.name, "env_id": one.env, "payout": one.payout,
            "budget": one.tokens, "seed": self.seed, "model": one.model_name, "max_seconds": self.max_seconds,
        }  # fmt: skip


SUITES = {
    suite.name: suite
    for suite in (
        Suite("smoke", "Does everything run? About a minute.", _of(("Length", "Brackets"), 4_000, episodes=50), 2),
        Suite("diagnostics", "Every diagnostic task, one ability each.", _diagnostics(), 5),
        Suite("language", "Every language task, from the bundled model.", _of(LANGUAGE, 300_000), 5),
        Suite("real", "A model and texts that this project did not make (../shared).", _real(), 5),
    )
}
"""Name to suite."""


def is_own(suite: str, env: str, budget: int, model: str, max_seconds: float | None) -> bool:
    """Whether a run had the budget, whole, and the start model that its suite gives to its environment.

    Args:
        suite: The suite's name.
        env: What tables call the environment.
        budget: Its tokens.
        model: Its start model, as rows call it.
        max_seconds: After how many seconds it had to stop, or None.

    Returns:
        Whether it had; False for a suite or an environment that there is not.
    """
    experiments = SUITES[suite].experiments if suite in SUITES and max_seconds is None else ()
    return any((one.name, one.tokens, one.model_name) == (env, budget, model) for one in experiments)
