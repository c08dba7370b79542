"""Experiments as data: ids, budgets, seeds and start policies.

A suite is fixed, so that a row of somebody's results means the same as a row of ours. Budgets are in environment tokens
(actions, EOS included), which cost every algorithm the same.
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
BUNDLED = ("reinforce", "actor_critic", "ppo")
"""Agents that a suite is run with where nothing else is said."""

ROOT = Path(__file__).resolve().parents[2]
"""The project."""

SHARED = Path(os.path.abspath(os.environ.get("TEXTENVS_SHARED") or ROOT.parent / "shared"))
"""The folder of models and data that are not part of the project."""

RANDOM_WEIGHTS = "random weights: "
"""Begins the name of a start model that is made from a config."""


def folder_name(folder: Path, shared: Path = SHARED) -> str:
    """Returns the name of a folder in results: its path from the project's root.

    Args:
        folder: The folder.
        shared: A folder that is named as if it were beside the project.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_relative_to(shared):
        return ("../shared" / folder.relative_to(shared)).as_posix()
    return Path(os.path.relpath(folder, ROOT)).as_posix()


@dataclass(frozen=True)
class Experiment:
    """One environment, start policy and budget.

    Attributes:
        env: A registered id.
        payout: When the score is paid.
        tokens: The budget of a run.
        model: The start model: "tiny", a folder, or the config of a new one with random weights.
        env_kwargs: More arguments of the environment.
        name: The name in tables, unique in a suite and without commas. By default the task's.
        episodes: Test episodes after training, on the ordinary test split, and as many on the shifted one.
        policy_kwargs: Arguments of `Policy.adapt`: `{"lora": 8}`, say.
        sft: Settings of supervised fine-tuning (`SFTConfig`) on the task's demonstrations, which comes before the start
            of each run, with the run's seed. Without any there is none.
    """

    env: str
    payout: str
    tokens: int
    model: str | Mapping[str, Any] = "tiny"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    episodes: int = 200
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sft: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Names it after its task."""
        if not self.name:
            object.__setattr__(self, "name", self.env.removeprefix("TextGen/").removesuffix("-v0"))

    @property
    def kwargs(self) -> dict[str, Any]:
        """All arguments of the environment."""
        return {**self.env_kwargs, "payout": self.payout}

    @property
    def folder(self) -> Path | None:
        """The folder of the start model, or None where it has none."""
        return Path(self.model) if isinstance(self.model, str) and self.model != "tiny" else None

    @property
    def model_name(self) -> str:
        """The start model as rows name it, the same from any working directory and on any machine."""
        if self.folder is None:
            return self.model if isinstance(self.model, str) else RANDOM_WEIGHTS + str(self.model["model_type"])
        return folder_name(self.folder)

    def missing(self) -> str | None:
        """Returns the reason why it cannot be run here, or None."""
        paths = [] if self.folder is None else [self.folder]
        task, data = self.env_kwargs.get("task"), self.env_kwargs.get("data")
        if isinstance(task, Mapping):
            data = next(iter(task.values())).get("data", data)
        if data is not None:
            paths.append(Path(data))
        absent = [path for path in paths if not path.exists()]
        return f"{absent[0]} is not there" if absent else None


@dataclass(frozen=True)
class Suite:
    """Experiments that answer one question together.

    Attributes:
        name: The name on the command line.
        about: Its purpose, in a sentence.
        experiments: The experiments.
        seeds: Number of seeds that a result needs.
        agents: The agents that take part where the command names none.
    """

    name: str
    about: str
    experiments: tuple[Experiment, ...]
    seeds: int
    agents: tuple[str, ...] = BUNDLED


@dataclass(frozen=True)
class Run:
    """One agent, experiment and seed.

    Attributes:
        suite: The suite's name.
        agent: The agent, as on the command line.
        experiment: The experiment.
        seed: The seed.
        max_seconds: Training stops after this many seconds, whatever is left of its budget. None: no limit.
    """

    suite: str
    agent: str
    experiment: Experiment
    seed: int
    max_seconds: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Tells it from other runs."""
        experiment = self.experiment
        return (
            self.suite, self.agent, experiment.name, experiment.payout, experiment.tokens, self.seed,
            experiment.model_name, self.max_seconds,
        )  # fmt: skip

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of its row that are known before it begins."""
        experiment = self.experiment
        start = {"policy_kwargs": dict(experiment.policy_kwargs), "sft": dict(experiment.sft)}
        return {
            "suite": self.suite, "agent": self.agent, "env": experiment.name, "env_id": experiment.env,
            "payout": experiment.payout, "budget": experiment.tokens, "seed": self.seed,
            "model": experiment.model_name, "max_seconds": self.max_seconds,
            **{name: settings for name, settings in start.items() if settings},
        }  # fmt: skip


# The experiments of each suite ----------------------------------------------------------------------------------------


def _tasks(names: tuple[str, ...], tokens: int, **settings: Any) -> tuple[Experiment, ...]:
    """Makes two experiments of each task, one for each payout."""
    return tuple(Experiment(f"TextGen/{name}-v0", payout, tokens, **settings) for name in names for payout in PAYOUTS)


def _diagnostics() -> tuple[Experiment, ...]:
    # Needle's episodes read hundreds of tokens to write a few: one of its tokens costs as much as six elsewhere.
    return tuple(
        experiment
        for name in DIAGNOSTICS
        for experiment in _tasks((name,), 40_000 if name == "Needle" else 100_000)
    )  # fmt: skip


def _real() -> tuple[Experiment, ...]:
    experiments = []
    for name, folder in (("TinyStories", "tinystories"), ("Polarity", "sentence_polarity")):
        data = {"data": str(SHARED / "data" / folder)}
        experiments += [
            Experiment(f"TextGen/{name}-v0", payout, 300_000, _STORIES_260K, data, name) for payout in PAYOUTS
        ]
    return tuple(experiments)


def _sentiment() -> tuple[Experiment, ...]:
    stories = {"data": str(SHARED / "data" / "tinystories" / "stories.jsonl"), "prompt_tokens": 16}
    env_kwargs = {"task": {"dataset": stories}, "reward": "sentiment"}
    return tuple(
        Experiment("TextGen-v0", payout, 300_000, _STORIES_260K, env_kwargs, "TinyStories", 300) for payout in PAYOUTS
    )


def _policies() -> tuple[Experiment, ...]:
    happy = {"reward": "sentiment"}
    return (
        *(
            Experiment("TextGen/Copy-v0", "immediate", 400_000, config, name=f"Copy-{name}", episodes=300)
            for name, config in _MODELS.items()
        ),
        Experiment("TextGen-v0", "immediate", 50_000, "tiny", happy, "Stories", 300),
        Experiment("TextGen-v0", "immediate", 50_000, "tiny", happy, "Stories-LoRA", 300, {"lora": 8}),
    )


def _warm_start() -> tuple[Experiment, ...]:
    # With so few demonstrations a pass has few steps, so batches are small and passes many.
    sft = {"demonstrations": 256, "epochs": 16, "batch_size": 16, "learning_rate": 2e-3}
    return tuple(
        Experiment(f"TextGen/{task}-v0", "immediate", 120_000, name=task + ending, episodes=300, sft=settings)
        for task in ("Translate", "QuestionAnswering")
        for ending, settings in (("", {}), ("-SFT", sft))
    )


def _sb3() -> tuple[Experiment, ...]:
    # MaskablePPO may write letters and EOS alone: all tokens but "=".
    letters = {"action_mask": {"regex": "[a-h]*"}}
    return (
        Experiment("TextGen/Copy-v0", "immediate", 300_000),
        Experiment("TextGen/Copy-v0", "immediate", 300_000, env_kwargs=letters, name="Copy-letters"),
    )


_STORIES_260K = str(SHARED / "models" / "stories260K")

_MODELS: dict[str, dict[str, Any]] = {
    "Llama": {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "T5": {
        "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4,
        "tie_word_embeddings": False, "initializer_factor": 0.1,
    },
    "BART": {
        "model_type": "bart", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64,
        "init_std": 0.1,
    },
    "LSTM": {"model_type": "lstm_lm", "hidden_size": 128, "num_hidden_layers": 1},
}  # fmt: skip
"""One small model of each kind of policy."""

_BASELINES = (
    "reinforce", "reinforce[baseline=none]", "reinforce[baseline=moving_average]", "reinforce[baseline=greedy]",
    "reinforce[baseline=leave_one_out;group_size=4]", "reinforce[baseline=group;group_size=4]",
    "reinforce[baseline=value]",
)  # fmt: skip
_ON_POLICY = "gae_lambda=1.0;ent_coef=0.05;learning_rate=0.001;n_steps=8"
"""Settings of Stable-Baselines3 with which it learns Copy."""

SUITES = {
    suite.name: suite
    for suite in (
        Suite("smoke", "Does everything run? About a minute.", _tasks(("Length", "Brackets"), 4_000, episodes=50), 2),
        Suite("diagnostics", "Every diagnostic task, one ability each.", _diagnostics(), 5),
        Suite("language", "Every language task, from the bundled model.", _tasks(LANGUAGE, 300_000), 5),
        Suite("real", "A model and texts that this project did not make (../shared).", _real(), 5),
        Suite(
            "fresh", "In how many tokens do the defaults learn Copy from random weights, with each baseline?",
            _tasks(("Copy",), 300_000, episodes=300), 5, ("ppo", "actor_critic", *_BASELINES),
        ),
        Suite(
            "sentiment", "Does stories260K sound happier on held-out prompts, and at what price in KL and diversity?",
            _sentiment(), 3, ("start", *BUNDLED, *(f"{agent}[kl_coef=0.0]" for agent in BUNDLED)),
        ),
        Suite(
            "policies", "Does every kind of policy learn?",
            _policies(), 1, ("start", "ppo", "ppo[learning_rate=0.003]"),
        ),
        Suite(
            "warm_start", "Does PPO gain from supervised fine-tuning before it?",
            _warm_start(), 3, ("start", "ppo[num_envs=64;episodes_per_update=64]"),
        ),
        Suite(
            "sb3", "Do Stable-Baselines3's algorithms learn Copy on our policy and lanes?",
            _sb3(), 1,
            (
                "ppo", f"sb3_ppo[{_ON_POLICY};batch_size=256;n_epochs=4]",
                f"sb3_a2c[{_ON_POLICY};normalize_advantage=True]",
                f"sb3_maskable_ppo[{_ON_POLICY};batch_size=256;n_epochs=4]",
            ),
        ),
    )
}  # fmt: skip
"""Name to suite."""


def is_own(suite: str, env: str, budget: int, model: str, max_seconds: float | None) -> bool:
    """Returns True if a run had the whole budget and the start model that its suite gives to its environment.

    Args:
        suite: The suite's name.
        env: The experiment's name in tables.
        budget: Its tokens.
        model: Its start model, as rows name it.
        max_seconds: The limit on its training, or None.

    Returns:
        False also for an unknown suite or environment.
    """
    experiments = SUITES[suite].experiments if suite in SUITES and max_seconds is None else ()
    return any((known.name, known.tokens, known.model_name) == (env, budget, model) for known in experiments)
